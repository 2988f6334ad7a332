"""Sums of 32-bit code that wrap around at 4 GiB, in a 64-bit process with pages behind 4 GiB.

The process has used these pages in 64-bit code, so that they are in a window, and then runs code of
compatibility mode (SDM 1 3.3.4: linear addresses of that have 32 bits).
"""

from __future__ import annotations

import ctypes
import mmap
import struct

import pytest

from ringlet.core.state import Exit
from ringlet.vcpu.processor import Processor
from tests.fuzz.canary import host_mappings

RAM = 8 << 20
PML4, PDPT, PD, PD_TOP, PD_HIGH, GDT, CODE, NARROW = (n << 12 for n in range(1, 9))
TOP, HIGH = 4 << 20, 6 << 20
"""Physical addresses of the last 2 MiB of 4 GiB, and of the first behind."""
AT = 0x40
LOW_WORD, TOP_WORD, HIGH_WORD = 0x11111111, 0x33333333, 0x22222222
FLAT, BEFORE_END = 0x10, 0x18
_DESCRIPTORS = (
    0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF, 0xFFCF93FFF000FFFF, 0x00AF9B000000FFFF,
)  # fmt: skip


_LOAD_FS = "648b1510000000"  # mov edx, fs:[10h]


def _process() -> Processor:
    p = Processor(RAM)
    p.write_phys(PML4, struct.pack("<Q", PDPT | 7))
    p.write_phys(PDPT, struct.pack("<5Q", PD | 7, 0, 0, PD_TOP | 7, PD_HIGH | 7))
    p.write_phys(PD, struct.pack("<2Q", 0x87, 0x200087))
    p.write_phys(PD_TOP + 511 * 8, struct.pack("<Q", TOP | 0x87))
    p.write_phys(PD_HIGH, struct.pack("<Q", HIGH | 0x87))
    p.write_phys(GDT, struct.pack(f"<{len(_DESCRIPTORS)}Q", *_DESCRIPTORS))
    for base, word in ((0, LOW_WORD), (HIGH, HIGH_WORD), (TOP + (2 << 20) - 0x1000, TOP_WORD)):
        p.write_phys(base, struct.pack("<I", word) * 64)
    p.set("efer", 0x501)
    p.set("cr4", 0x620)
    p.set("cr0", 0x80000011)
    p.set("cr3", PML4)
    p.set_table("gdtr", GDT, 8 * len(_DESCRIPTORS) - 1)
    p.set_table("idtr", 0, 0)
    p.set("rflags", 2)
    return p


def _run(code: str, segment: int = FLAT, **registers: int) -> Processor:
    """Touch the pages behind 4 GiB in 64-bit code, and run compatibility code to its HLT."""
    p = _process()
    assert _run_on(p, code, segment, **registers) == Exit.EXIT_HLT
    assert p.get("rip") == NARROW + len(bytes.fromhex(code)) + 1
    return p


def _run_on(p: Processor, code: str, segment: int = FLAT, **registers: int) -> int:
    touch = b"\x48\xb8" + struct.pack("<Q", 1 << 32)
    touch += bytes.fromhex("448b404044894040")  # mov r8d, [rax + 40h]; mov [rax + 40h], r8d
    touch += bytes.fromhex("48ff2c25") + struct.pack("<I", CODE + 0x800)  # far jump
    p.write_phys(CODE, touch)
    p.write_phys(CODE + 0x800, struct.pack("<QH", NARROW, 8))
    p.write_phys(NARROW, bytes.fromhex(code) + b"\xf4")
    p.set_segment(1, 0x20, 0, 0xFFFFFFFF, 0xA09B)
    for i in (0, 2, 4, 5):
        p.set_segment(i, FLAT, 0, 0xFFFFFFFF, 0xC093)
    base = 0xFFFFF000 if segment == BEFORE_END else 0
    p.set_segment(3, segment, base, 0xFFFFFFFF, 0xC093)
    p.set("rip", CODE)
    p.set("rsp", NARROW + 0x800)
    for name, value in registers.items():
        p.set(name, value)
    return p.run()


def _word(p: Processor, at: int) -> int:
    return int.from_bytes(p.read_phys(at, 4), "little")


