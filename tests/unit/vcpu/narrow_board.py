"""A place for single instructions of 16- and 32-bit code: segments of all types, and a state.

`NarrowBoard` performs such an instruction by the general emulator, and
`tests.unit.vcpu.host_narrow` on the host's own processor, from the same `State`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

from iced_x86 import Decoder, Mnemonic

from ringlet.core.state import Exit
from tests.unit.vcpu.board import (
    AF,
    CF,
    CODE,
    DATA,
    DF,
    HANDLERS,
    IDT,
    IF,
    KERNEL_STACK,
    NAMES,
    OF,
    PAGE_FAULT,
    PD,
    PDPT,
    PF,
    PT,
    SF,
    ZF,
    Board,
)

BASE: Final = 0x10000000
"""Linear address of the memory of all segments."""
SIZE: Final = 0x20000
CODE_AT: Final = 0x4000
"""Offset in the code segments, the first half of memory, where instructions are put."""
DATA_BASE: Final = BASE + 0x10000
HOLE: Final = 0x1E000
"""Offset in memory of a page that is not there."""
READ_ONLY: Final = 0x1F000
FRAME: Final = 0x5A5A0100
UPPER_SP: Final = FRAME & 0xFFFF0000
"""Bits 31..16 of ESP with a 16-bit stack."""
PHYS: Final = 0x100000
TABLE: Final = 0xA000
ES, CS, SS, DS, FS, GS = range(6)
TF: Final = 1 << 8
VM: Final = 1 << 17
FLAGS: Final = CF | PF | AF | ZF | SF | OF | DF
BREAKPOINT, SINGLE_STEP = 3, 1
TRAP: Final = b"\xcc"


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment of the LDT; its index there is its place in `SEGMENTS`."""

    base: int
    limit: int
    ar: int

    @property
    def big(self) -> bool:
        """The D/B bit."""
        return bool(self.ar & _BIG)

    def descriptor(self, number: int) -> bytes:
        """Return the `struct user_desc` of modify_ldt(2)."""
        pages = self.limit > 0xFFFFF
        kind = self.ar & 0xF
        flags = (
            self.big | kind >> 2 << 1 | (not kind & 2) << 3 | pages << 4 | 1 << 6
        )  # seg_32bit, contents, read_exec_only, limit_in_pages, useable
        return struct.pack("<4I", number, self.base, self.limit >> 12 * pages, flags)


_BIG: Final = 1 << 14
_PRESENT: Final = 0xF0  # P, DPL 3, S
_DATA, _READ, _DOWN, _CODE, _EXECUTE = (_PRESENT | kind for kind in (3, 1, 7, 11, 9))
_UNUSABLE: Final = 1 << 16
_4G: Final = 0xFFFFFFFF
SEGMENTS: Final = (
    Segment(BASE, 0xFFFF, _CODE),
    Segment(BASE, 0xFFFF, _CODE | _BIG),
    Segment(BASE, 0xFFFF, _EXECUTE),
    Segment(BASE, 0xFFFF, _EXECUTE | _BIG),
    Segment(DATA_BASE, 0xFFFF, _DATA | _BIG),
    Segment(DATA_BASE, 0xFFFF, _DATA),
    Segment(DATA_BASE, 0x7FF, _DATA | _BIG),
    Segment(DATA_BASE, 0xFFFF, _READ | _BIG),
    Segment(DATA_BASE, 0x7FFF, _DOWN),
    Segment(DATA_BASE, 0x7FFF, _DOWN | _BIG),
    Segment(0, _4G, _DATA | _BIG),
    Segment(DATA_BASE, _4G, _DATA | _BIG),
    Segment(DATA_BASE, _4G, _DATA),
)
CODE16, CODE32, EXECUTE16, EXECUTE32, DATA32, DATA16, SMALL, READ, DOWN16, DOWN32, FLAT, WRAPS = (
    range(12)
)
WRAPS16: Final = 12
NULL: Final = -1
STACKS: Final = (DATA32, DATA16, SMALL, DOWN16, DOWN32, FLAT, WRAPS, WRAPS16)


def selector(segment: int) -> int:
    """Return the selector of a segment in the LDT, or the null selector."""
    return segment << 3 | 7 if segment != NULL else 0


