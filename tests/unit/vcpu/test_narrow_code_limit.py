"""The limit of CS where fragments, pages and limits meet (SDM 3A 5.3, 6.9)."""

from __future__ import annotations

import struct

import pytest

from ringlet.core.state import Exit
from ringlet.vcpu.processor import Processor

GDT, IDT, PD, PT, CODE, HANDLERS = (n << 12 for n in (1, 2, 3, 4, 8, 6))
STACK, RAM = 0x5800, 1 << 20
GP, PF = 13, 14
_INC = b"\x40"


def _processor(*, paging: bool = False) -> Processor:
    p = Processor(RAM)
    p.write_phys(GDT, struct.pack("<3Q", 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF))
    for vector in range(32):
        gate = HANDLERS + vector | 8 << 16 | 0x8E << 40
        p.write_phys(IDT + 8 * vector, struct.pack("<Q", gate))
    p.write_phys(HANDLERS, b"\xf4" * 32)
    p.set("cr4", 0)
    p.write_phys(PD, struct.pack("<I", PT | 3))
    pages = [n << 12 | 3 for n in range(256)]
    pages[(CODE >> 12) + 1] = 0
    p.write_phys(PT, struct.pack("<256I", *pages))
    p.set("cr0", 0x80000011 if paging else 0x11)
    p.set("cr3", PD)
    p.set_table("gdtr", GDT, 23)
    p.set_table("idtr", IDT, 0xFF)
    for i in range(6):
        p.set_segment(i, 0x10, 0, 0xFFFFFFFF, 0xC093)
    return p


def _run(p: Processor, limit: int, at: int) -> tuple[int, int]:
    """Run from `at` with a limit of CS: the vector, and EAX, which counts instructions."""
    p.set_segment(1, 8, 0, limit, 0x409B)
    p.set("rip", at)
    p.set("rsp", STACK)
    p.set("rflags", 2)
    p.set("rax", 0)
    assert p.run() == Exit.EXIT_HLT
    return p.get("rip") - HANDLERS - 1, p.get("rax")


def test_smaller_limit_ends_code_that_ran_under_a_larger_one() -> None:
    p = _processor()
    p.write_phys(CODE, _INC * 32 + b"\xf4")

    assert _run(p, CODE + 0x1F, CODE) == (GP, 32)
    assert _run(p, CODE + 7, CODE) == (GP, 8)
    assert _run(p, CODE + 0x1F, CODE) == (GP, 32)


def test_smaller_limit_ends_the_fragment_behind_a_branch() -> None:
    p = _processor()
    p.write_phys(CODE, b"\xf9\x73\x10" + _INC * 32)  # stc; jnc, not taken

    assert _run(p, CODE + 0x1F, CODE) == (GP, 29)
    assert _run(p, CODE + 0x1F, CODE) == (GP, 29)
    assert _run(p, CODE + 7, CODE) == (GP, 5)


@pytest.mark.parametrize("at", [0xFF8, 0xFFF])
def test_limit_is_checked_before_the_page(at: int) -> None:
    p = _processor(paging=True)
    p.write_phys(CODE + at, _INC * (0x1000 - at))

    assert _run(p, CODE + 0xFFF, CODE + at) == (GP, 0x1000 - at)


def test_page_is_missing_within_the_limit() -> None:
    p = _processor(paging=True)
    p.write_phys(CODE + 0xFF8, _INC * 8)

    assert _run(p, CODE + 0x1FFF, CODE + 0xFF8) == (PF, 8)


def test_fragment_that_compares_its_bytes_keeps_to_the_limit() -> None:
    """Code whose page is written again and again is translated with a comparison (ADR 5)."""
    p = _processor()
    for turn in range(64):
        p.write_phys(CODE, bytes((0x40 + (turn & 1) * 8,)) + _INC * 31)

        assert _run(p, CODE + 15, CODE) == (GP, 16 if turn % 2 == 0 else 14)


def test_operation_at_the_limit_is_not_to_blame_for_what_follows() -> None:
    """MOV CR3 ends at FFFFh; the jump table has code at 0, where a longer EIP would lead."""
    p = _processor()
    p.set_table("gdtr", GDT, 31)
    p.write_phys(GDT + 24, struct.pack("<Q", 0x00409B000000FFFF))
    p.write_phys(0xFFF0, bytes.fromhex("31C0FFE0"))  # xor eax, eax; jmp eax
    p.write_phys(0, bytes.fromhex("B8F8FF0000FFE0"))  # mov eax, FFF8h; jmp eax
    p.write_phys(0xFFF8, bytes.fromhex("B8002000000F22D8"))  # mov eax, 2000h; mov cr3, eax
    p.set_segment(1, 24, 0, 0xFFFF, 0x409B)
    p.set("rip", 0xFFF0)
    p.set("rsp", STACK)

    assert p.run() == Exit.EXIT_HLT
    assert p.get("rip") == HANDLERS + GP + 1
    assert struct.unpack("<I", p.read_phys(STACK - 12, 4)) == (0x10000,)
