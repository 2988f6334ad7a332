"""Translated code of real mode, with checks of 64 KiB beside those of any limit.

Its segments have 64 KiB, so that only operands that pass the last offset are out of their limit,
and loads of segment registers need not leave translated code.  Where PDEP is slow, neither is used.
"""

import struct

import pytest

from ringlet.core.state import Exit
from tests.unit.vcpu.board import CODE, DATA, DF, GP, STACK_FAULT
from tests.unit.vcpu.narrow_board import CS, DS, ES, SS, RealBoard

GS = 5
REGISTERS = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi")
HANDLERS = 0x600
DEPOSIT = 0x4000_0000_0000_FFFF

# The registers before each instruction; DI, SI, BX and BP are offsets.
EDGES = (0, 1, 0x7FFF, 0xFFF0, 0xFFFB, 0xFFFC, 0xFFFD, 0xFFFE, 0xFFFF)
CODES = (
    "8A07", "8807", "8B07", "8907", "668B07", "668907", "268A07", "268B05", "368B07", "2E8B07",
    "8B4600", "884600", "668B4601", "FE07", "FF07", "66FF07", "0FB607", "0FB707", "A4", "A5",
    "66A5", "AA", "AB", "66AB", "AC", "AD", "AE", "AF", "A6", "A7", "26A5", "36AD", "D7", "8ED8",
    "8EC0", "8EE8", "C407", "C507", "0FB507", "26C407", "1F", "07", "0FA9", "661F", "1E", "06",
    "0E", "16", "6606", "8CD8", "668CD8", "50", "58", "6650", "6658", "FF37", "C9", "8707",
    "F30F6F07", "660FEF07", "0F10470F", "DD07", "DB2F", "DF3F", "60", "61", "6660", "6661",
    "648B07", "658907", "648A07", "65A5", "8EE0", "648B4600",
)  # fmt: skip


def board_of() -> RealBoard:
    board = RealBoard()
    # As on a host whose PDEP is fast.
    board.p.set("deposit", DEPOSIT)
    board.segment(ES, (DATA >> 4) + 1)
    board.segment(GS, 0x1234)
    board.p.set_table("idtr", 0, 0x3FF)
    for vector in range(20):
        board.p.write_phys(4 * vector, struct.pack("<HH", 0, HANDLERS + vector))
        board.p.write_phys((HANDLERS + vector) << 4, b"\xf4")
    return board


def prepare(board: RealBoard, edge: int, flags: int) -> None:
    for index, selector in ((ES, (DATA >> 4) + 1), (SS, DATA >> 4), (DS, DATA >> 4), (GS, 0x1234)):
        board.segment(index, selector)
    values = dict.fromkeys(REGISTERS, 0xABCD0000 | edge)
    values |= {"rax": 0x5A5A2345, "rcx": 3, "rdx": 0x1111FFFF}
    board.set(**values, rip=0x100, rflags=board.get("rflags") & ~DF | flags)
    board.p.write_phys(DATA, bytes(range(256)) * 256 + bytes(range(64)))


def outcome(board: RealBoard) -> tuple[object, ...]:
    segments = [board.p.get_segment(i)[:3] for i in (ES, SS, DS, 4, GS)]
    memory = board.p.read_phys(DATA, 0x10040)
    return [board.get(name) for name in REGISTERS], segments, memory, board.get("rip")


def translated(board: RealBoard, code: str) -> tuple[object, ...]:
    """Run the instruction before HLT; return the exception's vector, or -1 for a shutdown."""
    board.p.write_phys(CODE + 0x100, bytes.fromhex(code) + b"\xf4")
    if board.p.run() != Exit.EXIT_HLT:
        return -1, outcome(board)
    at = board.p.get_segment(CS)[0]
    return None if at == CODE >> 4 else at - HANDLERS, outcome(board)


