"""Far transfers, interrupts and flags of real mode in translated code, beside the operations.

The operations are taken where PDEP is slow: there no segment register is loaded in place.
"""

import struct

import pytest

from ringlet.core.state import Exit
from tests.unit.vcpu.board import AF, CF, CODE, DATA, DF, IF, OF, PF, SF, ZF
from tests.unit.vcpu.narrow_board import CS, DS, RealBoard
from tests.unit.vcpu.test_narrow_paragraphs import (
    DEPOSIT,
    HANDLERS,
    board_of,
    outcome,
    prepare,
)

NT, IOPL, TF, AC, ID, VIP = 1 << 14, 3 << 12, 1 << 8, 1 << 18, 1 << 21, 1 << 20
TARGET, TARGET_AT = 0x0500, 0x0123
"""A selector, and an offset at which there is HLT."""
ARITHMETIC = CF | PF | AF | ZF | SF | OF

# The flags before, and the image that IRET and POPF load.
FLAGS = (0, CF, PF | AF, ZF | SF, OF, ARITHMETIC, DF, IF, IF | OF | CF, NT, IOPL, AC, ID | AC, VIP)
IMAGES = (0, ARITHMETIC, OF, CF, SF, ZF, AF, PF, DF, IF, IF | ARITHMETIC, NT, IOPL, 0x8000, 0x28)
STACKS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 0x100, 0xFFF9, 0xFFFA, 0xFFFB, 0xFFFC, 0xFFFD, 0xFFFE, 0xFFFF)
POINTER = 0x80


def far_board(deposit: int) -> RealBoard:
    board = board_of()
    board.p.set("deposit", deposit)
    board.p.write_phys((TARGET << 4) + TARGET_AT, b"\xf4")
    return board


def start(board: RealBoard, code: str, sp: int, flags: int, image: int = 0) -> None:
    prepare(board, 0x40, 0)
    pops_flags_alone = code.removeprefix("66").startswith("9D")
    frame = struct.pack("<3H", image if pops_flags_alone else TARGET_AT, TARGET, image)
    for offset, byte in enumerate(frame):
        board.p.write_phys(DATA + (sp + offset & 0xFFFF), bytes([byte]))
    board.p.write_phys(DATA + POINTER, struct.pack("<HH", TARGET_AT, TARGET))
    board.segment(CS, CODE >> 4)
    board.set(rsp=0x5A5A0000 | sp, rflags=2 | flags)
    board.p.write_phys(CODE + 0x100, bytes.fromhex(code) + b"\xf4")


def pair() -> tuple[RealBoard, RealBoard]:
    """Return boards for the operations and for code in place."""
    return far_board(0), far_board(DEPOSIT)


def compare(
    boards: tuple[RealBoard, RealBoard], code: str, sp: int, flags: int, image: int = 0
) -> None:
    """Run the instruction by the operation and in place, and compare all that is left."""
    results = []
    for board in boards:
        start(board, code, sp, flags, image)
        kind = board.p.run()
        segments = board.p.get_segment(CS)[:3]
        results.append((kind, outcome(board), segments, board.get("rflags")))
    assert results[0] == results[1], f"{code} SP {sp:x} flags {flags:x} image {image:x}"


TRANSFERS = (
    "9A23010005", "EA23010005", "FF1E8000", "FF2E8000", "CB", "CA0400", "CAFEFF", "36FF1E8000",
    "2EFF1E8000", "669A230100000005", "66CB", "CD03", "CD00", "CDFF", "66CD03", "CC", "CE", "CF",
    "66CF", "9C", "669C", "9D", "669D", "9D50", "9C58", "FA9C", "FB9C",
)  # fmt: skip


@pytest.mark.parametrize("code", TRANSFERS)
def test_transfers_in_place_are_those_of_the_operations(code: str) -> None:
    boards = pair()
    for sp in STACKS:
        compare(boards, code, sp, 0, ARITHMETIC)
    for flags in FLAGS:
        for image in (0, ARITHMETIC | IF):
            compare(boards, code, 0x100, flags, image)


