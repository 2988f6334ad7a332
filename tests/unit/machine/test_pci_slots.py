"""Virtio devices in PCI slots: addresses, lines, and BARs that the guest moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest

from ringlet.devices import pci
from ringlet.devices.pci_host import PciHost
from ringlet.devices.piix3 import PIRQS, Piix3
from ringlet.devices.virtio import common
from ringlet.devices.virtio.pci import MSIX_BAR, STRUCTURES_BAR, VirtioPci
from ringlet.devices.virtio.rng import Rng
from ringlet.errors import InternalError
from ringlet.machine import address_map as at
from ringlet.machine.bus import MemoryBus
from ringlet.machine.pci_slots import PciSlots
from ringlet.machine.pins import Pins
from tests.unit.machine.fake_cpu import FakeCpu

ABSENT = 0xFFFF


class Host:
    """The machine, whose thread is the test's."""

    def post(self, call: Callable[[], None]) -> None:
        call()

    def fail(self, error: Exception) -> None:
        raise error


class Board:
    """A bridge with slots."""

    def __init__(self) -> None:
        self.memory = MemoryBus()
        self.bridge = PciHost()
        self.apic = [False] * PIRQS
        isa = Piix3([self._line(n) for n in range(PIRQS)], lambda irq: lambda level: None,
                    at.IRQS_PCI)  # fmt: skip
        cpu = FakeCpu()
        self.slots = PciSlots(
            Pins(cpu), cpu.guest_memory, self.memory, self.bridge, isa, Host(), lambda line: None
        )
        self.devices: list[VirtioPci] = []

    def _line(self, number: int) -> Callable[[bool], None]:
        def drive(level: bool) -> None:
            self.apic[number] = level

        return drive

    def add(self) -> VirtioPci:
        self.devices.append(self.slots.add(Rng))
        return self.devices[-1]

    def queues_at(self, address: int) -> int:
        """Read a field of the common structure that would be at `address`."""
        return self.memory.read(address + common.QUEUES, 2)


def enable(device: VirtioPci, command: int = pci.COMMAND_MEMORY) -> None:
    device.function.write_config(pci.COMMAND, 2, command)


def move(device: VirtioPci, address: int) -> None:
    device.function.write_config(pci.BAR0 + 4 * STRUCTURES_BAR, 4, address & 0xFFFF_FFFF)
    device.function.write_config(pci.BAR0 + 4 * STRUCTURES_BAR + 4, 4, address >> 32)


@pytest.fixture
def board() -> Iterator[Board]:
    board = Board()
    yield board
    for device in board.devices:
        device.close()


def test_devices_are_in_slots_one_after_the_other(board: Board) -> None:
    for slot in range(3):
        board.add()
        board.bridge.write(0, 4, 1 << 31 | (at.SLOT_DEVICES + slot) << 11)
        assert board.bridge.read(4, 4) == 0x1044_1AF4


def test_addresses_are_apart_and_in_the_hole(board: Board) -> None:
    ranges = []
    for _ in range(5):
        device = board.add()
        enable(device)
        for index, size in ((MSIX_BAR, 0x1000), (STRUCTURES_BAR, 0x4000)):
            address = device.function.bar_address(index)
            assert address is not None
            assert address % size == 0
            ranges.append((address, address + size))
    ranges.sort()
    assert ranges[0][0] >= at.DEVICE_HOLE
    assert ranges[-1][1] <= at.DEVICE_HOLE_END
    assert all(one[1] <= two[0] for one, two in pairwise(ranges))


def test_device_answers_when_the_guest_lets_it(board: Board) -> None:
    device = board.add()
    enable(device)
    address = device.function.bar_address(STRUCTURES_BAR)
    assert address is not None
    assert board.queues_at(address) == 1
    enable(device, 0)
    assert board.queues_at(address) == ABSENT


@pytest.mark.parametrize("address", [0xD000_0000, 0xFEBF_C000, 0x10_0000_0000])
def test_device_moves(board: Board, address: int) -> None:
    device = board.add()
    enable(device)
    before = device.function.bar_address(STRUCTURES_BAR)
    assert before is not None
    move(device, address)
    assert board.queues_at(address) == 1
    assert board.queues_at(before) == ABSENT


def test_device_that_hides_another_leaves_it_as_it_was(board: Board) -> None:
    one, two = board.add(), board.add()
    enable(one)
    enable(two)
    place = one.function.bar_address(STRUCTURES_BAR)
    assert place is not None
    move(two, place)
    move(two, 0xD000_0000)
    assert board.queues_at(place) == 1
    assert board.queues_at(0xD000_0000) == 1


def test_size_is_read_without_a_device_at_the_top(board: Board) -> None:
    device = board.add()
    enable(device)
    move(device, 0xFFFF_FFFF_FFFF_FFFF)
    assert device.function.read_config(pci.BAR0 + 16, 4) == 0xFFFF_C00C
    assert device.function.bar_address(STRUCTURES_BAR) is None


def test_pins_are_distributed(board: Board) -> None:
    for slot in range(4):
        device = board.add()
        device.function.set_interrupt(True)
        wanted = at.pirq(at.SLOT_DEVICES + slot, 1)
        assert [n for n, level in enumerate(board.apic) if level] == [wanted]
        device.function.set_interrupt(False)


def test_slots_end(board: Board) -> None:
    made: list[Rng] = []

    def make(failed: Callable[[Exception], None]) -> Rng:
        made.append(Rng(failed))
        return made[-1]

    for _ in range(at.SLOT_DEVICES, 32):
        board.add()
    with pytest.raises(InternalError, match="no such PCI slot"):
        board.slots.add(make)
    made[0].close()
