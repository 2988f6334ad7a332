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


# --- the first bytes of a page

WITHIN_LEA = bytes.fromhex("488d35" + "0fae32f7")
"""LEA RSI, [RIP + disp32], which has XSAVEOPT [RDX] in it."""
INIT = bytes.fromhex("4883ec08" + "488b057dcf0f00" + "4885c0" + "7402" + "ffd0")
"""_init of a program, with STR [RAX - 75h] in the displacement of MOV."""
WITHIN_JUMP = bytes.fromhex("0f84" + "0f010000")
"""JE, which has SGDT [RAX] in it."""


def test_first_bytes_are_judged_with_the_page_before() -> None:
    first = page(WITHIN_LEA + b"\x90")

    assert clean(page(b""), first)
    assert clean(page(b"")[:-3] + WITHIN_LEA[:3], page(WITHIN_LEA[3:]))
    assert not clean(page(b""), page(WITHIN_LEA[3:]))
    assert not clean(first), "nothing is known of the page before"


def test_function_at_the_beginning_of_a_program_runs() -> None:
    assert clean(page(INIT))
    assert not clean(page(INIT[9:]))


def test_part_of_an_instruction_is_refused_only_where_decoding_can_come_to_it() -> None:
    for at in (20, 60):
        code = page(b"\x90" * at + WITHIN_JUMP)
        assert clean(code)
        assert not clean(page(b"\x90" * at + WITHIN_JUMP[2:]))
    assert not clean(page(WITHIN_JUMP[2:]))
