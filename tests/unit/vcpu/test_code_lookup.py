"""The code lookup acts as the instruction TLB: when it may keep an entry, and when not."""

import pytest

from ringlet.core.state import Exit
from tests.unit.vcpu.board import CODE, DATA, DEVICE, DEVICE_PHYS, PD, PDPT, PML4, Board

SHARED, OWN = 0xA000, 0xB000
"""Page tables: one for many slots of 64 GiB, and three in a row for one slot."""
FIRST, SECOND = 0x50000, 0x51000
SLOTS = 200
CODE_AT = 40 << 39


@pytest.fixture
def board() -> Board:
    """There are more slots than windows, and the code is in the last slot used."""
    board = Board()
    board.poke(PML4, *[PDPT | 7, *[SHARED | 7] * 31])
    for i in range(8):
        board.poke(SHARED + 8 * 64 * i, PD | 7)
    board.poke(PML4 + 8 * 40, OWN | 7)
    board.poke(OWN, OWN + 0x1000 | 7)
    board.poke(OWN + 0x1000, OWN + 0x2000 | 7)
    board.poke(OWN + 0x2000, FIRST | 7)
    board.p.write_phys(FIRST, bytes.fromhex("B801000000F4"))  # mov eax, 1; hlt
    board.p.write_phys(SECOND, bytes.fromhex("B802000000F4"))
    for i in range(8, SLOTS):
        board.set(rbx=i << 36)
        assert board.run("8A03") == Exit.EXIT_HLT  # mov al, [rbx]
    return board


def call(board: Board) -> int:
    """Run the code that is mapped at `CODE_AT`, and return RAX."""
    board.set(rbx=CODE_AT)
    assert board.run("FFE3") == Exit.EXIT_HLT  # jmp rbx
    return board.get("rax")


def test_invlpg_ends_code_of_a_slot_without_a_window(board: Board) -> None:
    before = call(board), call(board)
    board.poke(OWN + 0x2000, SECOND | 7)
    board.set(rbx=CODE_AT)
    board.run("0F013B")  # invlpg [rbx]

    assert (*before, call(board)) == (1, 1, 2)


def test_load_of_cr3_ends_code_of_a_slot_without_a_window(board: Board) -> None:
    before = call(board), call(board)
    board.poke(OWN + 0x2000, SECOND | 7)
    board.set(rax=PML4)
    board.run("0F22D8")  # mov cr3, rax

    assert (*before, call(board)) == (1, 1, 2)


# --- the bytes that the general emulator gets

INSN = "8B03C3"  # mov eax, [rbx]; ret


@pytest.fixture
def stale() -> Board:
    """Return a board with a function in the lookup, whose page tests replace without INVLPG."""
    board = Board()
    board.p.write_phys(FIRST, bytes.fromhex(INSN))
    board.device.set(0, b"\x11\x22\x33\x44")
    board.set(rbx=DATA, rdi=FIRST)
    for _ in range(2):
        assert board.run("FFD7") == Exit.EXIT_HLT  # call rdi
    board.set(rbx=DEVICE)
    return board


@pytest.mark.parametrize(
    "code", ["0FA2C3", "31C0C3", "8C1BC3", "0F0BC3", "F4F4C3"]
)  # cpuid; xor eax, eax; mov [rbx], ds; ud2; hlt
def test_an_access_to_a_device_is_of_the_instruction_that_was_fetched(
    stale: Board, code: str
) -> None:
    stale.p.write_phys(SECOND, bytes.fromhex(code))
    stale.map(FIRST, SECOND | 7)

    assert stale.run("FFD7") == Exit.EXIT_HLT
    assert (stale.get("rax"), stale.get("rip")) == (0x44332211, CODE + 3)
    assert stale.device.reads == [(0, 4)]


@pytest.mark.parametrize(
    ("entry", "ends"), [(DEVICE_PHYS | 0x1007, Exit.EXIT_NO_RAM), (0, Exit.EXIT_HLT)]
)
def test_an_access_to_a_device_needs_no_code_in_memory_any_more(
    stale: Board, entry: int, ends: Exit
) -> None:
    stale.map(FIRST, entry)

    assert stale.run("FFD7") == ends
    assert stale.get("rax") == 0x44332211
    assert stale.device.reads == [(0, 4)]
