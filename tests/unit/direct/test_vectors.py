"""Vector state that CPUID does not show: it comes to no other program, and changes nothing else.

Where the host has no AVX-512, its instructions raise #UD as in translated code.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from ringlet.core.state import Exit
from ringlet.direct.zygote import Zygote
from tests.unit.direct.board import CALLED, SYSCALL, DirectBoard
from tests.unit.direct.guest import move
from tests.unit.vcpu.board import DATA, UD

AVX512 = "avx512f" in Path("/proc/cpuinfo").read_text()
PATTERN = bytes(range(1, 65))
LOADED, STORED = DATA, DATA + 0x1000
"""What programs load, and where they store what they find."""

TOUCH = move(1, STORED) + b"\x88\x01" + move(1, LOADED) + b"\x8a\x01"
"""Both pages are mapped in the process, so that nothing traps between a load and a store."""
LOAD = (
    move(1, LOADED)
    + bytes.fromhex("62f1fe486f01")  # vmovdqu64 zmm0, [rcx]
    + bytes.fromhex("62e1fe486f01")  # vmovdqu64 zmm16, [rcx]
    + bytes.fromhex("6261fe486f39")  # vmovdqu64 zmm31, [rcx]
    + move(0, 0x5A5A)
    + bytes.fromhex("c5f892f8")  # kmovw k7, eax
)
STORE = (
    move(1, STORED)
    + bytes.fromhex("62f1fe487f01")  # vmovdqu64 [rcx], zmm0
    + bytes.fromhex("62e1fe487f4101")  # vmovdqu64 [rcx + 64], zmm16
    + bytes.fromhex("6261fe487f7902")  # vmovdqu64 [rcx + 128], zmm31
    + bytes.fromhex("c5f893df")  # kmovw ebx, k7
)


@pytest.fixture
def board() -> DirectBoard:
    """A processor with one direct process, which all programs have in turn."""
    board = DirectBoard(Zygote(), 1)
    board.p.write_phys(LOADED, PATTERN)
    board.new_space()
    return board


def undefined(board: DirectBoard, code: bytes) -> bool:
    """Run code where its instructions are not there; tell whether they raised #UD."""
    return board.user(code) == Exit.EXIT_HLT and board.raised() == UD


def stored(board: DirectBoard) -> tuple[bytes, bytes, bytes, int]:
    """What a program has found in ZMM0, ZMM16, ZMM31 and K7."""
    found = board.p.read_phys(STORED, 192)
    return found[:64], found[64:128], found[128:], board.get("rbx") & 0xFFFFFFFF


def test_instructions_are_what_the_tests_take_them_for(board: DirectBoard) -> None:
    if not AVX512:
        assert undefined(board, LOAD)
        return
    assert board.calls(TOUCH + LOAD + STORE + SYSCALL)

    assert stored(board) == (PATTERN, PATTERN, PATTERN, 0x5A5A)


def test_next_program_finds_nothing(board: DirectBoard) -> None:
    if not AVX512:
        assert undefined(board, STORE)
        return
    assert board.calls(LOAD + SYSCALL)
    # As a kernel changes from one program to the next.
    board.new_space()
    board.set_vectors(ymm0=bytes(32))

    assert board.calls(STORE + SYSCALL)

    assert stored(board) == (bytes(64), bytes(64), bytes(64), 0)
    assert len(board.made) == 1


def test_state_is_lost_at_a_trap_and_the_rest_is_kept(board: DirectBoard) -> None:
    """ZMM0's low half is YMM0, which CPUID shows."""
    if not AVX512:
        assert undefined(board, LOAD)
        return
    assert board.calls(LOAD + SYSCALL)
    assert board.vector(0) == PATTERN[:32]

    assert board.calls(STORE + SYSCALL)

    assert stored(board) == (PATTERN[:32] + bytes(32), bytes(64), bytes(64), 0)


def test_translated_code_in_between_hands_nothing_on(board: DirectBoard) -> None:
    """It carries out the HLT, and raises its fault."""
    if not AVX512:
        assert undefined(board, LOAD)
        return
    assert board.user(LOAD + b"\xf4") == Exit.EXIT_HLT
    assert board.vector(0) == PATTERN[:32]
    board.new_space()

    assert board.calls(STORE + SYSCALL)

    assert stored(board)[1:] == (bytes(64), bytes(64), 0)


def test_other_programs_keep_their_vectors(board: DirectBoard) -> None:
    """A kernel keeps what CPUID shows; a program that uses more does not change it."""
    if not AVX512:
        assert undefined(board, LOAD)
        return
    values = {f"ymm{n}": bytes([n + 1]) * 32 for n in range(16)}
    board.set_vectors(**values)
    assert board.calls(SYSCALL)
    kept = board.p.get_xsave()
    board.new_space()
    assert board.calls(LOAD + SYSCALL)
    board.new_space()
    board.p.set_xsave(kept)

    assert board.calls(SYSCALL)

    assert [board.vector(n) for n in range(16)] == list(values.values())
    assert board.get("rip") == CALLED + 1
