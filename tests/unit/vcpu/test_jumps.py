"""Indirect jumps to targets with the same low 16 bits, whose thunks form a series."""

from __future__ import annotations

import random
import struct

import pytest

from ringlet.core.state import Exit
from tests.unit.vcpu.board import CODE, DATA, Board

FIRST, APART = 0x100040, 0x10000
MOST = 8
CALLS = DATA + 0x1000
"""A list of addresses, which ends with 0."""

PROGRAM = bytes.fromhex(
    "31DB"  # xor ebx, ebx
    "488B3E"  # next: mov rdi, [rsi]
    "4885FF"  # test rdi, rdi
    "7411"  # jz over
    "4883C608"  # add rsi, 8
    "FFD7"  # call rdi
    "4869DB0D010000"  # imul rbx, rbx, 269
    "01C3"  # add ebx, eax
    "EBE7"  # jmp next
)


class Functions:
    """A board with functions that return a number each, 64 KiB apart."""

    def __init__(self) -> None:
        self.board = Board()
        self.results = [0] * MOST
        for number in range(MOST):
            self.write(number, 100 + number)

    def write(self, number: int, result: int) -> None:
        """Write the function of a number anew."""
        at = FIRST + number * APART
        self.board.p.write_phys(at, b"\xb8" + result.to_bytes(4, "little") + b"\xc3")
        self.results[number] = result

    def call(self, numbers: list[int]) -> int:
        """Call functions one after the other; return what comes of their results."""
        addresses = [FIRST + number * APART for number in numbers]
        data = struct.pack(f"<{len(numbers) + 1}Q", *addresses, 0)
        self.board.p.write_phys(CALLS, data)
        self.board.set(rsi=CALLS)
        assert self.board.run(PROGRAM) == Exit.EXIT_HLT
        return self.board.get("rbx") & 0xFFFFFFFF

    def expected(self, numbers: list[int]) -> int:
        """Return what `call` must return."""
        value = 0
        for number in numbers:
            value = (value * 269 + self.results[number]) & 0xFFFFFFFF
        return value


@pytest.fixture
def functions() -> Functions:
    return Functions()


@pytest.mark.parametrize("count", range(1, MOST + 1))
def test_calls_in_turn(functions: Functions, count: int) -> None:
    numbers = list(range(count)) * 50
    assert functions.call(numbers) == functions.expected(numbers)


def test_four_that_were_called_once_are_found_again(functions: Functions) -> None:
    numbers = [0, 1, 2, 3]
    functions.call(numbers)
    before = functions.board.p.counters()["indirect_misses"]
    functions.call(numbers * 25)

    assert functions.board.p.counters()["indirect_misses"] - before < 5


@pytest.mark.parametrize("number", range(4))
def test_one_of_a_series_is_written(functions: Functions, number: int) -> None:
    numbers = [0, 1, 2, 3]
    functions.call(numbers)
    functions.write(number, 7)
    assert functions.call(numbers * 3) == functions.expected(numbers * 3)


@pytest.mark.parametrize("seed", range(4))
def test_any_calls_and_writes(functions: Functions, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(400):
        kind = chance.randrange(8)
        if kind == 0:
            functions.write(chance.randrange(MOST), chance.randrange(1 << 32))
        elif kind == 1:
            functions.board.run("0F20D8 0F22D8")  # mov rax, cr3; mov cr3, rax
        elif kind == 2:
            # Another address space: the same tables by another root.
            functions.board.p.write_phys(0xA000, functions.board.p.read_phys(0x1000, 4096))
            functions.board.p.set("cr3", chance.choice([0x1000, 0xA000]))
        elif kind == 3:
            functions.board.set(rdi=FIRST + chance.randrange(MOST) * APART)
            functions.board.run("0F013F")  # invlpg [rdi]
        numbers = [chance.randrange(MOST) for _ in range(chance.randrange(1, 12))]
        assert functions.call(numbers) == functions.expected(numbers)
    assert functions.board.get("rip") == CODE + len(PROGRAM) + 1
