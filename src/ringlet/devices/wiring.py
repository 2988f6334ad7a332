"""What a device is given and what it offers: ports, lines, a clock.

A device never sees the processor, the machine or another device.  It is built with the lines it
drives and, if time matters to it, with a clock; it offers port reads and writes and a state that
can be saved and restored.
"""

from collections.abc import Callable
from typing import Protocol

Line = Callable[[bool], None]
"""An output pin: called with its new level, perhaps the same as before."""

Clock = Callable[[], int]
"""Nanoseconds since any fixed moment, never going back."""

Message = Callable[[int, int], None]
"""A memory write that carries an interrupt: address FEEx_xxxxh and data (SDM 3A 11.11)."""


def unconnected(level: bool) -> None:
    """Be the line of a pin that is wired to nothing."""


class PortDevice(Protocol):
    """A device on the port bus.

    `offset` counts bytes from where the device is mapped, `size` is 1, 2 or 4 bytes and never
    more than the width it was mapped with.
    """

    def read(self, offset: int, size: int) -> int: ...

    def write(self, offset: int, size: int, value: int) -> None: ...


class SharedLine:
    """A line that several devices drive: asserted as long as one of them asserts it."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._asserted = 0
        self._taps = 0

    def tap(self) -> Line:
        """Return a line for one more device."""
        bit = 1 << self._taps
        self._taps += 1

        def drive(level: bool) -> None:
            before = self._asserted
            self._asserted = before | bit if level else before & ~bit
            if bool(self._asserted) is not bool(before):
                self._line(level)

        return drive
