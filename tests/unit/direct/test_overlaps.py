"""Screening of code that runs otherwise than decoding from before suggests."""

from __future__ import annotations

import pytest

from ringlet.direct.replacing import replace
from ringlet.direct.screening import clean

PAGE = 4096
NOPS = b"\x90" * 150
RUN = bytes.fromhex("04" * 90)
"""ADD AL, 4, which is the same from its second byte on."""
CONSTANT = bytes.fromhex("b931c00fa2")
"""MOV ECX, imm32, which has XOR EAX, EAX and CPUID in it."""
SAVE = bytes.fromhex("31d2" + "0fae642440")
"""XOR EDX, EDX; XSAVE [RSP + 40h]."""


def page(code: bytes) -> bytes:
    return code.ljust(PAGE, b"\x90")


def behind_data(code: bytes) -> bytes:
    """Code behind a jump over one byte, from which decoding goes on out of step."""
    return page(NOPS + bytes.fromhex("eb0104") + RUN + code)


@pytest.mark.parametrize("code", ["31c00fa2", "b0690f01d0"])
def test_jump_over_data_hides_no_instruction(code: str) -> None:
    assert clean(page(NOPS + b"\x04" + RUN + bytes.fromhex(code)), cpuid=True)
    assert not clean(behind_data(bytes.fromhex(code)), cpuid=True)


@pytest.mark.parametrize("writable", [False, True])
def test_jump_over_data_makes_no_instruction_of_a_constant(writable: bool) -> None:
    assert replace(behind_data(CONSTANT), writable=writable, cpuid=True) is None


def test_what_translated_code_was_within_is_not_replaced() -> None:
    code = page(NOPS + CONSTANT[1:])
    at = len(NOPS) + 2

    assert replace(code, cpuid=True) == page(NOPS + b"\x31\xc0\xf4\xf4")
    assert replace(code, inner=(at + 1,), cpuid=True) == replace(code, cpuid=True)
    assert replace(code, inner=(at,), cpuid=True) is None


@pytest.mark.parametrize("code", ["8bb8", "c704b8"])
def test_operand_with_the_byte_of_a_move_is_no_mask(code: str) -> None:
    before = NOPS + bytes.fromhex(code)

    assert clean(page(NOPS + bytes.fromhex("b807000000") + SAVE))
    assert not clean(page(before + bytes.fromhex("07000000") + SAVE))
    copy = replace(page(before + bytes.fromhex("ee000000") + SAVE))
    assert copy is not None
    assert copy.startswith(before + bytes.fromhex("ee000000" + "31d2" + "f4f4f4f4f4"))
