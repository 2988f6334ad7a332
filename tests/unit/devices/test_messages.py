"""Destinations of interrupt messages (SDM 3A 11.11; Linux's arch/x86/include/asm/msi.h)."""

import pytest

from ringlet.devices.messages import LOGICAL, PAGE, address_of, destination_of


@pytest.mark.parametrize(
    ("destination", "address"),
    [(0, 0xFEE0_0000), (0xFF, 0xFEEF_F000), (0x100, 0xFEE0_0020), (0x7FFF, 0xFEEF_FFE0),
     (0x1234, 0xFEE3_4240)],
)  # fmt: skip
def test_destination_has_15_bits(destination: int, address: int) -> None:
    assert address_of(destination) == address
    assert address_of(destination, logical=True) == address | LOGICAL
    assert destination_of(address) == destination_of(address | LOGICAL) == destination
    assert address >> 20 == PAGE


def test_remappable_format_has_no_extension() -> None:
    assert destination_of(0xFEE0_2FF0) == 2
    assert destination_of(0xFEE0_2FE0) == 0x7F02
