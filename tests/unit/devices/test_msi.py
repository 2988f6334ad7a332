"""MSI against PCI 3.0, 6.8.1."""

from __future__ import annotations

import random

import pytest

from ringlet.devices.msi import (
    ADDRESS,
    ADDRESS_64,
    CAPABILITY,
    CONTROL,
    DATA,
    ENABLE,
    GRANTED_SHIFT,
    MASK,
    MASKING,
    PENDING,
    Msi,
    MsiState,
)
from ringlet.devices.pci import COMMAND, COMMAND_MASTER, PciFunction, PciIdentity
from ringlet.errors import InternalError

ALL = 0xFFFF_FFFF
AT = 0x40


class Card:
    """A function with MSI alone."""

    def __init__(self, vectors: int = 8) -> None:
        self.sent: list[tuple[int, int]] = []
        self.function = PciFunction(PciIdentity(0x1AF4, 0x1041, 0x02_00_00))
        self.msi = Msi(self.function, vectors, lambda *message: self.sent.append(message))
        self.function.write_config(COMMAND, 2, COMMAND_MASTER)

    def get(self, offset: int, size: int = 4) -> int:
        return self.function.read_config(AT + offset, size)

    def set(self, offset: int, value: int, size: int = 4) -> None:
        self.function.write_config(AT + offset, size, value)

    def enable(self, granted: int = 3, *, address: int = 0xFEE0_1000, data: int = 0x4140) -> None:
        self.set(ADDRESS, address & ALL)
        self.set(ADDRESS + 4, address >> 32)
        self.set(DATA, data, 2)
        self.set(CONTROL, ENABLE | granted << GRANTED_SHIFT, 2)

    def data(self) -> list[int]:
        return [data for _, data in self.sent]


@pytest.fixture
def card() -> Card:
    card = Card()
    card.enable()
    return card


@pytest.mark.parametrize(("vectors", "wanted"), [(1, 0), (2, 1), (8, 3), (32, 5)])
def test_capability(vectors: int, wanted: int) -> None:
    card = Card(vectors)
    assert card.function.read_config(0x34, 1) == AT
    assert card.get(0, 1) == CAPABILITY
    assert card.get(CONTROL, 2) == ADDRESS_64 | MASKING | wanted << 1
    assert [card.get(offset) for offset in (ADDRESS, ADDRESS + 4, MASK, PENDING)] == [0] * 4


@pytest.mark.parametrize("vectors", [0, 3, 64])
def test_number_of_vectors_that_there_is_not(vectors: int) -> None:
    with pytest.raises(InternalError, match="MSI vectors"):
        Card(vectors)


def test_only_the_guests_bits_can_be_written(card: Card) -> None:
    for offset in range(0, 0x18, 4):
        card.set(offset, ALL)
    assert card.get(CONTROL, 2) == ADDRESS_64 | MASKING | 0x7 << 4 | 3 << 1 | ENABLE
    assert card.get(ADDRESS) == 0xFFFF_FFFC
    assert card.get(ADDRESS + 4) == ALL
    assert card.get(DATA) == 0xFFFF
    assert card.get(MASK) == 0xFF
    assert card.get(PENDING) == 0


def test_function_changes_the_low_bits_of_the_data(card: Card) -> None:
    card.msi.trigger(5)
    assert card.sent == [(0xFEE0_1000, 0x4145)]


@pytest.mark.parametrize(
    ("granted", "data"), [(0, 0x4147), (1, 0x4147), (2, 0x4145), (3, 0x4145), (7, 0x4145)]
)
def test_vectors_are_shared_if_fewer_are_granted(granted: int, data: int) -> None:
    """Granted 1, 2, 4, 8 and too many; the data is 4147h, the vector 5."""
    card = Card()
    card.enable(granted, data=0x4147)
    card.msi.trigger(5)
    assert card.data() == [data]


def test_masked_vector_waits(card: Card) -> None:
    card.set(MASK, 1 << 5 | 1 << 6)
    card.msi.trigger(5)
    card.msi.trigger(5)
    card.msi.trigger(6)
    card.msi.trigger(2)
    assert card.data() == [0x4142]
    assert card.get(PENDING) == 1 << 5 | 1 << 6
    card.set(MASK, 1 << 6)
    assert card.data() == [0x4142, 0x4145]
    assert card.get(PENDING) == 1 << 6


def test_nothing_is_sent_or_noted_while_it_is_off(card: Card) -> None:
    card.set(CONTROL, 0, 2)
    card.msi.trigger(0)
    assert (card.sent, card.get(PENDING), card.msi.enabled) == ([], 0, False)


def test_without_bus_mastering_nothing_is_sent(card: Card) -> None:
    card.function.write_config(COMMAND, 2, 0)
    card.msi.trigger(0)
    assert card.sent == []


@pytest.mark.parametrize("address", [0, 0x1000, 0xFED0_0000, 0x1_FEE0_0000, 0xFFFF_FFFC])
def test_write_that_is_no_message(address: int) -> None:
    card = Card()
    card.enable(address=address)
    card.msi.trigger(0)
    assert card.sent == []


def test_reset_forgets_what_is_pending(card: Card) -> None:
    card.set(MASK, ALL)
    card.msi.trigger(1)
    card.function.reset()
    assert (card.msi.enabled, card.get(MASK), card.get(PENDING)) == (False, 0, 0)
    card.function.write_config(COMMAND, 2, COMMAND_MASTER)
    card.enable()
    assert card.sent == []


def test_state_goes_on(card: Card) -> None:
    card.set(MASK, 1 << 3)
    card.msi.trigger(3)
    other = Card()
    other.function.restore(card.function.save())
    other.msi.restore(card.msi.save())
    assert other.get(PENDING) == 1 << 3
    assert other.sent == []
    other.set(MASK, 0)
    assert other.sent == [(0xFEE0_1000, 0x4143)]


def test_state_has_no_vectors_that_the_function_lacks(card: Card) -> None:
    card.msi.restore(MsiState(ALL))
    assert card.data() == [0x4140 + n for n in range(8)]


def test_no_access_raises(card: Card) -> None:
    rng = random.Random(5)
    for _ in range(20_000):
        size = rng.choice([1, 2, 4])
        offset = AT + rng.randrange(0x18 // size) * size
        card.function.write_config(offset, size, rng.choice([ALL, rng.getrandbits(32)]))
        assert 0 <= card.function.read_config(offset, size) < 1 << 8 * size
        card.msi.trigger(rng.randrange(40))
    assert all(address >> 20 == 0xFEE and 0 <= data < 1 << 16 for address, data in card.sent)
