"""Operands of code whose segments are not flat: a segment is chosen that reaches the target."""
from __future__ import annotations

import random

from iced_x86 import Instruction, MemorySizeExt, Register, Register_

from tests.differential import layout
from tests.differential.narrow.operands import M16, NarrowOperands
from tests.differential.operands import M32, R16, R32, RSP, Registers, Target
from tests.differential.program import SEGMENTS
from tests.differential.segments import NAMED, STACK_HIGH, Segment

NAMES = dict(zip((Register.ES, Register.CS, Register.SS, Register.DS, Register.FS, Register.GS),
                 SEGMENTS, strict=True))
_STACKED = (R16[5], R32[4], R32[5])  # a base register that selects SS

DATA = ("data16", "data16", "data16", "high16", "small", "down16", "down32", "whole", "moved",
        "half", "shown")
STACKS = ("stack16", "stack16", "top16", "stack32", "stack32", "whole", "downstack16")


class SegmentedOperands(NarrowOperands):
    """Draws operands for `segments`, by the names of their registers."""

    def __init__(self, rng: random.Random, registers: Registers, wild: float,
                 segments: dict[str, Segment], bits: int) -> None:
        super().__init__(rng, registers, wild)
        self.segments = segments
        self.bits = bits
        self._chosen: Register_ = Register.DS
        if bits == 16:
            self.pointers = R16

    def loaded(self, register: str, name: str) -> None:
        """A segment register has another segment now, if it has not faulted."""
        self.segments[register] = NAMED[name]

    def offset(self, linear: int, segment: str) -> int:
        """Return the offset of a linear address in a segment, whether it is inside or not."""
        return (linear - self.segments[segment].base) & M32

    def reached(self, size: int, write: bool, segment: str) -> int:
        """Return the offset of a target in one segment."""
        for _ in range(8):
            offset = self.offset(super().target(size, write).linear, segment)
            if self.segments[segment].holds(offset, size):
                break
        return offset

    def target(self, size: int, write: bool, align: int = 1) -> Target:
        """A linear address that a segment reaches, mostly."""
        for _ in range(12):
            spot = super().target(size, write, align)
            if spot.bad or any(s.holds((spot.linear - s.base) & M32, size)
                               for name, s in self.segments.items() if name != "cs"):
                break
        return spot

    def _segment(self, ins: Instruction, linear: int) -> int:
        rng = self.rng
        usable = [r for r, name in NAMES.items() if name != "cs"
                  and self.segments[name].holds(self.offset(linear, name))]
        if Register.DS in usable and rng.random() < 0.6:
            self._chosen = Register.DS
        else:
            self._chosen = rng.choice(usable or [Register.DS])
        if rng.random() < 0.002:
            self._chosen = Register.CS
        return self.offset(linear, NAMES[self._chosen])

    def _try_memory(self, ins: Instruction, target: Target, rip: bool) -> bool:
        del rip
        rng, usable = self.rng, self.registers.usable()
        self._plain(ins)
        offset = self._segment(ins, target.linear & M32)
        kind = rng.random()
        other = rng.random() < 0.15      # 67h
        if (self.bits == 16) != other:
            if offset > M16 and rng.random() > 0.02:
                return False
            made = self._solve16(ins, offset)
        elif kind < 0.15 or not usable:
            ins.memory_displacement = offset
            ins.memory_displ_size = 4
            made = True
        else:
            base = rng.choice(usable) if rng.random() < 0.9 else None
            index = rng.choice(usable) if base is None or rng.random() < 0.45 else None
            made = index != RSP and self._solve(ins, offset, base, index, True)
        return made and self._override(ins)

    def _override(self, ins: Instruction) -> bool:
        default = Register.SS if ins.memory_base in _STACKED else Register.DS
        if self._chosen != default or self.rng.random() < 0.03:
            ins.segment_prefix = self._chosen
        return True

    def memory(self, ins: Instruction, target: Target, *, rip: bool = True) -> None:
        """Give `ins` a memory operand that reaches `target`."""
        for _ in range(12):
            if self._try_memory(ins, target, rip):
                return
        self._plain(ins)
        self._chosen = Register.DS
        ins.memory_displacement = self.offset(target.linear, "ds")
        ins.memory_displ_size = 4
        self._override(ins)

    def _absolute(self, ins: Instruction, write: bool) -> None:
        target = self.target(MemorySizeExt.size(ins.memory_size), write)
        self._plain(ins)
        offset = self._segment(ins, target.linear)
        short = (self.bits == 16) != (self.rng.random() < 0.15)
        ins.memory_displacement = offset & M16 if short and self.rng.random() < 0.9 else offset
        ins.memory_displ_size = 2 if ins.memory_displacement <= M16 and short else 4
        self._override(ins)


def choose(rng: random.Random, bits: int, smc: bool) -> dict[str, str]:
    """Return the names of the segments of one program, by register."""
    if bits == 32 and not smc and rng.random() < 0.2:
        return {name: "flat code" if name == "cs" else "flat" for name in SEGMENTS}
    data = {name: rng.choice(DATA) for name in ("es", "fs", "gs")}
    if rng.random() < 0.3:
        data["es"] = "data16"
    code = f"{'smc' if smc else 'code'}{bits}"
    if code == "code32" and rng.random() < 0.4:
        code = rng.choice(("flat code", "whole code"))
    if code == "code16" and rng.random() < 0.05:
        code = "hidden16"
    return {"es": data["es"], "cs": code, "ss": rng.choice(STACKS),
            "ds": rng.choice(DATA) if rng.random() < 0.6 else "data16",
            "fs": data["fs"], "gs": data["gs"]}


def stack_offset(rng: random.Random, name: str) -> int:
    """Return a stack pointer for the segment of a name in STACKS."""
    segment = NAMED[name]
    kind = rng.randrange(20)
    if kind < 15:
        linear = layout.STACK.linear + 0x2000 + rng.randrange(-64, 64) * 8
    elif kind < 17:
        linear = layout.STACK.linear + rng.randrange(64)
    elif kind == 17:
        linear = layout.STACK.linear + 0x2000 + rng.randrange(-512, 512)
    else:
        linear = layout.STACK.end - rng.choice((0, 0, rng.randrange(64)))
    offset = linear - segment.base & M32
    return offset if segment.big else STACK_HIGH << 16 | offset & M16
