"""Configuration space and host bridge against the PCI Local Bus Specification 3.0."""

import random

import pytest

from ringlet.devices import pci
from ringlet.devices.pci import Bar, BarKind, PciFunction, PciIdentity
from ringlet.devices.pci_host import PciHost
from ringlet.devices.reset import RESET_VALUE, ResetControl
from ringlet.devices.wiring import SharedLine
from ringlet.errors import InternalError
from ringlet.machine.bus import PortBus

ALL = 0xFFFF_FFFF
IDENTITY = PciIdentity(0x1AF4, 0x1042, 0x01_80_00, 1, 0x1AF4, 0x40)
BARS = (
    Bar(0, BarKind.IO, 32),
    Bar(1, BarKind.MEMORY_32, 0x1000),
    Bar(2, BarKind.MEMORY_64, 0x4000, prefetchable=True),
)


class Card:
    """A function with three BARs and a pin, and the calls that it made."""

    def __init__(self) -> None:
        self.moves: list[tuple[int, int | None]] = []
        self.level = False
        self.function = PciFunction(
            IDENTITY, BARS, interrupt_pin=1, irq=self._irq, bar_changed=self._moved
        )

    def _irq(self, level: bool) -> None:
        self.level = level

    def _moved(self, function: PciFunction, bar: Bar, address: int | None) -> None:
        assert function is self.function
        self.moves.append((bar.index, address))

    def get(self, offset: int, size: int = 4) -> int:
        return self.function.read_config(offset, size)

    def set(self, offset: int, value: int, size: int = 4) -> None:
        self.function.write_config(offset, size, value)


@pytest.fixture
def card() -> Card:
    return Card()


def test_header_says_what_the_function_is(card: Card) -> None:
    assert card.get(0) == 0x1042_1AF4
    assert card.get(8) == 0x0180_0001
    assert card.get(0x2C) == 0x0040_1AF4
    assert card.get(pci.HEADER_TYPE, 1) == 0
    assert card.get(pci.INTERRUPT_PIN, 1) == 1


def test_identity_cannot_be_written(card: Card) -> None:
    before = [card.get(offset) for offset in (0, 8, 0x2C, 0x30, 0x34)]
    for offset in (0, 8, 0x2C, 0x30, 0x34):
        card.set(offset, ALL)

    assert [card.get(offset) for offset in (0, 8, 0x2C, 0x30, 0x34)] == before


def test_bars_tell_their_size(card: Card) -> None:
    for offset in range(0x10, 0x28, 4):
        card.set(offset, ALL)

    sizes = [card.get(offset) for offset in range(0x10, 0x28, 4)]
    assert sizes == [0xFFE1, 0xFFFF_F000, 0xFFFF_C00C, ALL, 0, 0]


def test_nothing_decodes_until_it_is_enabled(card: Card) -> None:
    card.set(0x14, 0xFEB0_0000)

    assert card.moves == []
    assert card.function.bar_address(1) is None


def test_enabling_memory_tells_of_memory_bars(card: Card) -> None:
    card.set(0x10, 0xC000)
    card.set(0x14, 0xFEB0_0000)
    card.set(0x18, 0x4000_0000)
    card.set(0x1C, 0x1)
    card.set(pci.COMMAND, pci.COMMAND_MEMORY, 2)

    assert card.moves == [(1, 0xFEB0_0000), (2, 0x1_4000_0000)]


def test_enabling_io_tells_of_io_bars(card: Card) -> None:
    card.set(0x10, 0xC01F)
    card.set(pci.COMMAND, pci.COMMAND_IO, 2)

    assert card.moves == [(0, 0xC000)]


def test_moving_and_disabling_a_bar_is_reported(card: Card) -> None:
    card.set(0x14, 0xFEB0_0000)
    card.set(pci.COMMAND, pci.COMMAND_MEMORY, 2)
    card.set(0x14, 0xFEC0_0000)
    card.set(pci.COMMAND, 0, 2)

    assert card.moves == [(1, 0xFEB0_0000), (1, 0xFEC0_0000), (1, None)]


def test_asking_for_the_size_unmaps(card: Card) -> None:
    card.set(0x14, 0xFEB0_0000)
    card.set(pci.COMMAND, pci.COMMAND_MEMORY, 2)
    card.set(0x14, ALL)
    card.set(0x14, 0xFEB0_0000)

    assert card.moves == [(1, 0xFEB0_0000), (1, None), (1, 0xFEB0_0000)]


