"""16- and 32-bit code at 4 GiB, at the limit of CS, and where an exception follows another.

Sources: SDM 3A 3.3.1 (linear addresses wrap), 4.10.4.1 (INVLPG), table 6-5 (benign exceptions).
"""

from __future__ import annotations

import struct
import threading
import time

import pytest

from ringlet.core.state import Exit
from ringlet.vcpu.processor import Processor
from tests.unit.vcpu.flat_32 import GDT, HANDLERS, IDT, RAM, TABLES, flat_32, put

AC_GATE = 17


@pytest.mark.parametrize("present", [False, True])
@pytest.mark.parametrize("offset", [0xFFFB, 0xFFFD, 0xFFFF])
@pytest.mark.parametrize(
    ("code", "vector"),
    [
        ("8907", 13), ("8B07", 13), ("668907", 13), ("668B07", 13), ("AB", 13), ("C407", 13),
        ("884701", None), ("DD1F", 13), ("DF37", 13), ("D937", 13), ("894600", 12),
    ],
)  # fmt: skip
def test_an_operand_past_a_segment_at_0_is_not_at_the_end_of_4_gib(
    code: str, vector: int | None, offset: int, present: bool
) -> None:
    """The page before 4 GiB raises no #PF, and nothing is written there."""
    p = flat_32()
    p.set("deposit", 0x4000_0000_0000_FFFF)
    last = 0x200000
    if present:
        put(p, TABLES + 0x2000 + 4 * 1023, last | 7)
    p.write_phys(last, b"\xcc" * 4096)
    p.write_phys(0x8000, bytes.fromhex(code) + b"\xf4")
    for i in range(6):
        p.set_segment(i, 8 if i == 1 else 0x10, 0, 0xFFFF, 0x9B if i == 1 else 0x93)
    p.set("rip", 0x8000)
    for name in ("rbx", "rdi", "rbp"):
        p.set(name, offset)
    size = {"8907": 2, "8B07": 2, "AB": 2, "894600": 2, "884701": 1, "DF37": 10, "D937": 14,
            "DD1F": 8}.get(code, 4)  # fmt: skip
    passes = vector is not None and offset + size > 0x10000

    assert p.run() == Exit.EXIT_HLT

    assert p.get("rip") == (HANDLERS + (vector or 0) + 1 if passes else 0x8001 + len(code) // 2)
    assert p.read_phys(last, 4096) == b"\xcc" * 4096
    # Nor is the page marked as accessed or dirty.
    assert p.read_phys(TABLES + 0x2000 + 4 * 1023, 1) in (b"\0", b"\7")


@pytest.mark.parametrize("change", ["0F013D00000000", "0F20D80F22D8"], ids=["invlpg", "mov cr3"])
def test_code_across_4_gib_is_dropped_with_the_mapping_of_page_0(change: str) -> None:
    p = flat_32()
    first, last, other = 0x101000, 0x100000, 0x102000
    put(p, TABLES + 0x1000, first | 7)
    put(p, TABLES + 0x2000 + 4 * 1023, last | 7)
    p.write_phys(last + 0xFFD, b"\xb8\x11\x22")  # mov eax, imm32
    p.write_phys(first, b"\x33\x44\xf4")
    p.write_phys(other, b"\x55\x66\xf4")
    # mov dword [the table's entry of page 0], `other`; the change; HLT
    code = b"\xc7\x05" + struct.pack("<II", TABLES + 0x1000, other | 7) + bytes.fromhex(change)
    p.write_phys(0x8000, code + b"\xf4")
    values = []
    for start in (0xFFFFFFFD, 0x8000, 0xFFFFFFFD):
        p.set("rip", start)
        assert p.run() == Exit.EXIT_HLT
        values.append(p.get("rax"))

    assert values[0] == 0x44332211
    assert values[2] == 0x66552211


def test_compatibility_mode_goes_on_at_0_within_an_instruction() -> None:
    p = Processor(RAM)
    pml4, pdpt, low, low_pt, high, high_pt, behind, behind_pt = (
        TABLES + 0x1000 * n for n in range(8)
    )
    put(p, pml4, pdpt | 7, form="Q")
    put(p, pdpt, low | 7, 0, 0, high | 7, behind | 7, form="Q")
    put(p, low, low_pt | 7, form="Q")
    put(p, low_pt, *(n << 12 | 7 for n in range(512)), form="Q")
    put(p, low_pt, 0x101007, form="Q")
    put(p, high + 8 * 511, high_pt | 7, form="Q")
    put(p, high_pt + 8 * 511, 0x100007, form="Q")
    put(p, behind, behind_pt | 7, form="Q")
    put(p, behind_pt, 0x102007, form="Q")
    p.set("efer", 0x501)
    p.set("cr4", 0x20)
    p.set("cr3", pml4)
    p.set("cr0", 0x80000011)
    for i in range(6):
        p.set_segment(i, 0x18 if i == 1 else 0x10, 0, 0xFFFFFFFF, 0xC09B if i == 1 else 0xC093)
    p.write_phys(0x100FFD, b"\xb8\x11\x22")
    p.write_phys(0x101000, b"\x33\x44\xf4")
    p.write_phys(0x102000, b"\x55\x66\xf4")
    p.set("rip", 0xFFFFFFFD)

    assert p.run() == Exit.EXIT_HLT
    assert (p.get("rax"), p.get("rip")) == (0x44332211, 3)


def real(code: bytes, *, sp: int = 0x8000, ip: int = 0x100) -> Processor:
    p = Processor(1 << 20)
    for vector in range(32):
        put(p, 4 * vector, vector, 0x60, form="H")
    p.write_phys(0x600, b"\xf4" * 32)
    p.write_phys(0x10000 + ip, code)
    for i in range(6):
        at = 0x1000 if i == 1 else 0x2000
        p.set_segment(i, at, at << 4, 0xFFFF, 0x9B if i == 1 else 0x93)
    p.set_table("idtr", 0, 0x3FF)
    p.set("cr0", 0x10)
    p.set("rip", ip)
    p.set("rsp", sp)
    return p


@pytest.mark.parametrize(
    ("code", "sp"),
    [("66C3", 0xFFFC), ("66C3", 0x1234FFFC), ("66C20800", 0xFFF8), ("66FFD0", 0), ("66FFD0", 2)],
)
def test_a_branch_beyond_the_limit_leaves_the_upper_half_of_esp(code: str, sp: int) -> None:
    p = real(bytes.fromhex(code), sp=sp)
    put(p, 0x20000 + (sp & 0xFFFF), 0x20000)
    p.set("rax", 0x20000)

    assert p.run() == Exit.EXIT_HLT
    assert p.get("rip") - 1 in (12, 13)
    assert p.get("rsp") == sp & 0xFFFF0000 | sp - 6 & 0xFFFF


def test_a_call_beyond_the_limit_does_not_push() -> None:
    p = flat_32()
    p.set_segment(1, 8, 0, 0xFFFF, 0x409B)
    p.write_phys(0x8000, b"\xff\xd0")  # call eax
    p.write_phys(0x8FE0, b"\xcc" * 32)
    p.set_segment(2, 0x10, 0, 0xFFFFFFFF, 0xC093)
    p.set("rax", 0x20000)
    p.set("rip", 0x8000)

    assert p.run() == Exit.EXIT_HLT
    assert p.get("rip") - 1 - HANDLERS == 13
    # The frame alone: error code, EIP, CS, EFLAGS.
    assert p.get("rsp") == 0x9000 - 16
    assert struct.unpack("<I", p.read_phys(0x8FF4, 4)) == (0x8000,)


@pytest.mark.parametrize("offset", [0x102, 0x103])
def test_an_interrupt_handler_at_the_same_offset_runs(offset: int) -> None:
    """After OUT the code would go on at the next EIP, but in another segment."""
    p = real(bytes.fromhex("E680BB1111F4"))  # out 80h, al; mov bx, 1111h; hlt
    put(p, 4 * 8, offset, 0x3000, form="H")
    p.write_phys(0x30000 + offset, bytes.fromhex("BB2222F4"))
    p.set("rflags", 0x202)

    assert p.run() == Exit.EXIT_IO_OUT
    p.inject(8)
    assert p.run() == Exit.EXIT_HLT

    assert p.get("rbx") & 0xFFFF == 0x2222


def test_a_load_reads_no_descriptor_but_its_own() -> None:
    """DS has a selector of the LDT; at this offset of the GDT there is no page."""
    p = flat_32()
    put(p, TABLES + 0x1000 + 4 * (TABLES >> 12), 0)
    p.set_segment(3, 0xFFF4, 0, 0xFFFFFFFF, 0xC093)
    p.write_phys(0x8000, bytes.fromhex("8ED8F4"))  # mov ds, eax
    p.set("rax", 0x10)
    p.set("rip", 0x8000)

    assert p.run() == Exit.EXIT_HLT
    assert (p.get("rip"), p.get_segment(3)[0]) == (0x8003, 0x10)


@pytest.mark.parametrize("way", ["kick", "alarm"])
def test_an_endless_chain_of_exceptions_can_be_stopped(way: str) -> None:
    """#AC in delivering an #AC: the handler's frame is pushed on the same odd stack."""
    p = flat_32()
    put(p, GDT + 24, 0x00CFFB000000FFFF, 0x00CFF3000000FFFF, form="Q")
    p.set_table("gdtr", GDT, 0x27)
    put(p, IDT + 8 * AC_GATE, HANDLERS | 0x1B << 16 | 0xEE << 40, form="Q")
    for i in range(6):
        p.set_segment(i, 0x1B if i == 1 else 0x23, 0, 0xFFFFFFFF, 0xC0FB if i == 1 else 0xC0F3)
    p.set("cpl", 3)
    p.set("cr0", 0x80040011)
    p.set("rflags", 0x40002)
    p.set("rsp", 0x9002)
    p.set("rip", 0x8000)
    p.write_phys(0x8000, b"\x50\xf4")  # push eax
    kicks = threading.Timer(0.2, p.kick)
    if way == "kick":
        kicks.start()
    for _ in range(2):
        # The chain goes on where it was stopped.
        if way == "alarm":
            p.set_alarm(time.monotonic_ns() + 100_000_000)
        elif kicks.finished.is_set():
            threading.Timer(0.2, p.kick).start()
        assert p.run() == Exit.EXIT_INTERRUPTED
        assert p.get("rip") == 0x8000
