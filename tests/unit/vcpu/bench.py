"""A virtual processor in long mode with tables, stacks and one gate per vector, for these tests."""

from __future__ import annotations

import struct
from typing import Any

from ringlet_probes.vcpu import Probe

EMU_NEXT, EMU_FLOW, EMU_FAULT, EMU_EXIT = range(4)

DE, DB, NMI, BP, UD, NM, DF, TS, NP, SS, GP, PF, MF = 0, 1, 2, 3, 6, 7, 8, 10, 11, 12, 13, 14, 16

CF, ZF, TF, IF, DF_FLAG, NT, RF, AC, ID = (
    1, 0x40, 0x100, 0x200, 0x400, 0x4000, 0x10000, 0x40000, 0x200000,
)  # fmt: skip

RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI = range(8)
ES, CS, SS_REG, DS, FS, GS = range(6)

# Linear = physical in the first 2 MiB: supervisor pages, except the user's range.
PML4, PDPT, PD, PT = 0x1000, 0x2000, 0x3000, 0x4000
GDT, IDT, TSS, LDT = 0x5000, 0x6000, 0x7000, 0xB000
KERNEL_STACK, IST1, IST2, RSP0, RSP1 = 0x20000, 0x24000, 0x26000, 0x28000, 0x2A000
KERNEL_CODE, KERNEL_DATA = 0x30000, 0x32000
HANDLERS = 0x40000
USER_FIRST, USER_LAST = 0x80000, 0xFF000
USER_CODE, USER_DATA, USER_STACK = 0x80000, 0x85000, 0x90000
HOLE = 0x100000  # not mapped
READ_ONLY = 0x102000
NON_CANONICAL = 0x0000_8000_0000_0000

# Selectors.
K_CODE, K_DATA, U_CODE32, U_DATA, U_CODE = 0x08, 0x10, 0x18, 0x20, 0x28
TSS_SEL, LDT_SEL, CONFORMING, ABSENT_DATA, EXEC_ONLY = 0x30, 0x40, 0x50, 0x58, 0x60
READ_DATA, K_CODE32, ABSENT_CODE, CALL_GATE, DATA1 = 0x68, 0x70, 0x78, 0x80, 0x90
CODE_LD, TSS_FREE, ABSENT_TSS, ABSENT_LDT, K_GATE = 0x98, 0xA0, 0xB0, 0xC0, 0xD0
ABSENT_GATE, GATE_TO_DATA, BAD_GATE, FAR_GATE, R1_CODE = 0xE0, 0xF0, 0x100, 0x110, 0x120
R1_GATE, CONFORMING3, EXPAND_DOWN, GATE_NULL, ABSENT_STACK = 0x128, 0x138, 0x140, 0x148, 0x158
GDT_LIMIT = 0x15F

# Access bytes; the accessed bit is clear in the ones that a test watches.
CODE, CODE_READ, DATA_RW, DATA_RO = 0x98, 0x9A, 0x92, 0x90
G, D, L = 0x8, 0x4, 0x2


def segment(access: int, flags: int, base: int = 0, limit: int = 0xFFFFF) -> int:
    """Return an 8-byte descriptor; `flags` is G, D, L, AVL; `access` is its byte 5."""
    return (
        limit & 0xFFFF
        | (base & 0xFFFFFF) << 16
        | access << 40
        | (limit >> 16 & 0xF) << 48
        | flags << 52
        | (base >> 24 & 0xFF) << 56
    )


def system(kind: int, base: int, limit: int, dpl: int = 0, present: bool = True) -> bytes:
    """Return a 16-byte LDT or TSS descriptor."""
    access = kind | dpl << 5 | (0x80 if present else 0)
    return struct.pack("<QQ", segment(access, 0, base, limit), base >> 32)


def gate(
    kind: int,
    selector: int,
    offset: int,
    dpl: int = 0,
    ist: int = 0,
    present: bool = True,
    upper: int = 0,
) -> bytes:
    """Return a 16-byte gate; `upper` fills the upper half of its last quadword."""
    low = (
        offset & 0xFFFF
        | selector << 16
        | ist << 32
        | (kind | dpl << 5 | (0x80 if present else 0)) << 40
        | (offset >> 16 & 0xFFFF) << 48
    )
    return struct.pack("<QQ", low, offset >> 32 | upper << 32)


