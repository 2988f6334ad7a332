"""The memory map of a PC as its firmware would tell it (ACPI 6.5, section 15: INT 15h, E820h)."""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from ringlet.machine import address_map as at

ENTRY_SIZE: Final = 20


class RangeType(IntEnum):
    """What a range may be used for (ACPI 6.5, table 15.4)."""

    USABLE = 1
    RESERVED = 2


@dataclass(frozen=True, slots=True)
class Range:
    """Guest physical addresses from `start` up to, and without, `end`."""

    start: int
    end: int
    type: RangeType


def ram_ends(memory_size: int) -> tuple[int, int]:
    """Return where the RAM from 0 on ends, and where the rest of it, from 4 GiB on, does."""
    low = min(memory_size, at.DEVICE_HOLE)
    return low, at.REST_OF_RAM + memory_size - low


def memory_map(memory_size: int) -> tuple[Range, ...]:
    """Return the map of a PC with so much RAM, which is more than 1 MiB.

    The firmware's area is reserved, not usable, so that the ACPI tables in it stay as they are.
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
    """Return the entries as the firmware's call gives them: base, length, type."""
    return b"".join(struct.pack("<QQI", r.start, r.end - r.start, r.type) for r in ranges)