@pytest.mark.parametrize("flags", [0, DF])
@pytest.mark.parametrize("code", CODES)
def test_64_kib_are_checked_as_any_other_limit_is(code: str, flags: int) -> None:
    one, other = board_of(), board_of()
    one.p.set("deposit", 0)
    for edge in EDGES:
        results = []
        for board in (one, other):
            prepare(board, edge, flags)
            board.segment(CS, CODE >> 4)
            results.append(translated(board, code))
        assert results[0] == results[1], f"{code} {edge:x}"


@pytest.mark.parametrize(
    ("code", "vector"), [("8B07", GP), ("8B4600", STACK_FAULT), ("C407", GP), ("AB", GP)]
)
def test_an_operand_that_passes_the_segment_is_refused(code: str, vector: int) -> None:
    board = board_of()
    prepare(board, 0xFFFF, 0)
    board.set(rsp=0x800)

    assert translated(board, code)[0] == vector


@pytest.mark.parametrize("load", ["8ED8", "1E1F", "C51E0000", "0E1F"])
def test_what_follows_a_load_uses_the_new_segment(load: str) -> None:
    """MOV, PUSH and POP, LDS: then MOV CX, [20h]."""
    board = board_of()
    prepare(board, 0x40, 0)
    board.put(0, 0x40, 0x2345)
    board.set(rax=0x2345)
    expected = {"8ED8": 0x2345, "1E1F": DATA >> 4, "C51E0000": 0x2345, "0E1F": CODE >> 4}[load]
    board.p.write_phys((expected << 4) + 0x20, b"\x78\x56")
    board.p.write_phys(CODE + 0x100, bytes.fromhex(load + "8B0E2000F4"))

    board.p.run()

    assert board.get("rcx") & 0xFFFF == 0x5678
    assert board.p.get_segment(DS)[:3] == (expected, expected << 4, 0xFFFF)
    assert board.p.counters()["ops"] == 1


def test_a_far_pointer_through_segments_does_not_leave() -> None:
    board = board_of()
    prepare(board, 0, 0)
    for number in range(16):
        board.p.write_phys(DATA + 32 * number, struct.pack("<HH", 0, (DATA >> 4) + 2 * number + 2))
    board.set(rbx=0, rcx=16)
    board.segment(ES, DATA >> 4)
    # les bx, es:[bx]; loop
    board.p.write_phys(CODE + 0x100, bytes.fromhex("26C41FE2FBF4"))

    board.p.run()

    assert board.p.get_segment(ES)[0] == (DATA >> 4) + 32
    assert board.p.counters()["ops"] == 1


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("prefix", ["", "F3", "F2"])
def test_xlatb_after_lodsb_takes_al(prefix: str, count: int) -> None:
    board = board_of()
    prepare(board, 0, 0)
    board.p.write_phys(DATA, bytes(range(0x40, 0x50)))
    board.p.write_phys(DATA + 0x100, bytes(255 - number for number in range(256)))
    board.set(rax=0x77, rbx=0x100, rcx=count, rsi=0)
    board.p.write_phys(CODE + 0x100, bytes.fromhex(prefix + "ACD7F4"))

    board.p.run()

    repetitions = count if prefix else 1
    loaded = 0x3F + repetitions if repetitions else 0x77
    assert board.get("rax") & 0xFF == 255 - loaded


def test_a_segment_that_has_been_null_is_loaded_whole() -> None:
    """In protected mode FS was null; in real mode it is loaded, and then used."""
    board = board_of()
    prepare(board, 0x40, 0)
    board.p.set_segment(4, 0, 0, 0, 1 << 16)
    board.set(rax=DATA >> 4)
    board.put(0x20, 0x5678)
    # mov fs, ax; mov cx, fs:[20h]
    board.p.write_phys(CODE + 0x100, bytes.fromhex("8EE0648B0E2000F4"))

    assert board.p.run() == Exit.EXIT_HLT

    assert board.get("rcx") & 0xFFFF == 0x5678
    assert board.p.get_segment(4)[:3] == (DATA >> 4, DATA, 0xFFFF)
