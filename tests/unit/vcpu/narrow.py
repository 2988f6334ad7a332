"""A virtual processor outside 64-bit mode, with tables of every kind, for tests of its operations.

Linear addresses are physical ones: paging is off, but for compatibility mode.  Segments have bases
of their own, so that a forgotten base shows.
"""

from __future__ import annotations

import struct
from enum import Enum
from typing import Any

from ringlet_probes.vcpu import Probe
from tests.unit.vcpu.bench import CPUID

EMU_NEXT, EMU_FLOW, EMU_FAULT, EMU_EXIT = range(4)
DE, DB, NMI, BP, OF, UD, NM, DF, TS, NP, SS, GP, PF = 0, 1, 2, 3, 4, 6, 7, 8, 10, 11, 12, 13, 14
CF, ZF, TF, IF, OF_FLAG, NT, RF, VM, AC, VIF, VIP, ID = (
    1, 0x40, 0x100, 0x200, 0x800, 0x4000, 0x10000, 0x20000, 0x40000, 0x80000, 0x100000, 0x200000,
)  # fmt: skip
IOPL3 = 0x3000
UNUSABLE = 1 << 16
"""Our bit of a segment's rights that says that it is null."""
RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI = range(8)
ES_REG, CS_REG, SS_REG, DS_REG, FS_REG, GS_REG = range(6)
NAMES = ("es", "cs", "ss", "ds", "fs", "gs")

IVT, GDT, IDT, LDT = 0, 0x5000, 0x6000, 0x7000
TSS32, TSS16, TASK32, TASK16 = 0x8000, 0x8400, 0x8800, 0x8C00
PML4, PDPT, PD = 0xA000, 0xB000, 0xC000
CODE, DATA, STACKS, HANDLER = 0x10000, 0x20000, 0x30000, 0x100
"""The bases of code, data and stack segments; the offset of every handler but for the vector."""
TOP = 0x8000
"""The stack pointer at the start; ring n has its own at `RINGS[n]`."""
RINGS = (0x4000, 0x5000, 0x6000)
START = 0x40
"""Where the code begins."""

# Selectors of the segments of ring 0 and 3, and of what tests fill.
CODE0, DATA0, STACK0, CODE3, DATA3, STACK3 = 0x08, 0x10, 0x18, 0x20, 0x28, 0x30
STACK1, CODE1 = 0x38, 0x40
TSS_SEL, OTHER_TSS, LDT_SEL, CALL_SEL, TASK_SEL = 0x50, 0x60, 0x70, 0x80, 0x90
FREE, FREE2 = 0xA0, 0xB0
GDT_LIMIT = 0xFF
BUSY = 2


class Mode(Enum):
    """A mode of the processor: operand and address size, and whether selectors name descriptors."""

    REAL = "real"
    V86 = "virtual-8086"
    P16 = "16-bit protected"
    P32 = "32-bit protected"
    COMPAT = "compatibility"

    @property
    def size(self) -> int:
        """Return the size of operands and addresses without a prefix."""
        return 4 if self in (Mode.P32, Mode.COMPAT) else 2


def descriptor(access: int, base: int = 0, limit: int = 0xFFFF, flags: int = 0) -> int:
    """Return an 8-byte descriptor; `access` is its byte 5, `flags` is G, D, L, AVL."""
    return (
        limit & 0xFFFF
        | (base & 0xFFFFFF) << 16
        | access << 40
        | (limit >> 16 & 0xF) << 48
        | flags << 52
        | (base >> 24 & 0xFF) << 56
    )


def gate(kind: int, selector: int, offset: int, dpl: int = 0, count: int = 0, p: int = 1) -> int:
    """Return an 8-byte gate."""
    return (
        offset & 0xFFFF
        | selector << 16
        | count << 32
        | (kind | dpl << 5 | p << 7) << 40
        | (offset >> 16 & 0xFFFF) << 48
    )


def rights(value: int) -> int:
    """Return the rights of a descriptor, as a segment register holds them."""
    return value >> 40 & 0xF0FF