@pytest.mark.parametrize(
    ("code", "segment", "registers"),
    [
        ("8b5340", FLAT, {"rbx": 0xFFFFFFF0}),
        ("8b943b00000000", FLAT, {"rbx": 0xFFFFFFF0, "rdi": AT}),
        ("8b5300", BEFORE_END, {"rbx": 0x1030}),
        ("8b1540100000", BEFORE_END, {}),
        ("83c3f0 8b5340 83c310", FLAT, {"rbx": 0}),
        ("bb00ffffff 8b9340010000", FLAT, {}),
        ("8bd4 8b542440 8bdc", FLAT, {"rsp": 0xFFFFFFF0}),
    ],
)
def test_load_wraps_around(code: str, segment: int, registers: dict[str, int]) -> None:
    assert _run(code.replace(" ", ""), segment, **registers).get("rdx") == LOW_WORD


@pytest.mark.parametrize(
    ("code", "segment", "registers"),
    [
        ("895340", FLAT, {"rbx": 0xFFFFFFF0}),
        ("895300", BEFORE_END, {"rbx": 0x1030}),
        ("fcf3aa", FLAT, {"rdi": 0xFFFFFFF0, "rcx": 0x60}),
        ("fcf3a4", FLAT, {"rdi": 0xFFFFFFF0, "rsi": NARROW, "rcx": 0x60}),
        ("fcf3ab", FLAT, {"rdi": 0xFFFFFFF0, "rcx": 0x18}),
        ("0fbb0b", FLAT, {"rbx": 0xFFFFFFF0, "rcx": 8 * 0x40}),
    ],
)
def test_store_wraps_around(code: str, segment: int, registers: dict[str, int]) -> None:
    p = _run(code, segment, **{"rdx": 0x5A5A5A5A, "rax": 0x5A5A5A5A, **registers})

    assert _word(p, HIGH + 0x30) == HIGH_WORD
    assert p.read_phys(HIGH, 0x100) == struct.pack("<I", HIGH_WORD) * 64
    assert _word(p, 0x30) != LOW_WORD


@pytest.mark.parametrize("segment", [FLAT, BEFORE_END])
@pytest.mark.parametrize("high", [1, 0x9B, 0x7FFF])
def test_32_bits_of_the_base_of_fs_count(high: int, segment: int) -> None:
    """64-bit code has given FS a base behind 4 GiB."""
    p = _run(_LOAD_FS, segment, fs_base=high << 32 | 0x20)

    assert p.get("rdx") == LOW_WORD


@pytest.mark.parametrize("segment", [FLAT, BEFORE_END])
def test_a_base_of_fs_that_leads_to_the_host_s_memory(segment: int) -> None:
    """Code in segments that are not flat added all of it to the address of its window."""
    p = _run(_LOAD_FS, segment)
    host = mmap.mmap(-1, mmap.PAGESIZE)
    host.write(struct.pack("<I", 0x5EC4E7) * 1024)
    at = ctypes.addressof(ctypes.c_char.from_buffer(host))
    windows = [m.start - m.offset for m in host_mappings() if "ringlet-ram" in m.name]
    found = []
    for base in {at - window for window in windows if window < at}:
        _run_on(p, _LOAD_FS, segment, fs_base=base, rdx=0)  # which may well end in a fault
        found.append(p.get("rdx"))

    assert len(found) > 1
    assert 0x5EC4E7 not in found


@pytest.mark.parametrize("code", ["8c25ff0f0000", "66c705ff0f00001000"])
def test_a_word_has_its_second_byte_at_0(code: str) -> None:
    """MOV from FS, which is 10h, and MOV of an immediate."""
    p = _run(code, BEFORE_END)

    assert p.read_phys(TOP + (2 << 20) - 1, 1) == b"\x10"
    assert p.read_phys(0, 1) == b"\0"
    assert _word(p, HIGH) == HIGH_WORD


def test_string_load_wraps_around() -> None:
    p = _run("fcf3a4", rsi=0xFFFFFFF0, rdi=0x9000, rcx=0x20)

    assert p.read_phys(0x9010, 0x10) == struct.pack("<I", LOW_WORD) * 4
    assert p.get("rsi") == 0x10


def test_64_bit_code_reaches_its_pages_again() -> None:
    """Compatibility code and 64-bit code have windows of their own; both see what is written."""
    p = _run("c7053000000078563412")  # mov dword [30h], 12345678h
    code = b"\x48\xb8" + struct.pack("<Q", 1 << 32) + bytes.fromhex("8b48408b142530000000f4")
    p.write_phys(CODE, code)
    p.set_segment(1, 0x20, 0, 0xFFFFFFFF, 0xA09B)
    p.set("rip", CODE)

    assert p.run() == Exit.EXIT_HLT
    assert p.get("rcx") == HIGH_WORD
    assert p.get("rdx") == 0x12345678