def test_command_register_keeps_only_existing_bits() -> None:
    card, bare = Card(), PciFunction(IDENTITY)
    card.set(pci.COMMAND, 0xFFFF, 2)
    bare.write_config(pci.COMMAND, 2, 0xFFFF)

    assert card.get(pci.COMMAND, 2) == 0x0547
    assert bare.read_config(pci.COMMAND, 2) == 0x0144
    assert bare.bus_master


def test_a_byte_write_leaves_its_neighbours(card: Card) -> None:
    card.set(pci.COMMAND, pci.COMMAND_MASTER, 1)
    card.set(pci.COMMAND + 1, pci.COMMAND_NO_INTX >> 8, 1)

    assert card.get(pci.COMMAND, 2) == pci.COMMAND_MASTER | pci.COMMAND_NO_INTX


def test_interrupt_line_cache_line_and_latency_are_scratch_bytes(card: Card) -> None:
    card.set(pci.INTERRUPT_LINE, 0x0B, 1)
    card.set(pci.CACHE_LINE_SIZE, 0xFFFF_4010)

    assert card.get(0x3C) == 0x0000_010B
    assert card.get(0x0C) == 0x0000_4010


def test_io_and_memory_decode_by_bits_0_and_1_of_the_command(card: Card) -> None:
    card.set(0x10, 0xC000)
    card.set(0x14, 0xFEB0_0000)
    card.set(4, 1, 1)
    card.set(4, 2, 1)

    assert card.moves == [(0, 0xC000), (0, None), (1, 0xFEB0_0000)]


def test_a_capabilitys_mask_is_its_own(card: Card) -> None:
    card.function.add_capability(9, bytes(6))
    offset = card.function.add_capability(9, bytes(6), b"\xff" * 6)
    for place in range(0x40, 0x60, 4):
        card.set(place, ALL)

    assert card.get(0x44) == 0
    assert [card.get(offset + 2, 2), card.get(offset + 4), card.get(offset + 8)] == [0xFFFF, ALL, 0]


def test_intx_drives_the_line_and_shows_in_status(card: Card) -> None:
    card.function.set_interrupt(True)

    assert card.level
    assert card.get(pci.STATUS, 2) == pci.STATUS_INTERRUPT


def test_intx_disabled_still_shows_in_status(card: Card) -> None:
    card.function.set_interrupt(True)
    card.set(pci.COMMAND, pci.COMMAND_NO_INTX, 2)
    disabled = card.level
    status = card.get(pci.STATUS, 2)
    card.set(pci.COMMAND, 0, 2)

    assert not disabled
    assert status & pci.STATUS_INTERRUPT
    assert card.level


def test_capabilities_are_linked(card: Card) -> None:
    first = card.function.add_capability(9, bytes(3))
    second = card.function.add_capability(0x11, bytes(10), b"\0\xc0")

    assert (first, second) == (0x40, 0x48)
    assert card.get(pci.STATUS, 2) & pci.STATUS_CAPABILITIES
    assert card.get(pci.CAPABILITIES, 1) == 0x40
    assert card.get(0x40, 2) == 0x48_09
    assert card.get(0x48, 2) == 0x00_11


def test_only_the_writable_bits_of_a_capability_change(card: Card) -> None:
    offset = card.function.add_capability(0x11, b"\x07\x00\xaa", b"\x00\xc0")
    card.set(offset, ALL)

    assert card.get(offset) == 0xC007_0011
    assert card.get(offset + 4, 1) == 0xAA


def test_accesses_to_a_capability_are_reported(card: Card) -> None:
    seen: list[tuple[str, int, int]] = []
    offset = card.function.add_capability(
        9,
        bytes(14),
        before_read=lambda at, size: seen.append(("read", at, size)),
        after_write=lambda at, size: seen.append(("write", at, size)),
    )
    card.get(offset + 12)
    card.set(offset + 4, 0, 2)
    card.get(offset + 16)
    card.set(0x3C, 0)

    assert seen == [("read", 12, 4), ("write", 4, 2)]


