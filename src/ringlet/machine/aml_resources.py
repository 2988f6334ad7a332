"""An encoder for resource descriptors (ACPI 6.4, chapter 6.4), for `resources`."""

import struct
from typing import Final

from ringlet.machine import aml

# Address space descriptors: resource types and flags
_MEMORY: Final = 0
_IO: Final = 1
_BUS: Final = 2
_FIXED_RANGE: Final = 0x0C  # minimum and maximum are fixed; decodes positively; producer
_IO_ENTIRE_RANGE: Final = 0x03
_MEMORY_WRITABLE: Final = 0x01

# An extended interrupt descriptor (6.4.3.6)
_CONSUMER: Final = 1 << 0
_ACTIVE_LOW: Final = 1 << 2  # and level-triggered: bit 1 is 0
_SHARED: Final = 1 << 3
INTERRUPT_NUMBER: Final = 5
"""The offset of the first number in a descriptor of `pci_interrupts`."""


def resources(*descriptors: bytes) -> bytes:
    """Return the buffer for a _CRS.  The checksum 0 in its end tag means that there is none."""
    return aml.buffer(b"".join(descriptors) + b"\x79\x00")


def io_ports(base: int, count: int) -> bytes:
    """Return a descriptor of a device's ports, decoded in 16 bits."""
    return struct.pack("<BBHHBB", 0x47, 1, base, base, 1, count)


def irq(number: int) -> bytes:
    """Return a descriptor of an edge-triggered, active-high ISA interrupt."""
    return struct.pack("<BH", 0x22, 1 << number)


def pci_interrupts(*numbers: int) -> bytes:
    """Return a descriptor of PCI's interrupts: one that is in use, or those that are possible."""
    flags = _CONSUMER | _ACTIVE_LOW | _SHARED
    body = struct.pack(f"<BB{len(numbers)}I", flags, len(numbers), *numbers)
    return struct.pack("<BH", 0x89, len(body)) + body


def fixed_memory(base: int, size: int) -> bytes:
    """Return a descriptor of a device's readable and writable memory below 4 GiB."""
    return struct.pack("<BHBII", 0x86, 9, 1, base, size)


def bus_numbers(first: int, last: int) -> bytes:
    """Return a descriptor of the bus numbers that a bridge forwards."""
    return _word_range(_BUS, 0, first, last)


def io_window(first: int, last: int) -> bytes:
    """Return a descriptor of the ports that a bridge forwards."""
    return _word_range(_IO, _IO_ENTIRE_RANGE, first, last)


def memory_window(first: int, last: int) -> bytes:
    """Return a descriptor of memory that a bridge forwards, below 4 GiB or anywhere."""
    length = last - first + 1
    head = (_MEMORY, _FIXED_RANGE, _MEMORY_WRITABLE, 0, first, last, 0, length)
    if last < 1 << 32:
        return struct.pack("<BHBBB5I", 0x87, 23, *head)
    return struct.pack("<BHBBB5Q", 0x8A, 43, *head)


def _word_range(kind: int, flags: int, first: int, last: int) -> bytes:
    length = last - first + 1
    # A window of all 65,536 ports does not fit in the descriptor, and is not needed.
    return struct.pack("<BHBBB5H", 0x88, 13, kind, _FIXED_RANGE, flags, 0, first, last, 0, length)
