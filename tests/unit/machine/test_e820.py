"""The memory map of a PC."""

import struct
from itertools import pairwise

import pytest

from ringlet.machine.e820 import ENTRY_SIZE, RangeType, memory_map, pack


def test_ram_is_usable_but_for_the_firmwares_places() -> None:
    usable = [(r.start, r.end) for r in memory_map(64 << 20) if r.type is RangeType.USABLE]

    assert usable == [(0, 0x9FC00), (0x100000, 64 << 20)]


def test_acpi_tables_place_is_reserved() -> None:
    reserved = [(r.start, r.end) for r in memory_map(64 << 20) if r.type is RangeType.RESERVED]

    assert reserved == [(0x9FC00, 0xA0000), (0xE0000, 0x100000)]


def test_ranges_are_in_order_and_apart() -> None:
    for size in (3 << 30, 4 << 30):
        ranges = memory_map(size)

        assert all(a.start < a.end <= b.start < b.end for a, b in pairwise(ranges))


@pytest.mark.parametrize(
    ("size", "ends"),
    [
        (64 << 20, [64 << 20]),
        (3 << 30, [3 << 30]),
        ((3 << 30) + 4096, [3 << 30, (4 << 30) + 4096]),
        (16 << 30, [3 << 30, 17 << 30]),
    ],
)
def test_ram_beyond_3_gib_goes_on_at_4_gib(size: int, ends: list[int]) -> None:
    usable = [r for r in memory_map(size) if r.type is RangeType.USABLE][1:]

    assert [r.end for r in usable] == ends
    assert [r.start for r in usable] == [1 << 20, 4 << 30][: len(ends)]


def test_packed_entries_have_base_length_and_type() -> None:
    packed = pack(memory_map(2 << 30))
    entries = list(struct.iter_unpack("<QQI", packed))

    assert len(packed) == 4 * ENTRY_SIZE
    assert entries[0] == (0, 0x9FC00, 1)
    assert entries[-1] == (0x100000, (2 << 30) - 0x100000, 1)
