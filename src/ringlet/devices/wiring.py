"""The interfaces of devices: ports, lines and a clock.

A device has no reference to the processor, the machine or another device.  It is built with the
lines that it drives and, if it needs the time, with a clock.  It offers port reads and writes, and
a state that can be saved and restored.
"""

from collections.abc import Callable
from typing import Protocol

Line = Callable[[bool], None]
"""An output pin: called with its level, which may be unchanged."""

Clock = Callable[[], int]
"""Returns nanoseconds since some fixed moment; the value never decreases."""

Message = Callable[[int, int], None]
"""A memory write that carries an interrupt: address FEEx_xxxxh and data (SDM 3A 11.11)."""


def unconnected(level: bool) -> None:
    """Do nothing: the line of an unconnected pin."""


def joined(*lines: Line) -> Line:
    """Return a line that drives all of `lines`."""

    def drive(level: bool) -> None:
        for line in lines:
            line(level)

    return drive


class PortDevice(Protocol):
    """A device on the port bus.

    `offset` counts bytes from where the device is mapped, `size` is 1, 2 or 4 bytes and never
    more than the width it was mapped with.
    """

    def read(self, offset: int, size: int) -> int: ...

    def write(self, offset: int, size: int, value: int) -> None: ...


class SharedLine:
    """A line that several devices drive; it is asserted while at least one of them asserts it."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._asserted = 0
        self._taps = 0

    def tap(self) -> Line:
        """Return a line for another device."""
        bit = 1 << self._taps
        self._taps += 1

        def drive(level: bool) -> None:
            before = self._asserted
            self._asserted = before | bit if level else before & ~bit
            if bool(self._asserted) is not bool(before):
                self._line(level)

        return drive
