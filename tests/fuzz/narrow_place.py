"""A guest for hostile 16- and 32-bit code: its memory, tables and registers, many of them wild.

Linear addresses are physical ones, with or without paging; the last 2 MiB of 4 GiB show the first
of RAM again, and so do those behind 4 GiB under long mode.  What is not a table is HLT, which ends
a run at CPL 0 and raises #GP elsewhere.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass
from enum import Enum
from typing import Final

from tests.unit.vcpu.narrow import NT, VM, descriptor, gate, tss16, tss32

RAM_SIZE: Final = 2 << 20
HANDLERS, GDT, LDT, IDT = 0x500, 0x1000, 0x1400, 0x2000
TSS, TASK16, TASK32 = 0x3000, 0x3800, 0x3C00
PML4, PDPT, PD, PT, PD32, PT32 = 0x4000, 0x5000, 0x6000, 0x7000, 0x8000, 0x9000
CODE, DATA, STACK, END = 0xA000, 0xB000, 0xD000, 0xF000
IMAGE_SIZE: Final = 0x1B000
TOP: Final = 0x1F00
"""The stack pointer at the start, in the stack's segment."""
_M32: Final = (1 << 32) - 1
_HLT: Final = b"\xf4"

# Selectors.
CODE32, FLAT, CODE32_3, FLAT_3, CODE16, DATA16, CODE16_3, DATA16_3 = range(8, 72, 8)
TSS_SEL, TASK32_SEL, TASK16_SEL, LDT_SEL, CALL, TASK_GATE, CODE64, CODE64_3 = range(72, 136, 8)
SMALL32, SMALL32_3, STACK0, STACK3, DOWN, WRAPS, ABSENT, CONFORMING = range(136, 200, 8)
FIRST_FREE, GDT_ENTRIES = 25, 48


class Mode(Enum):
    """A mode of the processor; the value names it on the command line."""

    REAL = "real"
    V86 = "v86"
    P16 = "p16"
    RING0 = "p32-ring0"
    RING3 = "p32-ring3"
    FLAT = "flat"
    COMPAT = "compat"


_GOOD: Final = {
    CODE32: descriptor(0x9B, 0, 0xFFFFF, 12),
    FLAT: descriptor(0x93, 0, 0xFFFFF, 12),
    CODE32_3: descriptor(0xFB, 0, 0xFFFFF, 12),
    FLAT_3: descriptor(0xF3, 0, 0xFFFFF, 12),
    CODE16: descriptor(0x9B, CODE),
    DATA16: descriptor(0x93, DATA),
    CODE16_3: descriptor(0xFB, CODE),
    DATA16_3: descriptor(0xF3, DATA, 0x1FFF),
    TSS_SEL: descriptor(0x8B, TSS, 0x7FF),
    TASK32_SEL: descriptor(0x89, TASK32, 0x67),
    TASK16_SEL: descriptor(0x81, TASK16, 0x2B),
    LDT_SEL: descriptor(0x82, LDT, 0xFF),
    CALL: gate(12, CODE32, HANDLERS, 3, 2),
    TASK_GATE: gate(5, TASK32_SEL, 0, 3),
    CODE64: descriptor(0x9B, 0, 0xFFFFF, 10),
    CODE64_3: descriptor(0xFB, 0, 0xFFFFF, 10),
    SMALL32: descriptor(0x9B, CODE, 0xFFFF, 4),
    SMALL32_3: descriptor(0xFB, CODE, 0xFFFF, 4),
    STACK0: descriptor(0x93, STACK, 0xFFFF, 4),
    STACK3: descriptor(0xF3, STACK, 0x1FFF, 4),
    DOWN: descriptor(0xF7, DATA, 0x0FFF, 4),
    WRAPS: descriptor(0xF3, 0xFFFFF000, 0xFFFFF, 12),
    ABSENT: descriptor(0x73, DATA),
    CONFORMING: descriptor(0x9F, CODE),
}
_BASES: Final = (0, 0, CODE, DATA, STACK, 0xFFFFF000, 0xFFFFFFFF, 0x80000000, 0x7FFFFFFF)
_LIMITS: Final = (0, 1, 0xFFE, 0xFFF, 0x1FFF, 0xFFFF, 0xFFFFF)


