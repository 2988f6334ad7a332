"""Windows of fragments: addresses in several slots, at both privileges, and predicted slots."""

import struct

import pytest

from ringlet.core.state import Exit
from ringlet_probes.vcpu import predicted
from tests.unit.vcpu.board import CODE, DATA, PAGE_FAULT, PD, PDPT, PML4, SUPERVISOR, Board

SLOT = 1 << 36
SLOTS = range(1, 8)
"""Slots of 64 GiB that show the first 2 MiB again, as slot 0 does."""
CHAIN = "48034708 488b3f 4885ff 75f4"
"""1: add rax, [rdi + 8]; mov rdi, [rdi]; test rdi, rdi; jne 1b."""
LEARNING = 64
"""The misses after which a site uses the table."""

OTHER_PML4, MANY = 0xA000, 0xB000
MANY_SLOTS = 1400
"""More than there are windows."""

both_privileges = pytest.mark.parametrize("cpl", [0, 3])
both_modes = pytest.mark.parametrize("speculate", [True, False])


def board_with_slots(cpl: int = 0, *, speculate: bool = True) -> Board:
    board = Board(cpl, speculate=speculate)
    for slot in SLOTS:
        board.poke(PDPT + 8 * 64 * slot, PD | 7)
    return board


def chain(board: Board, slots: list[int], at: int = DATA) -> tuple[int, int]:
    """Write a chain with a node in each of `slots`; return its first address and its sum."""
    addresses = [slot * SLOT + at + 16 * i for i, slot in enumerate(slots)]
    values = [3 * i + 1 for i in range(len(slots))]
    for address, following, value in zip(addresses, [*addresses[1:], 0], values, strict=True):
        board.poke(address % SLOT, following, value)
    return addresses[0], sum(values)


def follow(board: Board, first: int) -> int:
    """Run along a chain, and return its sum."""
    board.set(rax=0, rdi=first)
    assert board.run(CHAIN) == Exit.EXIT_HLT
    return board.get("rax")


@both_privileges
@both_modes
def test_chain_in_any_slots_is_followed(cpl: int, speculate: bool) -> None:
    board = board_with_slots(cpl, speculate=speculate)

    sums = []
    for slots in ([3] * 20, [5] * 20, [1, 2] * 200, [0, 7, 7, 2] * 60, [4] * 3):
        first, expected = chain(board, slots)
        sums.append(follow(board, first) - expected)

    assert sums == [0] * 5
    assert board.p.counters()["emulated"] == 0


@both_privileges
def test_site_whose_slot_changes_predicts_the_new_one(cpl: int) -> None:
    board = board_with_slots(cpl)

    found = []
    for slot in (3, 3, 6, 6):
        follow(board, chain(board, [slot] * 20)[0])
        found.append(predicted(board.p, CODE))

    assert found == [(3, 1), (3, 1), (6, 2), (6, 2)]


@both_privileges
def test_site_that_varies_for_good_uses_the_table(cpl: int) -> None:
    board = board_with_slots(cpl)
    first, expected = chain(board, [1, 2] * (LEARNING + 10))

    total = follow(board, first)
    slot, misses = predicted(board.p, CODE)

    assert total == expected
    assert misses == 2 * (LEARNING + 10)
    assert slot ^ 0x8000 in (1, 2)  # no canonical address has this slot, so each pass misses


def test_site_that_uses_the_table_learns_again_after_65536_misses() -> None:
    board = board_with_slots()
    first, _ = chain(board, [1, 2] * 1024)
    for _ in range(32):
        follow(board, first)
    before = predicted(board.p, CODE)
    again, expected = chain(board, [5] * 10)

    assert before[1] == 0
    assert follow(board, again) == expected
    assert predicted(board.p, CODE) == (5, 1)


def test_prediction_of_the_kernels_gives_the_user_nothing() -> None:
    board = board_with_slots()
    address = 5 * SLOT + SUPERVISOR
    board.poke(SUPERVISOR, 0, 99)
    kernel = follow(board, address)
    board.enter(3)
    board.set(rax=0, rdi=address)
    board.run(CHAIN)

    assert kernel == 99
    assert (board.raised(), board.get("cr2"), board.get("rax")) == (PAGE_FAULT, address + 8, 0)


