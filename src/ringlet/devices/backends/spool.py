"""Gathers output for the host, because a system call for each byte costs more than the byte."""

from collections.abc import Callable
from typing import Final

from ringlet.devices.wiring import Clock

DELAY_NS: Final = 1_000_000
"""The longest time that a byte may wait for others."""
LIMIT: Final = 1 << 14
"""The most bytes that may wait."""

_Sink = Callable[[bytes], None]


class Spool:
    """Passes on the output of serial ports in its order, up to `DELAY_NS` later.

    The spool is one of the machine's timers (`ringlet.machine.timers`): it calls `changed` when
    `next_event` becomes earlier.  Exceptions of a sink reach the caller of `flush`.
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
        """Pass all bytes to their sinks."""
        self._due = None
        self._hand_over()

    def _hand_over(self) -> None:
        if self._bytes and self._sink is not None:
            data = bytes(self._bytes)
            self._bytes.clear()
            self._sink(data)

    def update(self) -> None:
        """Pass the bytes to their sinks if they have waited long enough."""
        if self._due is not None and self._clock() >= self._due:
            self.flush()

    def tick(self) -> int | None:
        """Do `update` and return `next_event`."""
        self.update()
        return self._due

    def next_event(self) -> int | None:
        """Return the time at which bytes must be passed on; None if there are none."""
        return self._due