def wild_descriptor(draw: random.Random) -> int:
    """Return a descriptor of any kind."""
    if draw.random() < 0.1:
        return draw.getrandbits(64)
    kind = draw.randrange(16) | draw.choice((0x90, 0x90, 0xF0, 0xF0, 0x80, 0xE0, 0x10, 0xB0))
    if not kind & 0x10 and kind & 0xF in (4, 5, 6, 7, 12, 14, 15):
        return gate(kind & 0xF, any_selector(draw), any_offset(draw), draw.choice((0, 3)),
                    draw.randrange(32))  # fmt: skip
    base = draw.choice((*_BASES, TSS, TASK16, TASK32, draw.getrandbits(32)))
    limit = draw.choice((*_LIMITS, draw.getrandbits(20)))
    return descriptor(kind, base, limit, draw.randrange(16))


def any_selector(draw: random.Random) -> int:
    """Return a selector that is mostly within the tables."""
    if draw.random() < 0.05:
        return draw.getrandbits(16)
    return draw.randrange(GDT_ENTRIES + 1) * 8 | draw.choice((0, 0, 3, 3, 1, 4, 7))


def any_offset(draw: random.Random) -> int:
    """Return an address, or an offset in a segment, at which there may be something."""
    kind = draw.randrange(10)
    near = draw.choice((CODE, DATA, STACK, END, 0, 0x1000, 0x2000, 0x10000, 0xFFFFFFFF, RAM_SIZE))
    if kind < 4:
        return near + draw.randrange(-80, 80) & _M32
    if kind < 6:
        return draw.randrange(0x2000)
    if kind == 6:
        return draw.choice((GDT, IDT, TSS, PT, PT32, PD, PDPT)) + draw.randrange(0x400)
    return draw.getrandbits(draw.choice((16, 17, 20, 31, 32, 32)))


def wild_entry(draw: random.Random, size: int) -> int:
    """Return an entry of a paging structure."""
    kind = draw.randrange(5)
    if kind == 0:
        return draw.getrandbits(8 * size)
    table = draw.choice((PD, PT, PD32, PT32, CODE, DATA, 0, RAM_SIZE - 0x1000, RAM_SIZE, _M32))
    flags = draw.choice((0, 1, 3, 5, 7, 7, 0x87, 0x83, 0x107, 0x27, 0x67, 0x9F))
    return table & ~0xFFF | flags | (kind == 4 and size == 8) << 63


def _image() -> bytes:
    memory = bytearray(_HLT * IMAGE_SIZE)
    memory[:HANDLERS] = bytes(HANDLERS)
    for vector in range(256):
        struct.pack_into("<HH", memory, 4 * vector, HANDLERS + vector, 0)
        struct.pack_into("<Q", memory, IDT + 8 * vector, gate(14, CODE32, HANDLERS + vector, 3))
    memory[GDT : GDT + 8 * GDT_ENTRIES + 8] = bytes(8 * GDT_ENTRIES + 8)
    memory[LDT : LDT + 0x100] = bytes(0x100)
    for selector, value in _GOOD.items():
        struct.pack_into("<Q", memory, GDT + selector, value)
        struct.pack_into("<Q", memory, LDT + (selector & 0xF8), value)
    memory[TSS : TSS + 0x800] = bytes(0x800)
    memory[PML4:CODE] = bytes(CODE - PML4)
    entries = [page << 12 | 7 for page in range(RAM_SIZE >> 12)]
    struct.pack_into(f"<{len(entries)}Q", memory, PT, *entries)
    struct.pack_into(f"<{2 * len(entries)}I", memory, PT32, *entries, *entries)
    for index in (0, 511):
        struct.pack_into("<Q", memory, PD + 8 * index, PT | 7)
        struct.pack_into("<I", memory, PD32 + 8 * index + 4 * (index > 0), PT32 | 7)
    struct.pack_into("<Q", memory, PD + 8, 0x87)
    struct.pack_into("<I", memory, PD32 + 4, 0x87)
    return bytes(memory)


_IMAGE: Final = _image()
_PAGING: Final = {"none": 0, "two levels": PD32, "pae": PDPT, "long": PML4}


@dataclass(frozen=True, slots=True)
class Tables:
    """Descriptor and page tables, which several guests of a mode have."""

    paging: str
    image: bytes


@dataclass(frozen=True, slots=True)
class Place:
    """A guest at its start; segments are those of `Processor.set_segment`, by number."""

    mode: Mode
    tables: Tables
    code: tuple[tuple[int, bytes], ...]
    segments: tuple[tuple[int, int, int, int], ...]
    registers: tuple[int, ...]
    rip: int
    rflags: int
    cpl: int
    cr4: int

    @property
    def paging(self) -> str:
        """How linear addresses are translated."""
        return self.tables.paging

    @property
    def root(self) -> int:
        """CR3."""
        return _PAGING[self.paging]


