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