def test_configuration_space_can_be_full(card: Card) -> None:
    card.function.add_capability(9, bytes(190))

    with pytest.raises(InternalError, match="capability"):
        card.function.add_capability(9, bytes(2))


@pytest.mark.parametrize(
    "bars",
    [
        [Bar(0, BarKind.IO, 2)],
        [Bar(5, BarKind.MEMORY_64, 64)],
        [Bar(0, BarKind.MEMORY_32, 48)],
        [Bar(2, BarKind.MEMORY_64, 64), Bar(3, BarKind.MEMORY_32, 64)],
    ],
)
def test_impossible_bars_are_refused(bars: list[Bar]) -> None:
    with pytest.raises(InternalError, match="BAR"):
        PciFunction(IDENTITY, bars)


def test_the_last_bar_can_be_64_bits_wide() -> None:
    function = PciFunction(IDENTITY, [Bar(4, BarKind.MEMORY_64, 64)])

    assert function.read_config(0x20, 4) == 4


def test_functions_state_moves(card: Card) -> None:
    card.set(0x14, 0xFEB0_0000)
    card.set(pci.COMMAND, pci.COMMAND_MEMORY, 2)
    card.function.set_interrupt(True)
    other = Card()
    other.function.restore(card.function.save())

    assert other.moves == [(1, 0xFEB0_0000)]
    assert other.level
    assert other.get(0x14) == 0xFEB0_0000