def _hidden(selector: int) -> tuple[int, int, int, int]:
    """Return what a segment register holds after it was loaded with one of the good selectors."""
    value = _GOOD[selector & 0xFFF8]
    base = value >> 16 & 0xFFFFFF | value >> 56 << 24
    limit = value & 0xFFFF | value >> 32 & 0xF0000
    limit = limit << 12 | 0xFFF if value >> 55 & 1 else limit
    return selector, base, limit, value >> 40 & 0xF0FF | 1


def _data(draw: random.Random, mode: Mode) -> tuple[int, int, int, int]:
    """Return what DS, ES, FS or GS holds."""
    if mode in (Mode.REAL, Mode.V86):
        value = draw.choice((0, CODE >> 4, DATA >> 4, STACK >> 4, 0xFFFF, draw.getrandbits(16)))
        limit = _M32 if mode is Mode.REAL and draw.random() < 0.15 else 0xFFFF
        return value, value << 4, limit, 0xF3 if mode is Mode.V86 else 0x93
    if draw.random() < (0.8 if mode in (Mode.FLAT, Mode.COMPAT) else 0.15):
        return _hidden(FLAT_3 | 3)
    if draw.random() < 0.1:
        return 0, 0, 0, 1 << 16
    if draw.random() < 0.4:
        return _hidden(draw.choice((DATA16_3, STACK3, DOWN, WRAPS, CODE32_3)) | 3)
    limit = draw.choice((*_LIMITS, draw.getrandbits(20)))
    if draw.random() < 0.3:
        limit = (limit << 12 | 0xFFF) & _M32
    base = draw.choice((*_BASES, draw.getrandbits(32)))
    ar = draw.choice((0xF1, 0xF3, 0xF5, 0xF7, 0xFB)) | draw.choice((0, 0x4000))
    return FLAT_3 | 3, base, limit, ar | (limit > 0xFFFFF) << 15


def _code_and_stack(draw: random.Random, mode: Mode) -> tuple[int, int, int]:
    """Return the selectors of CS and SS, and the CPL."""
    if mode is Mode.P16:
        return draw.choice(
            ((CODE16, DATA16, 0), (CODE16, STACK0, 0), (CODE16_3 | 3, DATA16_3 | 3, 3))
        )
    if mode is Mode.RING0:
        code = draw.choice((SMALL32, SMALL32, CODE32, CONFORMING))
        return code, draw.choice((STACK0, DATA16, FLAT)), 0
    if mode is Mode.RING3:
        code = draw.choice((SMALL32_3, SMALL32_3, CODE32_3)) | 3
        return code, draw.choice((STACK3, DATA16_3, FLAT_3, DOWN, WRAPS)) | 3, 3
    if mode is Mode.COMPAT and draw.random() < 0.2:
        return CODE16_3 | 3, draw.choice((DATA16_3, STACK3)) | 3, 3
    if draw.random() < 0.5:
        return CODE32, FLAT, 0
    return CODE32_3 | 3, FLAT_3 | 3, 3