class Narrow:
    """A `Probe` in a mode, at a privilege, and the tables it uses."""

    def __init__(self, mode: Mode = Mode.P32, cpl: int = 0, *, wide_tss: bool = True) -> None:
        self.mode = mode
        self.p = p = Probe(4 << 20)
        self.flags = 4 if mode.size == 4 else 0
        rows = [row for row in CPUID if row[0] != 1]
        p.set_cpuid([*rows, (1, 0, 0, 0x6F0, 0, 0, 0xFFFFFFFF)])
        self.wide = wide_tss
        self.reset()
        if mode is Mode.COMPAT:
            self._long_mode()
        else:
            p.set("cr0", 0x10 if mode is Mode.REAL else 0x11)
        if mode is Mode.V86:
            p.set("rflags", 2 | VM)
        self.enter(cpl)

    def reset(self) -> None:
        """Write all tables and flags as they were at the start."""
        self._tables(self.wide)
        self.p.set("rflags", 2)

    def _long_mode(self) -> None:
        p = self.p
        p.write_phys(PML4, struct.pack("<Q", PDPT | 7))
        p.write_phys(PDPT, struct.pack("<Q", PD | 7))
        p.write_phys(PD, struct.pack("<2Q", 0x87, 0x200087))
        p.set("cr4", 0x20)
        p.set("cr3", PML4)
        p.set("efer", 0x501)
        p.set("cr0", 0x80000011)

    def _tables(self, wide: bool) -> None:
        p, flags = self.p, self.flags
        for vector in range(256):
            p.write_phys(IVT + 4 * vector, struct.pack("<HH", HANDLER + vector, CODE >> 4))
            self.idt(vector, gate(14 if wide else 6, CODE0, HANDLER + vector))
        self.gdt(CODE0, descriptor(0x9B, CODE, 0xFFFF, flags))
        self.gdt(DATA0, descriptor(0x93, DATA, 0xFFFF, flags))
        self.gdt(STACK0, descriptor(0x93, STACKS, 0xFFFF, flags))
        self.gdt(CODE3, descriptor(0xFB, CODE, 0xFFFF, flags))
        self.gdt(DATA3, descriptor(0xF3, DATA, 0xFFFF, flags))
        self.gdt(STACK3, descriptor(0xF3, STACKS, 0xFFFF, flags))
        self.gdt(STACK1, descriptor(0xB3, STACKS, 0xFFFF, flags))
        self.gdt(CODE1, descriptor(0xBB, CODE, 0xFFFF, flags))
        self.gdt(TSS_SEL, descriptor(0x8B if wide else 0x83, TSS32, 0x3FF))
        self.gdt(LDT_SEL, descriptor(0x82, LDT, 0x17))
        for ring, selector in enumerate((STACK0, STACK1 | 1)):
            p.write_phys(TSS32 + 4 + 8 * ring, struct.pack("<II", RINGS[ring], selector))
            p.write_phys(TSS16 + 2 + 4 * ring, struct.pack("<HH", RINGS[ring], selector))
        p.write_phys(TSS32 + 100, struct.pack("<HH", 0, 0x88))
        p.write_phys(TSS32 + 0x88, b"\xff" * 0x100)
        p.set_table("gdtr", GDT, GDT_LIMIT)
        p.set_table("idtr", IVT if self.mode is Mode.REAL else IDT, 0x7FF)
        tss = TSS32 if wide else TSS16
        p.set_segment("tr", TSS_SEL, tss, 0x3FF if wide else 0x2B, 0x8B if wide else 0x83)
        self.gdt(TSS_SEL, descriptor(0x8B if wide else 0x83, tss, 0x3FF if wide else 0x2B))
        p.set_segment("ldtr", LDT_SEL, LDT, 0x17, 0x82)

    def enter(self, cpl: int) -> None:
        """Load the segment registers for a privilege, as the mode does."""
        p = self.p
        if self.mode in (Mode.REAL, Mode.V86):
            ar = 0x93 if self.mode is Mode.REAL else 0xF3
            for name in NAMES:
                base = {"cs": CODE, "ss": STACKS}.get(name, DATA)
                p.set_segment(name, base >> 4, base, 0xFFFF, ar)
        else:
            code, data, stack = {
                0: (CODE0, DATA0, STACK0),
                1: (CODE1 | 1, DATA3 | 3, STACK1 | 1),
                3: (CODE3 | 3, DATA3 | 3, STACK3 | 3),
            }[cpl]
            for name in NAMES:
                selector = {"cs": code, "ss": stack}.get(name, data)
                self.load(name, selector)
        p.set("rip", START)
        p.set("rsp", TOP)

    def load(self, name: str, selector: int) -> None:
        """Set a segment register from its descriptor in the GDT."""
        value = self.q(GDT + (selector & 0xFFF8))
        base = value >> 16 & 0xFFFFFF | value >> 56 << 24
        limit = value & 0xFFFF | value >> 32 & 0xF0000
        limit = limit << 12 | 0xFFF if value >> 55 & 1 else limit
        self.p.set_segment(name, selector, base, limit, rights(value))

    # --- tables and memory

    def gdt(self, selector: int, *values: int) -> None:
        """Write descriptors of the GDT."""
        self.p.write_phys(GDT + (selector & 0xFFF8), struct.pack(f"<{len(values)}Q", *values))

    def idt(self, vector: int, value: int) -> None:
        """Write an 8-byte gate of the IDT."""
        self.p.write_phys(IDT + 8 * vector, struct.pack("<Q", value))

    def q(self, linear: int) -> int:
        """Return a quadword of memory."""
        return int.from_bytes(self.p.read_phys(linear, 8), "little")

    def words(self, linear: int, count: int, size: int) -> list[int]:
        """Return numbers of `size` bytes in memory."""
        return list(
            struct.unpack(f"<{count}{_LETTER[size]}", self.p.read_phys(linear, count * size))
        )

    def put(self, linear: int, size: int, *values: int) -> None:
        """Write numbers of `size` bytes."""
        self.p.write_phys(linear, struct.pack(f"<{len(values)}{_LETTER[size]}", *values))

    def pushed(self, count: int, size: int, base: int = STACKS) -> list[int]:
        """Return the topmost numbers of the stack, the last pushed first."""
        return self.words(base + self.get("rsp"), count, size)

    # --- registers

    def get(self, name: str) -> int:
        """Return a register."""
        return int(self.p.get(name))

    def set(self, **values: int) -> None:
        """Set registers."""
        for name, value in values.items():
            self.p.set(name, value)

    def flags_or(self, bits: int) -> None:
        """Set flags."""
        self.set(rflags=self.get("rflags") | bits)

    def selector(self, name: str) -> int:
        """Return a selector."""
        return int(self.p.get_segment(name)[0])

    def fault(self) -> tuple[int, int | None]:
        """Return the vector and the error code (None without one) of the raised exception."""
        error = self.get("exc_error") if self.get("exc_has_error") else None
        return self.get("exc_vector"), error

    # --- operations

    def run(self, op: int, ea: int | None = None, **operands: Any) -> int:
        """Execute one operation; `ea` is the offset of its memory operand in DS."""
        operands.setdefault("size", self.mode.size)
        if ea is not None:
            self.set(ea=ea)
        return self.p.execute(op, **operands)

    def outcome(self, result: int) -> tuple[int, int | None] | None:
        """Return the exception of a result, or None if there was none."""
        return self.fault() if result == EMU_FAULT else None

    def far(self, op: int, selector: int, offset: int, size: int | None = None) -> int:
        """Execute a far JMP or CALL to an immediate pointer."""
        size = size or self.mode.size
        return self.run(op, rm=0, size=size, imm=selector << 8 * size | offset, code=b"\xea" * 7)

    def arrived(self) -> int | None:
        """Return the vector at whose handler the processor is, or None."""
        vector = self.get("rip") - HANDLER
        return vector if 0 <= vector < 256 else None


