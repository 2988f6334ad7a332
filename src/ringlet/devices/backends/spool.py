"""Output on its way to the host, gathered: a system call for each byte costs more than the byte."""

from collections.abc import Callable
from typing import Final

from ringlet.devices.wiring import Clock

DELAY_NS: Final = 1_000_000
"""How long a byte may wait for others."""
LIMIT: Final = 1 << 14
"""How many may wait, bytes."""

_Sink = Callable[[bytes], None]


class Spool:
    """What serial ports send, in the order in which they sent it, but up to `DELAY_NS` later.

    It is one of the machine's timers (`ringlet.machine.timers`): `changed` is called when
    `next_event` is earlier than before.  What a sink raises, whoever flushes gets.
    """

    def __init__(self, clock: Clock, changed: Callable[[], None]) -> None:
        self._clock = clock
        self._changed = changed
        self._due: int | None = None
        self._sink: _Sink | None = None
        self._bytes = bytearray()

    def before(self, sink: _Sink) -> _Sink:
        """Return a sink that gathers bytes for `sink`."""

        def gather(data: bytes) -> None:
            if self._sink is not sink:
                self._hand_over()
                self._sink = sink
            self._bytes += data
            if self._due is None:
                self._due = self._clock() + DELAY_NS
                self._changed()
            elif len(self._bytes) >= LIMIT:
                self._hand_over()

        return gather

    def flush(self) -> None:
        """Hand over what there is."""
        self._due = None
        self._hand_over()

    def _hand_over(self) -> None:
        if self._bytes and self._sink is not None:
            data = bytes(self._bytes)
            self._bytes.clear()
            self._sink(data)

    def update(self) -> None:
        """Hand it over if it has waited long enough."""
        if self._due is not None and self._clock() >= self._due:
            self.flush()

    def tick(self) -> int | None:
        """`update` and `next_event` in one."""
        self.update()
        return self._due

    def next_event(self) -> int | None:
        """Return when there is something to hand over; None if there is nothing."""
        return self._due
