"""The buses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringlet.errors import InternalError
from ringlet.machine.bus import REMEMBERED, MemoryBus, PortBus


class Recorder:
    """A device that answers with its name and records its accesses."""

    def __init__(self, name: int) -> None:
        self.name = name
        self.log: list[tuple[int, ...]] = []

    def read(self, offset: int, size: int) -> int:
        self.log.append((offset, size))
        return self.name << 4 | offset

    def write(self, offset: int, size: int, value: int) -> None:
        self.log.append((offset, size, value))


def test_access_reaches_the_device_with_its_offset() -> None:
    bus, device = PortBus(), Recorder(5)
    bus.map(0x3F8, 8, device)
    value = bus.read(0x3FD, 1)
    bus.write(0x3F9, 1, 0x42)

    assert value == 0x55
    assert device.log == [(5, 1), (1, 1, 0x42)]


def test_wide_access_to_a_byte_device_is_split() -> None:
    bus, device = PortBus(), Recorder(5)
    bus.map(0x40, 4, device)
    value = bus.read(0x40, 4)
    bus.write(0x40, 2, 0xBBAA)

    assert value == 0x53525150
    assert device.log[-2:] == [(0, 1, 0xAA), (1, 1, 0xBB)]


def test_wide_device_gets_the_access_whole() -> None:
    bus, device = PortBus(), Recorder(0)
    bus.map(0xF4, 4, device, width=4)
    bus.write(0xF4, 4, 0x12345678)

    assert device.log == [(0, 4, 0x12345678)]


def test_access_past_the_end_of_a_wide_device_is_split() -> None:
    bus, device, neighbour = PortBus(), Recorder(1), Recorder(2)
    bus.map(0x10, 2, device, width=4)
    bus.map(0x12, 1, neighbour)
    value = bus.read(0x11, 2)

    assert value == 0x2011


@pytest.mark.parametrize(("size", "ones"), [(1, 0xFF), (2, 0xFFFF), (4, 0xFFFFFFFF)])
def test_nothing_answers_at_an_unmapped_port(size: int, ones: int) -> None:
    bus = PortBus()
    bus.write(0x80, size, 0)

    assert bus.read(0x80, size) == ones


def test_half_mapped_access() -> None:
    bus = PortBus()
    bus.map(0x60, 1, Recorder(3))

    assert bus.read(0x60, 2) == 0xFF30


def test_the_last_port_wraps_to_the_first() -> None:
    bus = PortBus()
    bus.map(0, 1, Recorder(4))

    assert bus.read(0xFFFF, 2) == 0x40FF


def test_two_devices_at_one_port_are_refused() -> None:
    bus = PortBus()
    bus.map(0x60, 2, Recorder(1))

    with pytest.raises(InternalError, match="two devices"):
        bus.map(0x61, 1, Recorder(2))


def test_ports_that_do_not_exist_are_refused() -> None:
    with pytest.raises(InternalError, match="no such ports"):
        PortBus().map(0xFFFF, 2, Recorder(1))


def test_moved_ports_answer_at_their_new_place() -> None:
    bus, device = PortBus(), Recorder(1)
    bus.map(0xC000, 0x20, device, width=4)
    bus.unmap(0xC000, device)
    bus.map(0xC100, 0x20, device, width=4)
    bus.write(0xC000, 4, 1)
    bus.write(0xC104, 4, 2)

    assert bus.read(0xC000, 4) == 0xFFFFFFFF
    assert device.log == [(4, 4, 2)]


def test_ports_that_were_hidden_answer_again() -> None:
    bus, uart, moved = PortBus(), Recorder(1), Recorder(2)
    bus.map(0x3F8, 8, uart)
    bus.map(0x3FC, 0x20, moved, width=4, over=True)
    assert (bus.read(0x3FB, 1), bus.read(0x3FC, 1)) == (0x13, 0x20)

    bus.unmap(0x3FC, moved)
    assert (bus.read(0x3FC, 1), bus.read(0x400, 1)) == (0x14, 0xFF)


def test_of_two_ranges_at_one_place_the_right_one_goes() -> None:
    bus, first, second = PortBus(), Recorder(1), Recorder(2)
    bus.map(0xC000, 4, first, over=True)
    bus.map(0xC000, 4, second, over=True)

    bus.unmap(0xC000, first)

    assert bus.read(0xC000, 1) == 0x20


# --- memory


def test_memory_bus_finds_the_device_and_its_offset() -> None:
    bus, device = MemoryBus(), Recorder(5)
    bus.map(0x1000, 0x100, device)
    bus.write(0x1010, 4, 7)
    bus.read(0x10FC, 4)
    assert device.log == [(0x10, 4, 7), (0xFC, 4)]


def test_memory_bus_where_there_is_nothing() -> None:
    bus, device = MemoryBus(), Recorder(5)
    bus.map(0x1000, 0x100, device)
    assert bus.read(0xFFC, 4) == 0xFFFFFFFF
    assert bus.read(0x10FC, 8) == 0xFFFFFFFF_FFFFFFFF, "runs past the end"
    bus.write(0x1100, 1, 1)
    bus.unmap(0x1000, device)
    assert bus.read(0x1000, 1) == 0xFF
    assert device.log == []


def test_memory_mapped_last_comes_first() -> None:
    bus, old, new = MemoryBus(), Recorder(5), Recorder(6)
    bus.map(0x1000, 0x100, old)
    bus.map(0x1000, 0x100, new)
    bus.read(0x1000, 1)
    bus.unmap(0x1000, new)
    bus.read(0x1000, 1)
    assert (len(old.log), len(new.log)) == (1, 1)


def test_access_past_the_end_of_a_range_does_not_reach_the_next() -> None:
    bus, device, neighbour = MemoryBus(), Recorder(5), Recorder(6)
    bus.map(0x1000, 0x10, device)
    bus.map(0x1010, 0x10, neighbour)
    bus.write(0x100E, 4, 1)

    assert bus.read(0x100E, 4) == 0xFFFFFFFF
    assert device.log == neighbour.log == []


def test_range_within_another_hides_only_its_own_addresses() -> None:
    bus, old, new = MemoryBus(), Recorder(5), Recorder(6)
    bus.map(0x1000, 0x3000, old)
    bus.map(0x2000, 0x10, new)
    for phys in (0x1FFF, 0x2000, 0x200F, 0x2010):
        bus.read(phys, 1)

    assert old.log == [(0xFFF, 1), (0x1010, 1)]
    assert new.log == [(0, 1), (0xF, 1)]


def test_what_a_lookup_remembers_is_forgotten_when_ranges_move() -> None:
    bus, device = MemoryBus(), Recorder(5)
    assert bus.read(0x5000, 1) == 0xFF
    bus.map(0x5000, 0x10, device)
    assert bus.read(0x5000, 1) == 0x50
    bus.unmap(0x5000, device)
    bus.map(0x4000, 0x2000, device)
    assert bus.read(0x5000, 2) == 0x1050


def test_no_range_ends_beyond_what_it_hides() -> None:
    bus, low, high = MemoryBus(), Recorder(1), Recorder(2)
    bus.map(0, 1 << 63, low)
    bus.map((1 << 63) - 8, 16, high)

    assert bus.read((1 << 63) - 9, 1) == 0x10 | (1 << 63) - 9
    assert bus.read((1 << 63) - 8, 8) == 0x20
    assert bus.read((1 << 63) + 8, 1) == 0xFF


def test_no_such_addresses() -> None:
    with pytest.raises(InternalError, match="no such addresses"):
        MemoryBus().map(0x1000, 0, Recorder(1))


def test_a_guest_that_moves_ranges_leaves_nothing_behind() -> None:
    bus, device, large = MemoryBus(), Recorder(5), Recorder(6)
    bus.map(0xE0000000, 0x1000, device)
    for k in range(1000):
        bus.map(k << 30, 1 << 30, large)
        bus.read(k << 30, 1)
        bus.unmap(k << 30, large)

    assert len(bus._starts) == len(bus._owners) == 3


def test_remembered_addresses_are_bounded() -> None:
    bus, device = MemoryBus(), Recorder(5)
    bus.map(0, 1 << 30, device)
    for phys in range(2 * REMEMBERED + 1):
        bus.read(phys, 1)

    assert len(bus._found) <= REMEMBERED


# (base, size) of ranges in a space of 64 bytes.
RANGES = st.tuples(st.integers(0, 60), st.integers(1, 40))


@given(st.lists(RANGES, max_size=8), st.sets(st.integers(0, 7)))
def test_every_address_has_the_device_that_a_search_finds(
    placed: list[tuple[int, int]], removed: set[int]
) -> None:
    bus, devices = MemoryBus(), [Recorder(number) for number in range(8)]
    for (base, size), device in zip(placed, devices, strict=False):
        bus.map(base, size, device)
    before = [bus.read(phys, 1) for phys in range(104)]
    for number in removed & set(range(len(placed))):
        bus.unmap(placed[number][0], devices[number])
    after = [bus.read(phys, 1) for phys in range(104)]

    assert before == [search(placed, set(), phys) for phys in range(104)]
    assert after == [search(placed, removed, phys) for phys in range(104)]


def search(placed: list[tuple[int, int]], removed: set[int], phys: int) -> int:
    """Return what the latest range that holds `phys` and is not removed answers."""
    for number, (base, size) in reversed(list(enumerate(placed))):
        if number not in removed and base <= phys < base + size:
            return number << 4 | phys - base
    return 0xFF
