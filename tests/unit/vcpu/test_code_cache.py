"""A guest with more code than the code cache holds."""

import struct

import pytest

from ringlet.core.state import Exit
from tests.unit.vcpu.board import HLT, PD, PT, STACK, Board

AREA, MIDDLE, END = 0x100000, 0x180000, 0x1F0000
BLOCK = 16
"""Bytes of a block: a call of the routine behind the last block, which increments RBX."""
VIEWS = 6
"""At that many linear addresses, 2 MiB apart, the area is shown, and its code translated anew."""


@pytest.fixture
def board() -> Board:
    board = Board()
    for view in range(VIEWS):
        board.poke(PD + 8 * view, PT | 7)
    calls = b"".join(
        (b"\xe8" + struct.pack("<i", END + 1 - (at + 5))).ljust(BLOCK, b"\x90")
        for at in range(AREA, END, BLOCK)
    )
    board.p.write_phys(AREA, calls + HLT + b"\x48\xff\xc3\xc3")  # inc rbx; ret
    return board


def run(board: Board, view: int, start: int) -> None:
    """Run the blocks from `start` on in one of the views."""
    board.set(rip=(view << 21) + start, rsp=STACK)
    assert board.go() == Exit.EXIT_HLT


def test_oldest_code_makes_room_and_runs_again(board: Board) -> None:
    for view in range(VIEWS):
        run(board, view, AREA)
    first = board.p.counters()
    # The second half of the oldest view may still be there, linked to a routine that is gone.
    for start in (MIDDLE, AREA):
        run(board, 0, start)
    run(board, VIEWS - 1, AREA)
    then = board.p.counters()

    blocks = ((VIEWS + 2) * (END - AREA) + END - MIDDLE) // BLOCK
    assert board.get("rbx") == blocks
    assert first["flushes"] >= 2  # the first one made the cache
    assert first["fragments_live"] * BLOCK > 2 * (END - AREA)
    assert first["code_cache_used"] <= first["code_cache_size"]
    # The newest code was not dropped.
    assert (then["fragments"] - first["fragments"]) * BLOCK < 1.6 * (END - AREA)
