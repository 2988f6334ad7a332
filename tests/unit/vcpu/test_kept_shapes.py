"""Kept translations whose instructions the shape table does not know."""

from tests.unit.vcpu.board import DATA, PD, PDPT, Board

AGAIN = 1 << 36
"""The same pages in the second slot, which has no window yet."""
LOAD = "8B07 034704"  # mov eax, [rdi]; add eax, [rdi + 4]


def without_shapes(stored: bytes) -> bytes:
    """Return the stored translations without the shapes before them."""
    return bytes(8) + stored[8 + int.from_bytes(stored[:8], "little") :]


def prepared() -> Board:
    board = Board(keep=True)
    board.poke(DATA, 5 | 6 << 32)
    board.poke(PDPT + 8 * (AGAIN >> 30), PD | 7)
    board.set(rdi=AGAIN + DATA)
    return board


def test_window_is_filled_for_an_instruction_of_no_known_shape() -> None:
    first = prepared()
    first.run(LOAD)
    second = prepared()
    second.p.kept.load(without_shapes(first.p.kept.dump()))

    second.run(LOAD)

    assert second.p.counters()["kept_fragments"] >= 1
    assert second.p.counters()["shapes"] >= 1
    assert second.p.counters()["exceptions"] == first.p.counters()["exceptions"]
    assert second.p.get("rax") == first.p.get("rax") == 11