def handler(vector: int) -> int:
    """Return the address of a vector's handler."""
    return HANDLERS + vector * 16


CPUID = [
    (0, 0, 0, 0x16, 0, 0, 0),
    (1, 0, 0, 0x6F0, 0, 1 << 21 | 1 << 24 | 1 << 26 | 1 << 28, 0xFFFFFFFD),
    (7, 0, 1, 0, 1, 1 << 22, 1 << 14 | 1 << 26 | 1 << 28 | 1 << 29),
    (0xB, 0, 1, 0, 1, 0x100, 5),
    (0xB, 1, 1, 0, 1, 0x201, 5),
    (0xD, 0, 1, 7, 832, 832, 0),
    (0xD, 1, 1, 0xF, 832, 0, 0),
    (0xD, 2, 1, 256, 576, 0, 0),
    (0x16, 0, 0, 0x1616, 2, 3, 4),
    (0x80000000, 0, 0, 0x80000008, 0, 0, 0),
    (0x80000001, 0, 0, 0, 0, 1, 1 << 20 | 1 << 27 | 1 << 29),
    (0x80000008, 0, 0, 0x302E, 0, 0, 0),
]


class Bench:
    """A `Probe` in 64-bit mode at CPL 0, and the tables it uses."""

    def __init__(self, cpl: int = 0) -> None:
        self.p = Probe(4 << 20)
        p = self.p
        p.set_cpuid(CPUID)
        p.write_phys(PML4, struct.pack("<Q", PDPT | 7))
        p.write_phys(PDPT, struct.pack("<Q", PD | 7))
        p.write_phys(PD, struct.pack("<Q", PT | 7))
        for page in range(0, 0x200000, 0x1000):
            bits = 7 if USER_FIRST <= page <= USER_LAST else 3
            if page == HOLE:
                bits = 0
            if page == READ_ONLY:
                bits = 5
            self.map(page, page | bits)
        self._tables()
        p.set("cr4", 0x6A8 | 1 << 16 | 1 << 18)
        p.set("efer", 0xD01)
        p.set("cr0", 0x80050033)
        p.set("cr3", PML4)
        p.set("xcr0", 7)
        p.set("star", 0x0018_0008_0000_0000)
        p.set("lstar", KERNEL_CODE + 0x800)
        p.set("sfmask", 0x47700)
        p.set("sysenter_cs", K_CODE)
        self.enter(cpl)

    def map(self, linear: int, entry: int) -> None:
        """Write a leaf of the page table."""
        self.p.write_phys(PT + (linear >> 12) * 8, struct.pack("<Q", entry))

    def _tables(self) -> None:
        p = self.p
        rows = {
            K_CODE: segment(0x9B, G | L), K_DATA: segment(0x93, G | D),
            U_CODE32: segment(0xFB, G | D), U_DATA: segment(0xF3, G | D),
            U_CODE: segment(0xFB, G | L), CONFORMING: segment(0x9E, G | L),
            ABSENT_DATA: segment(0x73, G | D), EXEC_ONLY: segment(0xF9, G | L),
            READ_DATA: segment(0xF1, G | D), K_CODE32: segment(0x9B, G | D),
            ABSENT_CODE: segment(0x1B, G | L), DATA1: segment(0xB3, G | D),
            CODE_LD: segment(0x9B, G | D | L), R1_CODE: segment(0xBB, G | L),
            CONFORMING3: segment(0xFE, G | L), EXPAND_DOWN: segment(0xF7, D, limit=0x123),
            ABSENT_STACK: segment(0x13, G | D),
        }  # fmt: skip
        for selector, row in rows.items():
            p.write_phys(GDT + selector, struct.pack("<Q", row))
        gates = {
            CALL_GATE: gate(12, K_CODE, KERNEL_CODE + 0x100, dpl=3),
            K_GATE: gate(12, K_CODE, KERNEL_CODE + 0x200),
            ABSENT_GATE: gate(12, K_CODE, 0, dpl=3, present=False),
            GATE_TO_DATA: gate(12, K_DATA, 0, dpl=3),
            BAD_GATE: gate(12, K_CODE, 0, dpl=3, upper=0x1F00),
            FAR_GATE: gate(12, K_CODE, NON_CANONICAL, dpl=3),
            R1_GATE: gate(12, R1_CODE, KERNEL_CODE + 0x300, dpl=3),
            GATE_NULL: gate(12, 0, 0, dpl=3),
            TSS_SEL: system(11, TSS, 0x2100),
            TSS_FREE: system(9, 0xFFFF8000_00007000, 0x67),
            ABSENT_TSS: system(9, TSS, 0x67, present=False),
            LDT_SEL: system(2, LDT, 0x17),
            ABSENT_LDT: system(2, LDT, 0x17, present=False),
        }
        for selector, data in gates.items():
            p.write_phys(GDT + selector, data)
        for vector in range(256):
            p.write_phys(IDT + vector * 16, gate(14, K_CODE, handler(vector)))
        p.write_phys(LDT + 8, struct.pack("<QQ", segment(0xF2, G | D, 0x12345678), 0))
        p.write_phys(TSS + 4, struct.pack("<QQ", RSP0, RSP1))
        p.write_phys(TSS + 36, struct.pack("<QQ", IST1, IST2))
        p.write_phys(TSS + 102, struct.pack("<H", 0x68))
        p.write_phys(TSS + 0x68, b"\xff" * 0x2001)
        p.set_table("gdtr", GDT, GDT_LIMIT)
        p.set_table("idtr", IDT, 0xFFF)
        p.set_segment("tr", TSS_SEL, TSS, 0x2100, 0x8B)
        p.set_segment("ldtr", LDT_SEL, LDT, 0x17, 0x82)

    def gate(
        self,
        vector: int,
        *,
        kind: int = 14,
        selector: int = K_CODE,
        offset: int | None = None,
        dpl: int = 0,
        ist: int = 0,
        present: bool = True,
    ) -> None:
        """Replace the gate of a vector."""
        where = handler(vector) if offset is None else offset
        self.p.write_phys(IDT + vector * 16, gate(kind, selector, where, dpl, ist, present))

    def enter(self, cpl: int) -> None:
        """Put the processor at 64-bit code of a privilege level, with IF set and a known stack."""
        p = self.p
        dpl = cpl << 5
        code = {0: K_CODE, 1: R1_CODE, 3: U_CODE | 3}[cpl]
        data = {0: K_DATA, 1: DATA1, 3: U_DATA | 3}[cpl]
        p.set_segment("cs", code | cpl, 0, 0xFFFFFFFF, 0xA09B | dpl)
        p.set_segment("ss", data | cpl, 0, 0xFFFFFFFF, 0xC093 | dpl)
        for name in ("ds", "es", "fs", "gs"):
            p.set_segment(name, data | cpl, 0, 0xFFFFFFFF, 0xC093 | dpl)
        p.set("rip", USER_CODE if cpl == 3 else KERNEL_CODE)
        p.set("rsp", USER_STACK if cpl == 3 else KERNEL_STACK)
        p.set("rflags", 0x202)

    def run(self, op: int, ea: int | None = None, **operands: Any) -> int:
        """Execute one operation; `ea` is its memory operand."""
        if ea is not None:
            self.p.set("ea", ea)
        return self.p.execute(op, **operands)

    def q(self, linear: int, count: int = 1) -> list[int]:
        """Return quadwords of memory."""
        return list(struct.unpack(f"<{count}Q", self.p.read_phys(linear, 8 * count)))

    def poke(self, linear: int, *values: int) -> None:
        """Write quadwords."""
        data = struct.pack(f"<{len(values)}Q", *(v & 0xFFFFFFFFFFFFFFFF for v in values))
        self.p.write_phys(linear, data)

    def fault(self) -> tuple[int, int | None]:
        """Return the vector and the error code (None without one) of the raised exception."""
        error = self.p.get("exc_error") if self.p.get("exc_has_error") else None
        return self.p.get("exc_vector"), error

    def selector(self, name: str) -> int:
        """Return a segment register's selector."""
        return int(self.p.get_segment(name)[0])

    def get(self, name: str) -> int:
        """Return a register."""
        return int(self.p.get(name))

    def set(self, **values: int) -> None:
        """Set registers by name."""
        for name, value in values.items():
            self.p.set(name, value)
