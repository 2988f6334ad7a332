"""Calls a program's functions when its guest stops at a breakpoint, panics or ends."""

from collections.abc import Callable
from typing import Any, Final, TypeAlias

from ringlet.control.inside import Inside, Memory, NoKernelYet
from ringlet.debug.stops import MAX_BREAKPOINTS
from ringlet.errors import ConfigError, RingletError
from ringlet.machine.outcome import End
from ringlet.machine.place import program_counter
from ringlet.vcpu.debug.stops import DebugReason

Handler: TypeAlias = Callable[..., object]
EVENTS: Final = ("break:SYMBOL", "break:0xADDRESS", "panic", "exit")
_BREAK: Final = "break:"


class Events:
    """The handlers of a machine's events.

    Those of breakpoints run on the guest's thread, while the guest stands still.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._ends: dict[str, list[Handler]] = {"panic": [], "exit": []}
        self._breaks: dict[str, list[Handler]] = {}
        self._addresses: dict[str, int] = {}

    def add(self, event: str, handler: Handler) -> bool:
        """Add a handler and return whether it is one of a breakpoint.  Raises ConfigError."""
        if event in self._ends:
            self._ends[event].append(handler)
            return False
        place = event.removeprefix(_BREAK)
        if place == event or not place:
            raise ConfigError(f"{event!r}: no such event; there are {', '.join(EVENTS)}")
        if place not in self._breaks and len(self._breaks) == MAX_BREAKPOINTS:
            raise ConfigError(f"{event}: there are {MAX_BREAKPOINTS} breakpoints, the most")
        address = _number(place)
        self._breaks.setdefault(place, []).append(handler)
        if address is not None:
            self._addresses[place] = address
        return True

    @property
    def resolved(self) -> bool:
        """Return whether there are breakpoints whose address is known."""
        return bool(self._addresses)

    @property
    def unresolved(self) -> bool:
        """Return whether there are breakpoints whose address is not known yet."""
        return len(self._addresses) < len(self._breaks)

    def moved(self) -> None:
        """Forget the addresses of all symbols: another kernel starts."""
        numbers = {place: _number(place) for place in self._breaks}
        self._addresses = {place: at for place, at in numbers.items() if at is not None}

    def resolve(self) -> None:
        """Find the addresses of breakpoints.  Raises ConfigError for those that cannot be found."""
        for place in sorted(self._breaks.keys() - self._addresses.keys()):
            try:
                self._addresses[place] = self._address(place)
            except NoKernelYet:
                raise
            except ConfigError:
                del self._breaks[place]
                raise

    def set_breakpoints(self, cpu: Any) -> None:
        """Give the processor the breakpoints whose addresses are known."""
        cpu.set_breakpoints([*self._addresses.values()])

    def _address(self, place: str) -> int:
        name, plus, offset = place.partition("+")
        try:
            return self._memory.symbol(name) + (int(offset, 0) if plus else 0)
        except ValueError:
            raise _no_place(place) from None

    def hit(self, address: int) -> None:
        """Call the handlers of the breakpoint at `address`."""
        for place, at in [*self._addresses.items()]:
            if at == address:
                for handler in self._breaks[place]:
                    handler()

    def ended(self, end: End | None, panic: RingletError | None) -> None:
        """Call the handlers of the guest's end."""
        if panic is not None:
            for handler in self._ends["panic"]:
                handler(panic)
        for handler in self._ends["exit"]:
            handler(end)


def _number(place: str) -> int | None:
    """Return the address that `place` is, or None for a symbol.  Raises ConfigError."""
    if not place.startswith("0x"):
        return None
    try:
        address = int(place, 16)
    except ValueError:
        raise _no_place(place) from None
    if address >> 64:
        raise ConfigError(f"{_BREAK}{place}: does not fit in 64 bits")
    return address


def _no_place(place: str) -> ConfigError:
    return ConfigError(f"{_BREAK}{place}: give a symbol or a number such as 0xff")


class Stops:
    """The machine's debugger: passes the breakpoints that the guest hits to `events`."""

    def __init__(
        self, cpu: Inside, events: Events, on_failure: Callable[[Exception], object]
    ) -> None:
        self._cpu: Any = cpu
        self._events = events
        self._on_failure = on_failure

    def trapped(self) -> None:
        """Handle a stop of the processor, and let it go on."""
        reason, _ = self._cpu.debug_stop()
        if reason == DebugReason.DEBUG_BREAKPOINT:
            try:
                self._events.hit(program_counter(self._cpu))
            except Exception as error:  # noqa: BLE001 - of a program's function
                self._on_failure(error)
        self._cpu.debug_go(False, True)

    def dying(self, end: End) -> None:
        """Do nothing before the run ends with `end`; the event "exit" tells of it."""