def _wild_tables(draw: random.Random, mode: Mode, paging: str) -> list[tuple[int, bytes]]:
    """Return what is wild in the tables."""
    out = []
    if paging == "pae":
        out.append((PDPT, struct.pack("<5Q", PD | 1, 0, PD | 1, PD | 1, 0)))
    count = draw.choice((0, 4, GDT_ENTRIES - FIRST_FREE))
    free = [wild_descriptor(draw) for _ in range(count)]
    out.append((GDT + 8 * FIRST_FREE, struct.pack(f"<{count}Q", *free)))
    if draw.random() < 0.2:
        at = GDT + 8 * draw.randrange(1, FIRST_FREE)
        out.append((at, struct.pack("<Q", wild_descriptor(draw))))
    if mode is Mode.COMPAT:
        out += _long_tables()
    else:
        for _ in range(draw.choice((0, 0, 3, 12))):
            vector = draw.choice((draw.randrange(32), 13, 14, 6, 0x80))
            kind = draw.choice((14, 15, 6, 7, 5, 5, draw.randrange(16)))
            value = gate(kind, any_selector(draw), any_offset(draw), draw.choice((0, 3)))
            out.append((IDT + 8 * vector, struct.pack("<Q", value)))
        wild = {name: any_selector(draw) for name in ("cs", "ss", "ds", "es", "link", "ldt")}
        good = {"cs": CODE32, "ss": FLAT, "ds": FLAT, "es": FLAT, "fs": 0, "gs": 0}
        state = good | (wild if draw.random() < 0.5 else {}) | {"ss0": FLAT, "esp0": END}
        flags = draw.choice((2, 2, VM | 2, NT | 2, 0x3302))
        root = draw.choice((_PAGING[paging], _PAGING[paging], draw.getrandbits(16)))
        out.append((TASK32, tss32(**state, cr3=root, eip=any_offset(draw), eflags=flags)))
        out.append((TASK16, tss16(**{k: v for k, v in wild.items() if k != "ldt"})))
        stack = wild["ss"] if draw.random() < 0.1 else FLAT
        out.append((TSS, tss32(ss0=stack, esp0=any_offset(draw) if stack != FLAT else END)))
        out.append((TSS + 100, struct.pack("<HH", draw.random() < 0.1, 0x88)))
    for _ in range(draw.choice((0, 0, 1, 4)) if paging != "none" else 0):
        at = draw.choice((PDPT, PD, PT, PT)) if paging != "two levels" else PD32
        size = 4 if paging == "two levels" else 8
        index = draw.choice((0, 1, 2, 3, 4, draw.randrange(4096 // size)))
        out.append((at + size * index, struct.pack("<Q", wild_entry(draw, size))[:size]))
    return out


def _long_tables() -> list[tuple[int, bytes]]:
    gates = b"".join(
        struct.pack("<QQ", gate(14, CODE64, HANDLERS + vector, 3), 0) for vector in range(256)
    )
    return [
        (IDT, gates),
        (PML4, struct.pack("<Q", PDPT | 7)),
        (PDPT, struct.pack("<5Q", PD | 7, 0, 0, PD | 7, PD | 7)),
        (TSS + 4, struct.pack("<Q", END)),
        (TSS + 100, struct.pack("<HH", 0, 0x68)),
    ]


def _paging(draw: random.Random, mode: Mode) -> str:
    if mode is Mode.REAL:
        return "none"
    if mode is Mode.COMPAT:
        return "long"
    return draw.choice(("none", "none", "two levels", "pae"))


def tables(draw: random.Random, mode: Mode) -> Tables:
    """Return the tables of guests of a mode."""
    paging = _paging(draw, mode)
    memory = bytearray(_IMAGE)
    for at, data in _wild_tables(draw, mode, paging):
        memory[at : at + len(data)] = data
    return Tables(paging, bytes(memory))


def place(draw: random.Random, mode: Mode, made: Tables, code: bytes) -> Place:
    """Return a guest in a mode, about to execute `code`."""
    paging = made.paging
    pieces = []
    if mode in (Mode.REAL, Mode.V86):
        cs, cpl = (CODE >> 4, CODE, 0xFFFF, 0x93 | 0x60 * (mode is Mode.V86)), 0
        value = draw.choice((STACK >> 4, STACK >> 4, 0, 0xFFFF))
        ss = value, value << 4, 0xFFFF, cs[3]
        cpl = 3 if mode is Mode.V86 else 0
    else:
        code_selector, stack_selector, cpl = _code_and_stack(draw, mode)
        cs, ss = _hidden(code_selector), _hidden(stack_selector)
    rip = CODE - cs[1] if cs[1] <= CODE else 0
    where = draw.random()
    if where < 0.2:
        rip += 0x1000 - draw.randrange(1, 24)
    elif where < 0.3 and cs[1]:
        rip = 0x10000 - draw.randrange(1, 24)
    elif where < 0.35 and not cs[1] and paging != "none":
        rip = (1 << 32) - draw.randrange(1, 24)
    at = (cs[1] + rip) % RAM_SIZE
    if at + len(code) > RAM_SIZE:  # the end of 4 GiB, which goes on at 0
        pieces.append((0, code[RAM_SIZE - at :]))
        code = code[: RAM_SIZE - at]
    pieces.append((at, code))
    data = [_data(draw, mode) for _ in range(4)]
    registers = [any_offset(draw) for _ in range(8)]
    if draw.random() < 0.8:
        registers[4] = TOP if ss[1] else STACK + TOP
    rflags = 2 | draw.getrandbits(12) & 0x8D5 | draw.choice((0, 0x200, 0x3200))
    rflags |= (draw.random() < 0.2) << 10 | (draw.random() < 0.03) << 8
    rflags |= (draw.random() < 0.05) << 14 | (draw.random() < 0.05) << 18
    if mode is Mode.V86:
        rflags |= VM
    cr4 = 0x40610 | draw.choice((0, 0, 3, 1)) | 0x20 * (paging in ("pae", "long"))
    segments = (data[0], cs, ss, *data[1:], _hidden(LDT_SEL), _hidden(TSS_SEL))
    return Place(
        mode, made, tuple(pieces), segments, tuple(registers), rip, rflags, cpl, cr4
    )
