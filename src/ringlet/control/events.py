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
        self._places: dict[int, str] = {}

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
        self._breaks.setdefault(place, []).append(handler)
        return True

    @property
    def unresolved(self) -> bool:
        """Return whether there are breakpoints whose address is not known yet."""
        return len(self._places) < len(self._breaks)

    def moved(self) -> None:
        """Forget all addresses: another kernel starts."""
        self._places.clear()

    def resolve(self) -> None:
        """Find the addresses of breakpoints.  Raises ConfigError for those that cannot be found."""
        known = set(self._places.values())
        for place in sorted(self._breaks.keys() - known):
            try:
                self._places[self._address(place)] = place
            except NoKernelYet:
                raise
            except ConfigError:
                del self._breaks[place]
                raise

    def set_breakpoints(self, cpu: Any) -> None:
        """Give the processor the breakpoints whose addresses are known."""
        cpu.set_breakpoints([*self._places])

    def _address(self, place: str) -> int:
        name, plus, offset = place.partition("+")
        try:
            if name.startswith("0x"):
                return int(name, 16)
            return self._memory.symbol(name) + (int(offset, 0) if plus else 0)
        except ValueError:
            raise ConfigError(f"{_BREAK}{place}: give a symbol or a number such as 0xff") from None

    def hit(self, address: int) -> None:
        """Call the handlers of the breakpoint at `address`."""
        for handler in self._breaks.get(self._places.get(address, ""), ()):
            handler()

    def ended(self, end: End | None, panic: RingletError | None) -> None:
        """Call the handlers of the guest's end."""
        if panic is not None:
            for handler in self._ends["panic"]:
                handler(panic)
        for handler in self._ends["exit"]:
            handler(end)


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