def test_slot_whose_window_went_to_another_is_found_again() -> None:
    board = board_with_slots()
    board.poke(OTHER_PML4, *[MANY | 7] * (MANY_SLOTS // 8))
    for i in range(8):
        board.poke(MANY + 8 * 64 * i, PD | 7)
    first, expected = chain(board, [3] * 20)
    before = follow(board, first)
    board.set(rax=OTHER_PML4)
    board.run("0F22D8")  # mov cr3, rax
    for i in range(MANY_SLOTS):
        board.set(rbx=(i << 36) + DATA)
        board.run("8A03")  # mov al, [rbx]
    taken = board.p.counters()["regions_full"]
    first, other = chain(board, [6, 3, 3, 6] * 8, DATA + 0x1000)
    board.set(rax=PML4)
    board.run("0F22D8")

    assert taken > 0
    assert before == expected
    assert follow(board, first) == other


@both_privileges
@both_modes
def test_loop_over_arrays_in_three_slots(cpl: int, speculate: bool) -> None:
    board = board_with_slots(cpl, speculate=speculate)
    board.p.write_phys(DATA, struct.pack("<64Q", *range(64)))
    board.p.write_phys(DATA + 0x1000, struct.pack("<64Q", *range(100, 164)))
    board.set(rsi=2 * SLOT + DATA, rbx=5 * SLOT + DATA + 0x1000, rdi=DATA + 0x2000, rcx=64)

    # 1: mov rax, [rsi]; add rax, [rbx]; mov [rdi], rax; add all, 8; dec ecx; jne 1b
    board.run("488b06 480303 488907 4883c608 4883c308 4883c708 ffc9 75e7")

    out = struct.unpack("<64Q", board.p.read_phys(DATA + 0x2000, 512))
    assert out == tuple(100 + 2 * i for i in range(64))
    assert board.p.counters()["emulated"] == 0


@both_privileges
@pytest.mark.parametrize(
    ("index", "offset"), [("89c9", 8 * 0x80000010), ("48c7c120000000", 0x100)], ids=["top", "low"]
)
def test_32_bit_index_reaches_across_slots(cpl: int, index: str, offset: int) -> None:
    # mov ecx, ecx, or mov rcx, 32; mov rax, [rbx + rcx*8]: the sum may lie in a guard.
    board = board_with_slots(cpl)
    board.poke(DATA, 1234)
    board.set(rbx=5 * SLOT + DATA - offset, rcx=0x80000010, rax=0)

    board.run(index + "488b04cb")

    assert board.get("rax") == 1234


@both_privileges
def test_strings_and_ordinary_accesses_to_several_slots_mix(cpl: int) -> None:
    board = board_with_slots(cpl)
    board.p.write_phys(DATA, b"across the slots")
    board.set(rsi=4 * SLOT + DATA, rdi=6 * SLOT + DATA + 0x1000, rcx=16, rbx=DATA + 0x1000, rdx=0)

    # mov rax, [rsi]; rep movsb; mov rdx, [rdi - 16]; mov rbp, [rsi - 8]; mov rbx, [rbx + 8]
    board.run("488b06 f3a4 488b57f0 488b6ef8 488b5b08")

    names = ("rax", "rdx", "rbp", "rbx")
    assert [board.get(name).to_bytes(8, "little") for name in names] == [
        b"across t", b"across t", b"he slots", b"he slots"
    ]  # fmt: skip


@both_privileges
@pytest.mark.parametrize("at", [-16, -12, -8, -4])
def test_node_at_the_end_of_a_slot_reaches_into_the_next(cpl: int, at: int) -> None:
    board = board_with_slots(cpl)
    pd, pt, page = 0xA000, 0xB000, 0x50000
    board.poke(PDPT + 8 * (64 * 3 + 63), pd | 7)
    board.poke(pd + 8 * 511, pt | 7)
    board.poke(pt + 8 * 511, page | 7)
    board.poke(PDPT + 8 * 64 * 4, pd + 0x2000 | 7)
    board.poke(pd + 0x2000, pt + 0x2000 | 7)
    board.poke(pt + 0x2000, page + 0x1000 | 7)
    board.p.write_phys(page + 0x1000 + at, struct.pack("<2Q", 5 * SLOT + DATA, 70))
    board.poke(DATA, 0, 7)

    assert follow(board, 4 * SLOT + at) == 77
