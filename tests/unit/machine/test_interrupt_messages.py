"""Routes of messages to processors."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ringlet.devices.messages import address_of
from ringlet.machine.interrupt_messages import InterruptMessages

DATA = 0x41


class Apics:
    """Local APICs 0, 2 and 300, and what each got."""

    def __init__(self) -> None:
        self.got: list[tuple[int, int, int]] = []
        self.messages = InterruptMessages({ident: self._apic(ident) for ident in (0, 2, 300)})

    def _apic(self, ident: int) -> Callable[[int, int], None]:
        return lambda address, data: self.got.append((ident, address, data))


@pytest.fixture
def apics() -> Apics:
    return Apics()


@pytest.mark.parametrize("ident", [0, 2, 300])
def test_processor_that_is_named(apics: Apics, ident: int) -> None:
    apics.messages.send(address_of(ident), DATA)
    assert apics.got == [(ident, address_of(ident), DATA)]


@pytest.mark.parametrize("ident", [1, 0x100, 0x102, 44, 0x7FFF, 0x1FF])
def test_processor_that_is_absent(apics: Apics, ident: int) -> None:
    """100h and 102h share the low bits of processors that are there."""
    apics.messages.send(address_of(ident), DATA)
    assert apics.got == []
    assert apics.messages.dropped == 1


@pytest.mark.parametrize("address", [address_of(0xFF), address_of(1, logical=True)])
def test_all_are_asked(apics: Apics, address: int) -> None:
    apics.messages.send(address, DATA)
    assert apics.got == [(ident, address, DATA) for ident in (0, 2, 300)]
    assert apics.messages.dropped == 0
