"""A processor in flat 32-bit code with paging, for tests that run code."""

from __future__ import annotations

import struct

from ringlet.vcpu.processor import Processor

RAM = 4 << 20
GDT, IDT, HANDLERS, TABLES = 0x1000, 0x2000, 0x7000, 0x10000


def put(p: Processor, at: int, *values: int, form: str = "I") -> None:
    p.write_phys(at, struct.pack(f"<{len(values)}{form}", *values))


def flat_32(*, cr4: int = 0x10) -> Processor:
    """A processor in flat 32-bit code with two levels of page tables, each page onto itself."""
    p = Processor(RAM)
    put(p, TABLES, TABLES + 0x1007)
    put(p, TABLES + 4 * 1023, TABLES + 0x2007)
    put(p, TABLES + 0x1000, *(n << 12 | 7 for n in range(1024)))
    put(p, GDT, 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF, form="Q")
    for vector in range(32):
        put(p, IDT + 8 * vector, HANDLERS + vector | 8 << 16 | 0x8E << 40, form="Q")
    p.write_phys(HANDLERS, b"\xf4" * 32)
    p.set("cr4", cr4)
    p.set("cr3", TABLES)
    p.set("cr0", 0x80000011)
    p.set_table("gdtr", GDT, 23)
    p.set_table("idtr", IDT, 0xFF)
    for i in range(6):
        p.set_segment(i, 8 if i == 1 else 0x10, 0, 0xFFFFFFFF, 0xC09B if i == 1 else 0xC093)
    p.set("rsp", 0x9000)
    return p