_LETTER = {1: "B", 2: "H", 4: "I", 8: "Q"}


def tss32(**fields: int) -> bytes:
    """Return a 32-bit TSS of 104 bytes; segments that are not named are those of ring 0."""
    names = (
        "link esp0 ss0 esp1 ss1 esp2 ss2 cr3 eip eflags eax ecx edx ebx esp ebp esi edi "
        "es cs ss ds fs gs ldt trap"
    ).split()
    default = {
        "eip": START, "eflags": 2, "esp": TOP, "es": DATA0, "cs": CODE0, "ss": STACK0,
        "ds": DATA0, "fs": DATA0, "gs": DATA0, "esp0": RINGS[0], "ss0": STACK0,
    }  # fmt: skip
    values = default | fields
    return struct.pack("<26I", *(values.get(name, 0) for name in names))


def tss16(**fields: int) -> bytes:
    """Return a 16-bit TSS of 44 bytes."""
    names = "link sp0 ss0 sp1 ss1 sp2 ss2 ip flags ax cx dx bx sp bp si di es cs ss ds ldt".split()
    default = {"ip": START, "flags": 2, "sp": TOP, "es": DATA0, "cs": CODE0, "ss": STACK0,
               "ds": DATA0, "sp0": RINGS[0], "ss0": STACK0}  # fmt: skip
    values = default | fields
    return struct.pack("<22H", *(values.get(name, 0) for name in names))
