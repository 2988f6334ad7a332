"""FOP in save areas is that of the guest's instruction, not of its translation (SDM 1 8.1.9)."""

import struct

import pytest

from ringlet.core.state import Exit
from tests.unit.vcpu.board import DATA, DEVICE, Board

CONTROL, OPERAND, AREA = DATA, DATA + 0x100, DATA + 0x400
FOP = {"480FAE02": 6, "0FAE02": 6, "D932": 18, "DD32": 18, "0FAE22": 6}
"""Offset of FOP in the area of each save instruction."""
OPCODES = [
    ("DC31", 0x431),  # fdiv qword [rcx]
    ("DC7110", 0x471),
    ("41DC31", 0x431),  # [r9]
    ("67DC31", 0x431),
    ("DCB100000000", 0x4B1),
    ("DC3421", 0x434),
    ("65DC31", 0x431),
    ("D831", 0x031),  # fdiv dword [rcx]
    ("DA31", 0x231),  # fidiv dword [rcx]
    ("D9EED9E8D8F1", 0x0F1),  # fldz; fld1; fdiv st0, st1
]


@pytest.fixture
def kernel() -> Board:
    board = Board(0)
    board.p.write_phys(CONTROL, struct.pack("<H", 0x37B))  # division by zero is not masked
    board.set(rsi=CONTROL, rcx=OPERAND, r9=OPERAND, rdx=AREA, rax=7, gs_base=0)
    return board


@pytest.mark.parametrize("save", FOP)
@pytest.mark.parametrize(("code", "opcode"), OPCODES)
def test_opcode_of_a_pending_exception(kernel: Board, code: str, opcode: int, save: str) -> None:
    kernel.set(rdx=AREA)
    assert kernel.run("DBE3D92ED9E8" + code + save) == Exit.EXIT_HLT  # fninit; fldcw; fld1

    assert struct.unpack("<H", kernel.p.read_phys(AREA + FOP[save], 2)) == (opcode,)


@pytest.mark.parametrize("save", FOP)
def test_opcode_of_an_emulated_instruction(kernel: Board, save: str) -> None:
    kernel.set(rcx=DEVICE)
    assert kernel.run("DBE3D92ED9E8DC31" + save) == Exit.EXIT_HLT

    assert struct.unpack("<H", kernel.p.read_phys(AREA + FOP[save], 2)) == (0x431,)


@pytest.mark.parametrize("save", FOP)
def test_opcode_that_the_guest_has_loaded_stays(kernel: Board, save: str) -> None:
    assert kernel.run("DBE3D92ED9E8DC31480FAE02") == Exit.EXIT_HLT
    image = bytearray(kernel.p.read_phys(AREA, 512))
    struct.pack_into("<HQQ", image, 6, 0x123, 0x1234567, 0x89ABCDE)
    kernel.p.write_phys(AREA, bytes(image))
    assert kernel.run("DBE3480FAE0A" + save) == Exit.EXIT_HLT  # fxrstor64 [rdx]

    assert struct.unpack("<H", kernel.p.read_phys(AREA + FOP[save], 2)) == (0x123,)