@dataclass
class State:
    """What an instruction begins with."""

    code: bytes
    segments: list[int] = field(
        default_factory=lambda: [DATA32, CODE32, DATA32, DATA32, DATA32, DATA32]
    )
    registers: list[int] = field(default_factory=lambda: [0] * 8)
    flags: int = 2
    eip: int = CODE_AT
    memory: bytes = bytes(SIZE)
    vectors: bytes = b""

    @property
    def bits(self) -> int:
        """16 or 32: the size of the code segment."""
        return 32 if SEGMENTS[self.segments[CS]].big else 16

    @property
    def big_stack(self) -> bool:
        """SS.B."""
        return SEGMENTS[self.segments[SS]].big

    @property
    def steps(self) -> bool:
        """Whether a single step may end the instruction; else it ends at a breakpoint.

        It would end each repetition of a string and hide the fault of a gather; PUSHF shows it.
        """
        instruction = Decoder(self.bits, self.code).decode()
        pushes = instruction.mnemonic in {Mnemonic.PUSHF, Mnemonic.PUSHFD}
        return not (instruction.is_string_instruction or instruction.is_vsib or pushes)

    @property
    def repeats(self) -> bool:
        """Whether it may take several calls of the emulator."""
        return Decoder(self.bits, self.code).decode().is_string_instruction

    def image(self) -> bytes:
        """Return memory with the instruction in it."""
        memory = bytearray(self.memory)
        code = (self.code + TRAP)[: 0x10000 - self.eip]
        memory[self.eip : self.eip + len(code)] = code
        return bytes(memory)


@dataclass
class Result:
    """What an instruction ends with; `exception` is a vector and an error code."""

    registers: list[int]
    flags: int
    eip: int
    exception: tuple[int, int] | None
    cr2: int
    memory: bytes
    vectors: bytes

    def difference(self, other: Result, undefined: int = 0) -> list[str]:
        """Return the differences between two results but in the flags `undefined`."""
        found = []
        for name, mine, theirs in zip(NAMES, self.registers, other.registers, strict=False):
            if mine != theirs:
                found.append(f"{name} {mine:#x} {theirs:#x}")
        found += [
            f"{name} {getattr(self, name)} {getattr(other, name)}"
            for name in ("eip", "exception", "cr2")
            if getattr(self, name) != getattr(other, name)
        ]
        if (self.flags ^ other.flags) & ~undefined:
            found.append(f"flags {self.flags:#x} {other.flags:#x}")
        for name, first, second in (
            ("memory", self.memory, other.memory),
            ("vectors", self.vectors, other.vectors),
        ):
            if first != second:
                places = [i for i, (a, b) in enumerate(zip(first, second, strict=True)) if a != b]
                found.append(f"{name} at {[hex(i) for i in places[:8]]}")
        return found


def comparable(xsave: bytes) -> bytes:
    """Return the registers of an XSAVE image without x87 pointers, and with initial components."""
    image = bytearray(xsave[:832])
    present = image[512]
    if not present & 1:
        image[:24] = struct.pack("<HHHHQQ", 0x37F, 0, 0, 0, 0, 0)
        image[32:160] = bytes(128)
    if not present & 2:
        image[160:416] = bytes(256)
    if not present & 4:
        image[576:832] = bytes(256)
    image[6:24] = bytes(18)
    image[28:32] = bytes(4)
    # Registers 8 to 15 are not there.
    image[288:416] = image[704:832] = bytes(128)
    image[416:576] = bytes(160)
    return bytes(image)


class RealBoard(Board):
    """A processor in real-address mode, or in virtual-8086 mode, without paging."""

    def __init__(self, *, v86: bool = False) -> None:
        super().__init__(0)
        self._kind = 0xF3 if v86 else 0x93
        self.p.set("efer", 0)
        self.p.set("cr0", 0x11 if v86 else 0x10)
        self.p.set("cpl", 3 if v86 else 0)
        for i in range(6):
            self.segment(i, DATA >> 4)
        self.segment(CS, CODE >> 4)
        self.set(rip=0x100, rsp=0x800, rflags=VM | 2 if v86 else 2)

    def segment(self, index: int, value: int) -> None:
        """Load a segment register as this mode does."""
        cpl = self.get("cpl")
        self.p.set_segment(index, value, value << 4, 0xFFFF, self._kind)
        self.p.set("cpl", cpl)

    def attempt(self, code: str) -> tuple[int, int | None] | None:
        """Perform one instruction at EIP; return its exception's vector and error code."""
        linear = self.p.get_segment(CS)[1] + self.get("rip")
        self.p.write_phys(linear, bytes.fromhex(code))
        assert self.p.emulate(deliver=False) == Exit.EXIT_NONE
        return self.p.exception[:2] if self.p.exception is not None else None

    def words(self, offset: int, count: int) -> list[int]:
        """Return 16-bit words of the data segment."""
        return list(struct.unpack(f"<{count}H", self.p.read_phys(DATA + offset, 2 * count)))

    def put(self, offset: int, *words: int) -> None:
        """Write 16-bit words to the data segment."""
        self.p.write_phys(DATA + offset, struct.pack(f"<{len(words)}H", *words))


