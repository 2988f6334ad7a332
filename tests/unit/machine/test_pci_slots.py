"""Virtio devices in PCI slots: addresses, lines, and BARs that the guest moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest

from ringlet.devices import pci
from ringlet.devices.msi import Msi
from ringlet.devices.pci import Bar, BarKind, PciFunction, PciIdentity
from ringlet.devices.pci_host import PciHost
from ringlet.devices.piix3 import PIRQS, Piix3
from ringlet.devices.virtio import common
from ringlet.devices.virtio.pci import MSIX_BAR, STRUCTURES_BAR, VirtioPci
from ringlet.devices.virtio.rng import Rng
from ringlet.errors import InternalError
from ringlet.machine import address_map as at
from ringlet.machine import pci_slots as slots
from ringlet.machine.bus import MemoryBus, PortBus
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
        self.cpu = FakeCpu()
        self.ports = PortBus()
        around = slots.Board(
            Pins(self.cpu), self.cpu.message, self.ports, self.memory, self.bridge, isa
        )
        self.slots = PciSlots(around, self.cpu.guest_memory, Host(), lambda line: None)
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


# --- cards that are not virtio


class Card:
    """A card with I/O and memory, and MSI."""

    def __init__(self, slot: slots.Slot) -> None:
        self.written: list[tuple[int, int, int]] = []
        self.function = PciFunction(
            PciIdentity(0x1234, 0x11E8, 0x00_FF_00),
            [Bar(0, BarKind.IO, 32), Bar(1, BarKind.MEMORY_32, 0x100)],
            interrupt_pin=1, irq=slot.irq, bar_changed=slot.bar_changed,
        )  # fmt: skip
        self.msi = Msi(self.function, 1, slot.send)

    def bar(self, index: int) -> Card:
        return self

    def bells(self, index: int) -> list[tuple[int, int, int]]:
        return []

    def read(self, offset: int, size: int) -> int:
        return 0xA0 + offset

    def write(self, offset: int, size: int, value: int) -> None:
        self.written.append((offset, size, value))


def test_card_answers_at_ports_and_in_memory(board: Board) -> None:
    card = board.slots.put(Card)
    card.function.write_config(pci.COMMAND, 2, pci.COMMAND_IO | pci.COMMAND_MEMORY)
    port, address = card.function.bar_address(0), card.function.bar_address(1)
    assert port == at.PORT_PCI_DEVICES
    assert address == at.DEVICE_HOLE
    assert board.ports.read(port + 5, 1) == 0xA5
    assert board.memory.read(address + 6, 2) == 0xA6
    board.ports.write(port + 4, 4, 0x1234)
    assert card.written == [(4, 4, 0x1234)]


def test_ports_move(board: Board) -> None:
    card = board.slots.put(Card)
    card.function.write_config(pci.COMMAND, 2, pci.COMMAND_IO)
    before = card.function.bar_address(0)
    assert before is not None
    card.function.write_config(pci.BAR0, 4, 0xD020)
    moved = board.ports.read(before, 1), board.ports.read(0xD020, 1)
    card.function.write_config(pci.COMMAND, 2, 0)
    assert moved == (0xFF, 0xA0)
    assert board.ports.read(0xD020, 1) == 0xFF


def test_ports_of_several_cards_are_apart_until_they_end(board: Board) -> None:
    places = set()
    for _ in range(3):
        card = board.slots.put(Card)
        card.function.write_config(pci.COMMAND, 2, pci.COMMAND_IO)
        places.add(card.function.bar_address(0))
    assert places == {at.PORT_PCI_DEVICES + 32 * n for n in range(3)}
    board.slots._next_port = at.PORT_PCI_DEVICES_END - 16
    with pytest.raises(InternalError, match="no room for a BAR"):
        board.slots.put(Card)


def test_firmware_tells_the_line_of_each_pin(board: Board) -> None:
    lines = [board.slots.put(Card).function.read_config(pci.INTERRUPT_LINE, 1) for _ in range(4)]
    slot = at.SLOT_DEVICES
    assert lines == [at.IRQS_PCI[at.pirq(slot + n, 1)] for n in range(4)]


def test_messages_go_where_the_board_sends_them(board: Board) -> None:
    card = board.slots.put(Card)
    card.function.write_config(pci.COMMAND, 2, pci.COMMAND_MASTER)
    card.function.write_config(0x44, 4, 0xFEE0_0000)
    card.function.write_config(0x4C, 2, 0x55)
    card.function.write_config(0x42, 2, 1)
    card.msi.trigger(0)
    assert board.cpu.messages == [(0xFEE0_0000, 0x55)]


def test_reset_takes_a_device_off_the_bus(board: Board) -> None:
    device = board.add()
    enable(device)
    address = device.function.bar_address(STRUCTURES_BAR)
    assert address is not None
    assert board.cpu.doorbells
    device.function.reset()
    assert board.queues_at(address) == ABSENT
    assert board.cpu.doorbells == {}
