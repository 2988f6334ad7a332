"""The buses."""

import pytest

from ringlet.errors import InternalError
from ringlet.machine.bus import MemoryBus, PortBus


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