def test_no_configuration_access_raises(card: Card) -> None:
    rng = random.Random(30)
    card.function.add_capability(9, bytes(14), bytes([0xFF] * 14))
    for _ in range(20_000):
        size = rng.choice([1, 2, 4])
        offset = rng.randrange(256 // size) * size
        card.set(offset, rng.choice([ALL, rng.getrandbits(32)]), size)
        assert 0 <= card.get(offset, size) < 1 << 8 * size
    assert len(card.function.save().config) == 256


# --- the host bridge


class Pc:
    """A port bus with a host bridge, and the card in slot 3."""

    def __init__(self) -> None:
        self.resets = 0
        self.bus = PortBus()
        self.card = Card()
        self.reset_control = ResetControl(self._reset)
        self.host = PciHost(self.reset_control)
        self.host.add(3, self.card.function)
        self.bus.map(0xCF8, 8, self.host, width=4)

    def _reset(self) -> None:
        self.resets += 1

    def select(self, slot: int, offset: int = 0, bus: int = 0, number: int = 0) -> None:
        self.bus.write(0xCF8, 4, 1 << 31 | bus << 16 | slot << 11 | number << 8 | offset)


@pytest.fixture
def pc() -> Pc:
    return Pc()


def test_linux_finds_mechanism_1(pc: Pc) -> None:
    pc.bus.write(0xCFB, 1, 0x01)
    pc.bus.write(0xCF8, 4, 0x8000_0000)

    assert pc.bus.read(0xCF8, 4) == 0x8000_0000


def test_bridge_is_at_slot_0(pc: Pc) -> None:
    pc.select(0, 8)

    assert pc.bus.read(0xCFC, 4) >> 8 == 0x060000


def test_function_answers_in_its_slot_in_every_size(pc: Pc) -> None:
    pc.select(3)

    assert pc.bus.read(0xCFC, 4) == 0x1042_1AF4
    assert pc.bus.read(0xCFE, 2) == 0x1042
    assert [pc.bus.read(0xCFC + i, 1) for i in range(4)] == [0xF4, 0x1A, 0x42, 0x10]


def test_empty_places_read_as_ones(pc: Pc) -> None:
    values = []
    for slot, bus, number in ((4, 0, 0), (3, 1, 0), (3, 0, 1)):
        pc.select(slot, bus=bus, number=number)
        values.append(pc.bus.read(0xCFC, 4))
        pc.bus.write(0xCFC, 4, 0)

    assert values == [ALL] * 3


def test_nothing_is_selected_without_the_enable_bit(pc: Pc) -> None:
    pc.bus.write(0xCF8, 4, 3 << 11)

    assert pc.bus.read(0xCFC, 2) == 0xFFFF


def test_writes_reach_the_function(pc: Pc) -> None:
    pc.select(3, 0x3C)
    pc.bus.write(0xCFC, 1, 0x0A)
    pc.bus.write(0xCFD, 1, 0xFF)

    assert pc.card.get(0x3C) == 0x010A


def test_access_across_the_data_register_is_split(pc: Pc) -> None:
    pc.select(3)

    assert pc.bus.read(0xCFE, 4) == 0xFFFF_1042


def test_reset_control_is_within_the_address_register(pc: Pc) -> None:
    pc.select(3)
    pc.bus.write(0xCF9, 1, RESET_VALUE)

    assert pc.resets == 1
    assert pc.bus.read(0xCF9, 1) == RESET_VALUE
    assert pc.bus.read(0xCF8, 4) == 0x8000_1800


def test_other_narrow_accesses_below_the_data_register_find_nothing(pc: Pc) -> None:
    places = ((0xCF8, 1), (0xCF8, 2), (0xCF9, 2), (0xCFA, 1), (0xCFA, 2))
    for port, size in places:
        pc.bus.write(port, size, 0x0606)
    values = [pc.bus.read(port, size) for port, size in places]

    assert values == [0xFF, 0xFFFF, 0xFFFF, 0xFF, 0xFFFF]
    assert pc.resets == 0
    assert pc.bus.read(0xCF8, 4) == 0


def test_without_a_reset_register_its_port_is_empty() -> None:
    host = PciHost()
    host.write(1, 1, RESET_VALUE)

    assert host.read(1, 1) == 0xFF


def test_functions_of_a_slot_are_distinguished(pc: Pc) -> None:
    pc.host.add(3, PciFunction(PciIdentity(1, 2, 3)), number=5)
    pc.select(3, number=5)

    assert pc.bus.read(0xCFC, 4) == 0x0002_0001


def test_an_address_that_looks_like_a_reset_is_none(pc: Pc) -> None:
    pc.bus.write(0xCF8, 4, 0x8000_0600)

    assert pc.resets == 0


@pytest.mark.parametrize(("slot", "number"), [(0, 0), (3, 0), (32, 0), (1, 8)])
def test_places_taken_or_missing_are_refused(pc: Pc, slot: int, number: int) -> None:
    with pytest.raises(InternalError, match="slot"):
        pc.host.add(slot, PciFunction(IDENTITY), number)


def test_hosts_state_moves(pc: Pc) -> None:
    pc.select(0, 0x3C)
    pc.bus.write(0xCFC, 1, 0x42)
    other = Pc()
    other.host.restore(pc.host.save())

    assert other.bus.read(0xCF8, 4) == 0x8000_003C
    assert other.bus.read(0xCFC, 1) == 0x42


def test_no_port_access_raises(pc: Pc) -> None:
    rng = random.Random(0xCF8)
    for _ in range(20_000):
        size = rng.choice([1, 2, 4])
        port = 0xCF8 + rng.randrange(8)
        pc.bus.write(port, size, rng.choice([0x8000_1800, rng.getrandbits(32)]) % (1 << 8 * size))
        assert 0 <= pc.bus.read(port, size) < 1 << 8 * size


# --- shared interrupt lines


def test_shared_line_is_up_while_anyone_asserts_it() -> None:
    levels: list[bool] = []
    shared = SharedLine(levels.append)
    one, two = shared.tap(), shared.tap()
    one(True)
    two(True)
    one(False)
    two(False)
    two(False)

    assert levels == [True, False]

# --- reset


def test_reset_takes_bars_pin_and_scratch_bytes_back(card: Card) -> None:
    offset = card.function.add_capability(9, bytes(6), b"\xff" * 6)
    fresh = card.function.save().config
    card.set(0x14, 0xFEB0_0000)
    card.set(pci.COMMAND, pci.COMMAND_MEMORY, 2)
    card.set(pci.INTERRUPT_LINE, 11, 1)
    card.set(offset + 2, 0xABCD, 2)
    card.function.set_config(pci.REVISION_ID, 1, 0x77)
    card.function.set_interrupt(True)
    card.function.reset()

    assert card.function.save().config == fresh
    assert not card.level
    assert card.moves == [(1, 0xFEB0_0000), (1, None)]


def test_reset_tells_the_device_and_then_the_capabilities(card: Card) -> None:
    told: list[str] = []
    function = PciFunction(IDENTITY, on_reset=lambda: told.append("device"))
    function.add_capability(9, bytes(2), on_reset=lambda: told.append("capability"))
    function.reset()

    assert told == ["device", "capability"]
