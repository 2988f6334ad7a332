"""Chance instructions in real-address mode, emulated and under Unicorn."""

import random

import pytest

from ringlet.core.state import Exit
from tests.unit.vcpu.board import NAMES
from tests.unit.vcpu.narrow_board import CS, FLAGS, RealBoard
from tests.unit.vcpu.unicorn_real import (
    MEMORY,
    MEMORY_SIZE,
    RealUnicorn,
    forms,
    prepare,
    undefined,
)

COUNT = 1200


@pytest.mark.parametrize("seed", range(2))
def test_real_mode_agrees_with_unicorn(seed: int) -> None:
    chance = random.Random(seed)
    board, unicorn = RealBoard(), RealUnicorn()
    found = {}
    compared = 0
    for instruction, code in forms(chance, COUNT):
        prepare(board, chance)
        start = board.get("rip")
        board.p.write_phys(board.p.get_segment(CS)[1] + start, code)
        unicorn.load(board)
        assert board.p.emulate(deliver=False) == Exit.EXIT_NONE
        if board.p.exception is not None:
            continue  # of a limit, or of a division
        expected = unicorn.step()
        compared += 1
        defined = FLAGS & ~undefined(instruction)
        mine = (
            [board.get(name) for name in NAMES[:8]],
            board.get("rflags") & defined,
            board.get("rip"),
            board.p.read_phys(MEMORY, MEMORY_SIZE),
        )
        if mine != (expected[0], expected[1] & defined, *expected[2:]):
            found[f"{code.hex()} {instruction}"] = [
                [hex(value) for value in (*outcome[0], *outcome[1:3])]
                for outcome in (mine, expected)
            ]

    assert found == {}
    assert compared > COUNT // 2
