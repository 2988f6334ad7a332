"""Operands for 32-bit code: every address is below 4 GiB, and 67h selects 16-bit addresses."""
from __future__ import annotations

from iced_x86 import Instruction, MemorySizeExt, Register, Register_

from tests.differential import layout
from tests.differential.operands import M32, R8, R8_HIGH, R16, R32, Operands, Target

M16 = 0xFFFF
_BX, _BP, _SI, _DI = 3, 5, 6, 7
_PAIRS = ((_BX, _SI), (_BX, _DI), (_BP, _SI), (_BP, _DI), (_SI,), (_DI,), (_BP,), (_BX,))
_BYTES = R8[:4]


class NarrowOperands(Operands):
    """Draws operands of 32-bit code."""

    count = 8
    pointers = R32
    places = ("data",) * 8 + ("stack",) * 2 + ("edge32",)
    areas = tuple(a for a in layout.AREAS.values() if a.end <= 1 << 32)
    holes = tuple(h for h in layout.HOLES if h >> 32 == 0)
    non_canonical = (0, 0x400, 0x7FFF_FFC0, 0x8000_0000, 0xFFFF_EFC0, 0xFFFF_FFC1)

    # Whether an operand may begin before offset 0 of FS or GS and end behind it.
    straddles = True

    def byte_register(self, written: bool, high: bool) -> Register_:
        """AL, CL, DL, BL, or one of their high bytes."""
        del high
        if self.rng.random() < 0.5:
            return self.register(_BYTES, written)
        number = self.rng.randrange(4)
        return _BYTES[number] if number in self.registers.pinned else R8_HIGH[number]

    def _bad_target(self, size: int, write: bool) -> Target:
        spot = super()._bad_target(size, write)
        spot.linear &= M32
        return spot

    def _segment(self, ins: Instruction, linear: int) -> int:
        """Perhaps an override: the offset that is left to reach."""
        rng, known = self.rng, self.registers
        choice = rng.random()
        if choice < 0.9:
            if choice < 0.05:
                ins.segment_prefix = rng.choice((Register.DS, Register.ES, Register.SS))
            return linear
        fs = choice < 0.95
        ins.segment_prefix = Register.FS if fs else Register.GS
        base = known.fs_base if fs else known.gs_base
        if base is None:
            before = rng.choice((0, 0x28, -8 if self.straddles else 8, 0x1000, rng.getrandbits(15),
                                 rng.getrandbits(16), rng.getrandbits(32)))
            base = linear - before & M32
            if fs:
                known.fs_base = base
            else:
                known.gs_base = base
        return (linear - base) & M32

    def _try_memory(self, ins: Instruction, target: Target, rip: bool) -> bool:
        del rip
        rng = self.rng
        self._plain(ins)
        offset = self._segment(ins, target.linear & M32)
        if rng.random() < 0.12:
            ins.memory_displacement = offset
            ins.memory_displ_size = 4
            return True
        if (offset <= M16 and rng.random() < 0.6) or rng.random() < 0.002:
            return self._solve16(ins, offset)
        return self._by_registers(ins, offset, True)

    def _solve16(self, ins: Instruction, offset: int) -> bool:
        """Choose a 16-bit address (SDM 2A table 2-1) that is `offset`, modulo 64 KiB."""
        rng, known = self.rng, self.registers
        usable = known.usable()
        pairs = [p for p in _PAIRS if all(n in usable for n in p)]
        numbers = rng.choice((*pairs, ()))
        rest = offset
        free = [n for n in numbers if n in known.free]
        displacement = rng.choice((0, rng.randrange(-128, 128), rng.getrandbits(16)))
        for n in numbers:
            if n not in known.free:
                rest -= known.value[n] or 0
        for n in free[1:]:
            known.assign(n, rng.getrandbits(32))
            rest -= known.value[n] or 0
        if free:
            known.assign(free[0], rng.getrandbits(16) << 16 | (rest - displacement) & M16)
        else:
            displacement = rest
        displacement = (displacement + 0x8000 & M16) - 0x8000
        short = numbers and -128 <= displacement < 128
        if displacement or not numbers or numbers == (_BP,):
            ins.memory_displacement = displacement & M16
            ins.memory_displ_size = 1 if short else 2
        for attribute, n in zip(("memory_base", "memory_index"), numbers, strict=False):
            setattr(ins, attribute, R16[n])
        return True

    def _absolute(self, ins: Instruction, write: bool) -> None:
        target = self.target(MemorySizeExt.size(ins.memory_size), write)
        self._plain(ins)
        offset = self._segment(ins, target.linear & M32)
        ins.memory_displacement = offset
        ins.memory_displ_size = 2 if offset <= M16 and self.rng.random() < 0.6 else 4
