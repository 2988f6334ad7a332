"""The memory map of a PC as firmware would report it (ACPI 6.5, section 15: INT 15h, E820h)."""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from ringlet.machine import address_map as at

ENTRY_SIZE: Final = 20


class RangeType(IntEnum):
    """The type of a range, which says how it may be used (ACPI 6.5, table 15.4)."""

    USABLE = 1
    RESERVED = 2


@dataclass(frozen=True, slots=True)
class Range:
    """Guest physical addresses from `start` up to, but not including, `end`."""

    start: int
    end: int
    type: RangeType


def ram_ends(memory_size: int) -> tuple[int, int]:
    """Return the end of the RAM from 0 on, and the end of the rest, which begins at 4 GiB."""
    low = min(memory_size, at.DEVICE_HOLE)
    return low, at.REST_OF_RAM + memory_size - low


def memory_map(memory_size: int) -> tuple[Range, ...]:
    """Return the map of a PC with `memory_size` bytes of RAM, which is more than 1 MiB.

    The firmware's area is reserved, so that the guest does not overwrite the ACPI tables in it.
    """
    low, high = ram_ends(memory_size)
    ranges = (
        Range(0, at.LOW_RAM_END, RangeType.USABLE),
        Range(at.LOW_RAM_END, at.VIDEO_MEMORY, RangeType.RESERVED),
        Range(at.FIRMWARE, at.HIGH_RAM, RangeType.RESERVED),
        Range(at.HIGH_RAM, low, RangeType.USABLE),
    )
    if high == at.REST_OF_RAM:
        return ranges
    return (*ranges, Range(at.REST_OF_RAM, high, RangeType.USABLE))


def pack(ranges: Iterable[Range]) -> bytes:
    """Return the entries in the format of the firmware's call: base, length, type."""
    return b"".join(struct.pack("<QQI", r.start, r.end - r.start, r.type) for r in ranges)