@pytest.mark.parametrize("code", ["CF", "9D", "9D9C", "66CF", "669D"])
@pytest.mark.parametrize("image", IMAGES)
def test_images_of_flags_in_place_are_those_of_the_operations(code: str, image: int) -> None:
    boards = pair()
    for flags in FLAGS:
        compare(boards, code, 0x100, flags, image)


@pytest.mark.parametrize(
    ("code", "at"),
    [
        ("9A23010005", TARGET),
        ("EA23010005", TARGET),
        ("FF1E8000", TARGET),
        ("FF2E8000", TARGET),
        ("CB", TARGET),
        ("CF", TARGET),
        ("CD03", HANDLERS + 3),
        ("9C", CODE >> 4),
        ("9D", CODE >> 4),
    ],
)
def test_transfers_of_real_mode_do_not_leave(code: str, at: int) -> None:
    boards = pair()
    compare(boards, code, 0x100, ZF, ARITHMETIC | IF)
    board = boards[1]

    assert board.p.get_segment(CS)[:3] == (at, at << 4, 0xFFFF)
    assert board.p.counters()["ops"] == 1  # HLT


def test_an_interrupt_table_that_is_too_short_is_refused() -> None:
    results = []
    for board in pair():
        board.p.set_table("idtr", 0, 0x37)
        start(board, "CD20", 0x100, 0)
        results.append((board.p.run(), outcome(board), board.p.get_segment(CS)[0]))

    assert results[0] == results[1]
    assert results[0][0] != Exit.EXIT_HLT or results[0][2] != HANDLERS + 0x20


def test_the_stack_may_be_the_interrupt_table() -> None:
    """The gate is read before the frame is pushed over it."""
    results = []
    for board in pair():
        start(board, "CD03", 0x10, 0)
        board.segment(2, 0)
        results.append((board.p.run(), outcome(board), board.p.get_segment(CS)[0]))
        assert board.p.get_segment(CS)[0] == HANDLERS + 3
        assert board.p.read_phys(0xC, 4) == struct.pack("<HH", CODE >> 4, 2)

    assert results[0] == results[1]


def test_code_behind_a_far_call_uses_the_new_code_segment() -> None:
    """MOV AX, CS:[10h] and PUSH CS there, and back by RET far."""
    board = far_board(DEPOSIT)
    start(board, "9A23010005", 0x100, 0)
    board.p.write_phys((TARGET << 4) + 0x10, b"\x34\x12")
    board.p.write_phys((TARGET << 4) + TARGET_AT, bytes.fromhex("2EA110000E5BCB"))

    assert board.p.run() == Exit.EXIT_HLT

    assert board.get("rax") & 0xFFFF == 0x1234
    assert board.get("rbx") & 0xFFFF == TARGET
    assert (board.p.get_segment(CS)[0], board.get("rip")) == (CODE >> 4, 0x106)
    assert board.p.counters()["ops"] == 1


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("code", ["F3A4", "F3A5", "66F3A5", "F3AA", "F3AB", "66F3AB", "F3AC",
                                  "F3AE", "F2AE", "F3A6", "F2A6", "F3A7", "66F3A7"])  # fmt: skip
def test_repetitions_end_at_the_segments(code: str, descending: bool) -> None:
    """The same count, pointers and memory, whether in one piece or by elements."""
    boards = pair()
    for si, di, count in (
        (0, 0, 0), (0, 0x100, 1), (0x100, 0, 0xFFFF), (0xFFF0, 0x200, 0x10), (0xFFF0, 0x200, 0x12),
        (0x200, 0xFFF1, 8), (0xFFFE, 0xFFFD, 3), (0x10, 0x8000, 0x200), (0x8000, 0x8000, 0x8000),
    ):  # fmt: skip
        results = []
        for board in boards:
            start(board, code, 0x4000, DF if descending else 0)
            board.segment(DS, DATA >> 4)
            board.set(rsi=0xABCD0000 | si, rdi=0x12340000 | di, rcx=0x77770000 | count)
            results.append((board.p.run(), outcome(board), board.p.get_segment(CS)[0]))
        assert results[0] == results[1], f"{code} {si:x} {di:x} {count:x}"