_RING_3_GATE: Final = 0xEE
_WITH_ERROR_CODES: Final = (8, 10, 11, 12, 13, 14, 17)


class NarrowBoard(Board):
    """A processor in compatibility mode at CPL 3, with memory at `BASE`."""

    def __init__(self) -> None:
        super().__init__(3)
        self.poke(PD, 0)
        self.poke(PDPT + 8, 0)
        self.poke(PD + 8 * (BASE >> 21), TABLE | 7)
        for at in range(0, SIZE, 0x1000):
            rights = {HOLE: 0, READ_ONLY: 5}.get(at, 7)
            self.poke(TABLE + 8 * (at >> 12), PHYS + at | rights if rights else 0)
        self.p.set("cr3", self.p.get("cr3"))

    def load(self, state: State) -> None:
        """Take over a state."""
        for i, number in enumerate(state.segments):
            if number == NULL:
                self.p.set_segment(i, 0, 0, 0, _UNUSABLE)
            else:
                s = SEGMENTS[number]
                self.p.set_segment(i, selector(number), s.base, s.limit, s.ar)
        for name, value in zip(NAMES, state.registers, strict=False):
            self.p.set(name, value)
        self.p.set("rip", state.eip)
        self.p.set("rflags", state.flags | IF)
        self.p.write_phys(PHYS, state.image())
        if state.vectors:
            self.p.set_xsave(state.vectors)

    def perform(self, state: State) -> Result:
        """Perform an instruction to its end, or to its exception."""
        self.load(state)
        while True:
            assert self.p.emulate(deliver=False) == Exit.EXIT_NONE
            if not state.repeats or self.get("rip") != state.eip or self.p.exception is not None:
                return self.result()

    def result(self) -> Result:
        """Return the state after the instruction."""
        exception = None
        cr2 = 0
        if self.p.exception is not None:
            vector, error, address = self.p.exception
            exception = vector, error or 0
            cr2 = address if vector == PAGE_FAULT else 0
        return Result(
            [self.get(name) for name in NAMES[:8]],
            self.get("rflags") & FLAGS,
            self.get("rip"),
            exception,
            cr2,
            self.p.read_phys(PHYS, SIZE),
            comparable(self.p.get_xsave()),
        )


class RunBoard(NarrowBoard):
    """A `NarrowBoard` that runs instructions as a guest does, each up to a breakpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.poke(PD, PT | 7)
        for vector in range(32):
            handler = HANDLERS + 16 * vector
            self.poke(IDT + 16 * vector, handler | 8 << 16 | _RING_3_GATE << 40 | 1 << 48, 0)
        self.p.set("cr3", self.p.get("cr3"))

    def run_to_breakpoint(self, state: State) -> Result:
        """Run an instruction that does not jump, to the breakpoint behind it or to its exception.

        The descriptor tables are in the same address space, so no segment may be flat.
        """
        self.load(state)
        self.p.set("cpl", 3)
        assert self.p.run() == Exit.EXIT_HLT
        vector = self.raised()
        assert vector is not None
        pushed = struct.unpack("<6Q", self.p.read_phys(KERNEL_STACK - 48, 48))
        error = pushed[0] if vector in _WITH_ERROR_CODES else 0
        found = self.result()
        found.exception = None if vector == BREAKPOINT else (vector, error)
        found.eip = pushed[1] - (vector == BREAKPOINT)
        found.flags = pushed[3] & FLAGS
        found.registers[4] = pushed[4]
        found.cr2 = self.get("cr2") if vector == PAGE_FAULT else 0
        return found
