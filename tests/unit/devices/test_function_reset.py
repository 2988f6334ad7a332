"""Resets of one function (PCI-SIG's ECN "Advanced Capabilities for Conventional PCI")."""

from __future__ import annotations

import pytest

from ringlet.devices import pci
from ringlet.devices.function_reset import (
    AF_CAPABILITIES,
    AF_CONTROL,
    AF_STATUS,
    CAPABILITY,
    INITIATE,
    FunctionReset,
)
from ringlet.devices.pci import Bar, BarKind, PciFunction, PciIdentity

AT = 0x40


class Card:
    """A function with a BAR, a pin and the capability."""

    def __init__(self) -> None:
        self.level = False
        self.moves: list[int | None] = []
        self.resets: list[bool] = []
        self.function = PciFunction(
            PciIdentity(0x1AF4, 0x1042, 0x01_80_00), [Bar(0, BarKind.MEMORY_32, 0x1000)],
            interrupt_pin=1, irq=self._irq, on_reset=self._reset,
            bar_changed=lambda function, bar, address: self.moves.append(address),
        )  # fmt: skip
        FunctionReset(self.function)

    def _irq(self, level: bool) -> None:
        self.level = level

    def _reset(self) -> None:
        self.resets.append(self.function.bus_master)

    def get(self, offset: int, size: int = 4) -> int:
        return self.function.read_config(offset, size)

    def set(self, offset: int, value: int, size: int = 4) -> None:
        self.function.write_config(offset, size, value)


@pytest.fixture
def card() -> Card:
    card = Card()
    card.set(pci.BAR0, 0xC000_0000)
    card.set(pci.COMMAND, pci.COMMAND_MASTER | pci.COMMAND_MEMORY, 2)
    card.set(pci.INTERRUPT_LINE, 10, 1)
    card.function.set_interrupt(True)
    return card


def test_capability_as_linux_wants_it(card: Card) -> None:
    assert card.get(pci.CAPABILITIES, 1) == AT
    assert card.get(AT, 1) == CAPABILITY
    assert card.get(AT + 2, 1) == 6
    assert card.get(AT + AF_CAPABILITIES, 1) == 0b11
    assert card.get(AT + AF_STATUS, 1) == 0


def test_reset_returns_to_the_state_after_power_on(card: Card) -> None:
    card.set(AT + AF_CONTROL, INITIATE, 1)

    fresh = Card()
    assert [card.get(n) for n in range(0, 256, 4)] == [fresh.get(n) for n in range(0, 256, 4)]
    assert not card.level
    assert card.moves == [0xC000_0000, None]


def test_device_is_at_rest_before_its_registers_go(card: Card) -> None:
    card.set(AT + AF_CONTROL, INITIATE, 1)
    assert card.resets == [True], "the device was told while it could still reach memory"


@pytest.mark.parametrize(("offset", "size"), [(AF_CONTROL, 1), (AF_CONTROL, 2), (2, 4)])
def test_any_write_of_the_bit_resets(card: Card, offset: int, size: int) -> None:
    card.set(AT + offset, INITIATE << 8 * (AF_CONTROL - offset), size)
    assert len(card.resets) == 1
    assert card.get(AT + AF_CONTROL, 1) == 0


@pytest.mark.parametrize(("offset", "value"), [(AF_CONTROL, 0xFE), (AF_STATUS, 1), (3, 3)])
def test_other_writes_do_not(card: Card, offset: int, value: int) -> None:
    card.set(AT + offset, value, 1)
    assert card.resets == []
    assert card.get(AT + AF_CONTROL, 1) == 0


def test_function_works_again(card: Card) -> None:
    card.set(AT + AF_CONTROL, INITIATE, 1)
    card.set(pci.BAR0, 0xD000_0000)
    card.set(pci.COMMAND, pci.COMMAND_MEMORY, 2)
    card.function.set_interrupt(True)
    assert card.moves[-1] == 0xD000_0000
    assert card.level
