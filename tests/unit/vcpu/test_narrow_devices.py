"""16- and 32-bit instructions that have met devices: direct accesses, in whatever segment."""

from __future__ import annotations

import struct

import pytest

from ringlet.core.state import Exit
from tests.unit.vcpu.board import CODE, DEVICE_PHYS, HLT, Board

BYTES = bytes.fromhex("f1d2c3b4a5968778")
ES, CS, SS, DS, FS, GS = range(6)
TIMES = 6
ADDRESS = struct.pack("<I", DEVICE_PHYS).hex()


def board_of(base: int = 0, limit: int = 0xFFFFFFFF) -> Board:
    """A processor in 32-bit code without paging, whose DS and FS have such a base and limit."""
    board = Board(0)
    p = board.p
    p.set("efer", 0)
    p.set("cr0", 0x11)
    p.set_segment(CS, 8, 0, 0xFFFFFFFF, 0xC09B)
    for index in (ES, SS, GS):
        p.set_segment(index, 0x10, 0, 0xFFFFFFFF, 0xC093)
    for index in (DS, FS):
        p.set_segment(index, 0x18, base, limit, 0xC093)
    p.attach_memory(board.device.read, board.device.write)
    board.device.set(0, BYTES)
    return board


def repeat(board: Board, code: str, **registers: int) -> Exit:
    """Run the instruction some times."""
    loop = bytes.fromhex(code) + b"\xe2"
    loop += struct.pack("b", -len(loop) - 1) + HLT
    board.p.write_phys(CODE, loop)
    board.set(rip=CODE, rcx=TIMES, rsp=0x8000, rflags=2, **registers)
    return Exit(board.p.run())


@pytest.mark.parametrize("base", [0, 0x1000])
@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("8b03", 0xB4C3D2F1), ("668b03", 0x5A5AD2F1), ("8a03", 0x5A5A5AF1), ("8a23", 0x5A5AF15A),
        ("0fb603", 0xF1), ("0fbf03", 0xFFFFD2F1), ("660fbe03", 0x5A5AFFF1), ("8b4304", 0x788796A5),
        ("a1", 0xB4C3D2F1), ("66a1", 0x5A5AD2F1), ("a0", 0x5A5A5AF1), ("648b03", 0xB4C3D2F1),
        ("64a1", 0xB4C3D2F1),
    ],
)  # fmt: skip
def test_reads(code: str, value: int, base: int) -> None:
    board = board_of(base)
    offset = DEVICE_PHYS - base
    if code[-2:] in ("a0", "a1"):
        code += struct.pack("<I", offset).hex()

    assert repeat(board, code, rbx=offset, rax=0x5A5A5A5A) == Exit.EXIT_HLT

    assert board.get("rax") == value
    assert len(board.device.reads) == TIMES
    assert board.p.counters()["device_ops"] >= TIMES - 2


@pytest.mark.parametrize("base", [0, 0x1000])
@pytest.mark.parametrize(
    ("code", "size", "value"),
    [
        ("8903", 4, 0x11223344), ("668903", 2, 0x3344), ("8803", 1, 0x44), ("8823", 1, 0x33),
        ("c70378563412", 4, 0x12345678), ("66c7037856", 2, 0x5678), ("c60399", 1, 0x99),
        ("a3", 4, 0x11223344), ("66a3", 2, 0x3344), ("a2", 1, 0x44), ("64a3", 4, 0x11223344),
    ],
)  # fmt: skip
def test_writes(code: str, size: int, value: int, base: int) -> None:
    board = board_of(base)
    offset = DEVICE_PHYS - base
    if code[-2:] in ("a2", "a3"):
        code += struct.pack("<I", offset).hex()

    assert repeat(board, code, rbx=offset, rax=0x11223344) == Exit.EXIT_HLT

    assert board.device.writes == [(0, size, value)] * TIMES
    assert board.p.counters()["device_ops"] >= TIMES - 2


@pytest.mark.parametrize("code", ["8b03", "8903", "a1", "a3"])
def test_a_segment_without_the_device_is_respected(code: str) -> None:
    """The instruction has become an access to the device, then the limit excludes it."""
    board = board_of()
    if code[0] == "a":
        code += ADDRESS
    repeat(board, code, rbx=DEVICE_PHYS)
    before = len(board.device.reads) + len(board.device.writes)
    board.p.set_segment(DS, 0x18, 0, DEVICE_PHYS - 1, 0xC093)

    repeat(board, code, rbx=DEVICE_PHYS)

    assert board.get("rcx") == TIMES
    assert len(board.device.reads) + len(board.device.writes) == before
