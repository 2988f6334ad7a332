"""MSI-X against PCI 3.0, 6.8.2."""

from __future__ import annotations

import pytest

from ringlet.devices.msix import BAR_SIZE, CAPABILITY, ENABLE, FUNCTION_MASK, PBA, Msix
from ringlet.devices.pci import COMMAND, COMMAND_MASTER, Bar, BarKind, PciFunction, PciIdentity

VECTORS = 5


class Card:
    """A function with MSI-X alone."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, int]] = []
        self.function = PciFunction(
            PciIdentity(0x1AF4, 0x1041, 0x02_00_00), [Bar(1, BarKind.MEMORY_32, BAR_SIZE)]
        )
        self.msix = Msix(
            self.function, VECTORS, 1, lambda address, data: self.sent.append((address, data))
        )
        self.function.write_config(COMMAND, 2, COMMAND_MASTER)

    def control(self, value: int) -> None:
        self.function.write_config(0x42, 2, value)

    def entry(
        self, vector: int, *, address: int = 0xFEE0_1000, upper: int = 0, data: int = 0x41,
        masked: bool = False,
    ) -> None:  # fmt: skip
        for word, value in enumerate((address, upper, data, int(masked))):
            self.msix.write(16 * vector + 4 * word, 4, value)

    def pending(self) -> int:
        return self.msix.read(PBA, 8)


@pytest.fixture
def card() -> Card:
    card = Card()
    card.control(ENABLE)
    return card


def test_capability() -> None:
    read = Card().function.read_config
    assert read(0x34, 1) == 0x40
    assert read(0x40, 1) == CAPABILITY
    assert read(0x42, 2) == VECTORS - 1
    assert read(0x44, 4) == 1, "the table is in BAR 1 at 0"
    assert read(0x48, 4) == PBA | 1


def test_only_two_bits_of_the_control_can_be_written(card: Card) -> None:
    card.control(0xFFFF)
    assert card.function.read_config(0x42, 2) == ENABLE | FUNCTION_MASK | VECTORS - 1
    card.function.write_config(0x44, 4, 0xFFFF_FFFF)
    assert card.function.read_config(0x44, 4) == 1


def test_entries_are_masked_at_first(card: Card) -> None:
    assert [card.msix.read(16 * n + 12, 4) for n in range(VECTORS)] == [1] * VECTORS


def test_message(card: Card) -> None:
    card.entry(2, data=0x1234)
    card.msix.trigger(2)
    assert card.sent == [(0xFEE0_1000, 0x1234)]
    assert card.pending() == 0


def test_masked_entry_waits(card: Card) -> None:
    card.entry(2, masked=True)
    card.msix.trigger(2)
    card.msix.trigger(2)
    assert card.sent == []
    assert card.pending() == 1 << 2
    card.msix.write(16 * 2 + 12, 4, 0)
    assert card.sent == [(0xFEE0_1000, 0x41)]
    assert card.pending() == 0


def test_function_mask(card: Card) -> None:
    card.control(ENABLE | FUNCTION_MASK)
    for vector in (0, 4):
        card.entry(vector, data=vector)
        card.msix.trigger(vector)
    card.entry(1, data=1, masked=True)
    card.msix.trigger(1)
    assert card.sent == []
    assert card.pending() == 0b10011
    card.control(ENABLE)
    assert card.sent == [(0xFEE0_1000, 0), (0xFEE0_1000, 4)]
    assert card.pending() == 0b10


def test_nothing_is_sent_or_noted_while_it_is_off(card: Card) -> None:
    card.control(0)
    card.entry(0)
    card.msix.trigger(0)
    assert (card.sent, card.pending()) == ([], 0)


@pytest.mark.parametrize("vector", [VECTORS, 127, 0xFFFF])
def test_vector_that_is_not_there(card: Card, vector: int) -> None:
    card.msix.trigger(vector)
    assert (card.sent, card.pending()) == ([], 0)


def test_without_bus_mastering_nothing_is_sent(card: Card) -> None:
    card.entry(0)
    card.function.write_config(COMMAND, 2, 0)
    card.msix.trigger(0)
    assert card.sent == []


@pytest.mark.parametrize(
    ("address", "upper"),
    [(0, 0), (0x1000, 0), (0xFED0_0000, 0), (0xFEE0_0000, 1), (0xFFFF_FFFC, 0)],
)
def test_write_that_is_no_message(card: Card, address: int, upper: int) -> None:
    """A message is a write to memory; elsewhere it would be one to RAM, which is not done."""
    card.entry(0, address=address, upper=upper)
    card.msix.trigger(0)
    assert card.sent == []


def test_table_reads_back(card: Card) -> None:
    card.msix.write(16, 8, 0x1122_3344_FEE0_5566)
    assert card.msix.read(16, 4) == 0xFEE0_5566
    assert card.msix.read(20, 4) == 0x1122_3344
    assert card.msix.read(18, 2) == 0xFEE0
    card.msix.write(24, 8, 0xFFFF_FFFE_0000_0041)
    assert card.msix.read(28, 4) == 0, "the other bits of the vector control are reserved"


@pytest.mark.parametrize(
    ("offset", "size"), [(0, 1), (0, 2), (2, 4), (4, 8), (16 * VECTORS, 4), (16 * VECTORS - 4, 8)]
)
def test_write_that_is_not_defined_is_lost(card: Card, offset: int, size: int) -> None:
    before = [card.msix.read(at, 8) for at in range(0, 16 * VECTORS + 16, 8)]
    card.msix.write(offset, size, 0)
    assert [card.msix.read(at, 8) for at in range(0, 16 * VECTORS + 16, 8)] == before


def test_pending_bits_are_read_only(card: Card) -> None:
    card.entry(0, masked=True)
    card.msix.trigger(0)
    card.msix.write(PBA, 8, 0)
    assert card.pending() == 1
    assert card.msix.read(PBA, 4) == 1
    assert card.msix.read(PBA + 4, 4) == 0
    assert card.msix.read(BAR_SIZE - 4, 4) == 0


def test_state_goes_on(card: Card) -> None:
    card.entry(3, data=3, masked=True)
    card.msix.trigger(3)
    other = Card()
    other.function.restore(card.function.save())
    other.msix.restore(card.msix.save())
    assert other.pending() == 1 << 3
    assert other.sent == []
    other.msix.write(16 * 3 + 12, 4, 0)
    assert other.sent == [(0xFEE0_1000, 3)]


def test_reset_masks_the_table_and_forgets_what_is_pending(card: Card) -> None:
    card.entry(0)
    card.entry(2, masked=True)
    card.msix.trigger(2)
    card.function.reset()
    assert not card.msix.enabled
    assert card.pending() == 0
    assert [card.msix.read(4 * n, 4) for n in range(4 * VECTORS)] == [0, 0, 0, 1] * VECTORS
