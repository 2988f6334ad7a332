"""Operands for generated instructions, and the initial state that their addresses need.

A register is *free* until it is written: an address that uses it chooses its initial value.  It is
*known* while its value is certain, and *unknown* after an instruction computed it.
"""
from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from iced_x86 import (
    Instruction,
    MemorySizeExt,
    OpCodeOperandKind_,
    OpKind,
    Register,
    Register_,
)
from iced_x86 import OpCodeOperandKind as K

from tests.differential import layout

M64 = (1 << 64) - 1
M32 = (1 << 32) - 1
RSP = 4


def _file(first: Register_, count: int = 16) -> tuple[Register_, ...]:
    return tuple(cast("Register_", first + i) for i in range(count))


R64 = _file(Register.RAX)
R32 = _file(Register.EAX)
R16 = _file(Register.AX)
# AL CL DL BL SPL BPL SIL DIL R8L..; AH CH DH BH are separate, because they exclude REX.
R8 = (Register.AL, Register.CL, Register.DL, Register.BL, Register.SPL, Register.BPL,
      Register.SIL, Register.DIL, *_file(Register.R8L, 8))
R8_HIGH = (Register.AH, Register.CH, Register.DH, Register.BH)
XMM = _file(Register.XMM0)
YMM = _file(Register.YMM0)
MM = _file(Register.MM0, 8)
ST = _file(Register.ST0, 8)

_NUMBER = {r: i for file in (R64, R32, R16, R8, R8_HIGH) for i, r in enumerate(file)}
_VECTOR_NUMBER = {r: i for file in (XMM, YMM) for i, r in enumerate(file)}

_GPR_FILES = {K.R8_REG: R8, K.R8_OR_MEM: R8, K.R8_OPCODE: R8, K.R16_REG: R16, K.R16_OR_MEM: R16,
              K.R16_OPCODE: R16, K.R16_RM: R16, K.R32_REG: R32, K.R32_OR_MEM: R32,
              K.R32_OPCODE: R32, K.R32_RM: R32, K.R32_VVVV: R32, K.R64_REG: R64,
              K.R64_OR_MEM: R64, K.R64_OPCODE: R64, K.R64_RM: R64, K.R64_VVVV: R64}
_OTHER_FILES = {K.XMM_REG: XMM, K.XMM_OR_MEM: XMM, K.XMM_RM: XMM, K.XMM_VVVV: XMM, K.XMM_IS4: XMM,
                K.YMM_REG: YMM, K.YMM_OR_MEM: YMM, K.YMM_RM: YMM, K.YMM_VVVV: YMM, K.YMM_IS4: YMM,
                K.MM_REG: MM, K.MM_OR_MEM: MM, K.MM_RM: MM, K.STI_OPCODE: ST}
_IMPLIED = {K.AL: Register.AL, K.AX: Register.AX, K.EAX: Register.EAX, K.RAX: Register.RAX,
            K.CL: Register.CL, K.DX: Register.DX, K.ST0: Register.ST0}
_OR_MEM = frozenset((K.R8_OR_MEM, K.R16_OR_MEM, K.R32_OR_MEM, K.R64_OR_MEM, K.XMM_OR_MEM,
                     K.YMM_OR_MEM, K.MM_OR_MEM))
_VSIB_SHAPE = {K.MEM_VSIB32X: (4, XMM), K.MEM_VSIB32Y: (4, YMM), K.MEM_VSIB64X: (8, XMM),
               K.MEM_VSIB64Y: (8, YMM)}
_IMMEDIATES = {K.IMM8: (8, OpKind.IMMEDIATE8), K.IMM8_CONST_1: (0, OpKind.IMMEDIATE8),
               K.IMM8SEX16: (7, OpKind.IMMEDIATE8TO16), K.IMM8SEX32: (7, OpKind.IMMEDIATE8TO32),
               K.IMM8SEX64: (7, OpKind.IMMEDIATE8TO64), K.IMM16: (16, OpKind.IMMEDIATE16),
               K.IMM32: (32, OpKind.IMMEDIATE32), K.IMM32SEX64: (31, OpKind.IMMEDIATE32TO64),
               K.IMM64: (64, OpKind.IMMEDIATE64)}
_EDGES = (0, 1, 2, 7, 8, 15, 16, 31, 32, 33, 63, 64, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF,
          0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0x8000000000000000, M64)


def gpr_number(register: Register_) -> int | None:
    """ModRM number of the general register that this is or is a part of."""
    return _NUMBER.get(register)


def vector_number(register: Register_) -> int | None:
    """Number of the vector register."""
    return _VECTOR_NUMBER.get(register)


def signed32(value: int) -> int | None:
    """A 64-bit difference as a displacement, or None if it does not fit."""
    value &= M64
    if value <= 0x7FFFFFFF:
        return value
    if value >= M64 - 0x7FFFFFFF:
        return value - (1 << 64)
    return None


def edge_value(rng: random.Random) -> int:
    """Return a 64-bit value that is likely to expose errors of arithmetic."""
    kind = rng.randrange(5)
    if kind == 0:
        return rng.choice(_EDGES)
    if kind == 1:
        return (-rng.randrange(1, 300)) & M64
    if kind == 2:
        return rng.randrange(300)
    if kind == 3:
        return rng.getrandbits(32)
    return rng.getrandbits(64)


@dataclass(slots=True)
class Registers:
    """The generator's knowledge of the registers at the current point."""

    initial: list[int | None] = field(default_factory=lambda: [None] * 16)
    value: list[int | None] = field(default_factory=lambda: [None] * 16)
    free: set[int] = field(default_factory=lambda: set(range(16)))
    vector_free: set[int] = field(default_factory=lambda: set(range(16)))
    mask: int = M64
    vector_initial: dict[int, bytes] = field(default_factory=dict)
    fs_base: int | None = None
    gs_base: int | None = None
    pinned: set[int] = field(default_factory=set)  # loop counters: not to be written

    def assign(self, number: int, value: int) -> None:
        """Give a free register the initial value that an address needs."""
        self.free.discard(number)
        self.initial[number] = self.value[number] = value & self.mask

    def written(self, number: int) -> None:
        """An instruction computed it."""
        self.free.discard(number)
        self.value[number] = None

    def usable(self) -> list[int]:
        """Registers that an address may use: free or known."""
        return [i for i in range(16) if i in self.free or self.value[i] is not None]


@dataclass(slots=True)
class Target:
    """The target of an operand."""

    linear: int
    bad: bool = False


class Operands:
    """Draws operands of 64-bit code.  `wild` is the chance that an address is a bad one."""

    count = 16                                 # registers of each file
    pointers: tuple[Register_, ...] = R64      # the registers of an address
    places: tuple[str, ...] = (*("data",) * 8, *("stack",) * 2, *("gib4", "slot") * 2,
                               "edge32", "top")
    areas = tuple(layout.AREAS.values())
    holes: tuple[int, ...] = layout.HOLES
    non_canonical: tuple[int, ...] = layout.NON_CANONICAL

    def __init__(self, rng: random.Random, registers: Registers, wild: float = 0.03) -> None:
        self.rng = rng
        self.registers = registers
        self.wild = wild
        # For a value that no free or known register has: emits MOV register, value.
        self.load: Callable[[int, int], None] = lambda number, value: None

    # --- registers and immediates

    def register(self, file: tuple[Register_, ...], written: bool) -> Register_:
        """A general register; a written one is seldom RSP or one that addresses use."""
        rng, known = self.rng, self.registers
        for _ in range(6):
            number = rng.randrange(min(len(file), self.count))
            if not written:
                return file[number]
            if number in known.pinned:
                continue
            if number == RSP and rng.random() > 0.03:
                continue
            if known.value[number] is not None and rng.random() < 0.7:
                continue
            return file[number]
        spare = [i for i in range(min(len(file), self.count)) if i not in known.pinned and i != RSP]
        return file[rng.choice(spare)]

    def byte_register(self, written: bool, high: bool) -> Register_:
        """A byte register; `high` allows AH CH DH BH (no other operand may need REX)."""
        if high and self.rng.random() < 0.3:
            register = self.rng.choice(R8_HIGH)
            if _NUMBER[register] not in self.registers.pinned:
                return register
        return self.register(R8, written)

    def immediate(self, bits: int) -> int:
        """An immediate of that many bits; 31 and 7 are signed and sign-extended."""
        if bits == 0:
            return 1
        value = edge_value(self.rng)
        if bits in (7, 31):
            value &= (2 << bits) - 1
            return value - (2 << bits) if value >> bits else value
        return value & ((1 << bits) - 1)

    # --- addresses

    def target(self, size: int, write: bool, align: int = 1) -> Target:
        """A linear address for an access of `size` bytes."""
        rng = self.rng
        if rng.random() < self.wild:
            return self._bad_target(size, write)
        names = self.places if write else (*self.places, "ro")
        area = layout.AREAS[rng.choice(names)]
        room = area.size - size
        kind = rng.randrange(8)
        if kind == 0 and area.pages > 1:  # about the page boundary in its middle
            offset = area.size // 2 - rng.randrange(size + 1)
        elif kind == 1:  # one of its ends
            offset = rng.choice((0, room))
        elif kind == 2:  # about a cache line's end
            offset = rng.randrange(1, area.size // 64) * 64 - rng.randrange(size + 1)
        else:
            offset = rng.randrange(room + 1)
        offset = max(0, min(offset, room))
        if align > 1 or rng.random() < 0.3:
            offset -= offset % max(align, 1 << (size.bit_length() - 1))
        return Target(area.linear + offset)

    def _bad_target(self, size: int, write: bool) -> Target:
        rng = self.rng
        kind = rng.randrange(6)
        if kind == 0:
            return Target(rng.choice(self.non_canonical) + rng.randrange(64) & M64, True)
        if kind == 1:
            return Target(rng.choice(self.holes) + rng.randrange(4096), True)
        if kind == 2 and write:
            return Target(layout.RO.linear + rng.randrange(4096 - size), True)
        area = rng.choice(self.areas)
        if kind == 3:  # runs into the page before it
            return Target(area.linear - rng.randrange(1, size + 1), True)
        return Target(area.end - rng.randrange(size), True)

    def memory(self, ins: Instruction, target: Target, *, rip: bool = True) -> None:
        """Give `ins` a memory operand that reaches `target`."""
        for _ in range(8):
            if self._try_memory(ins, target, rip):
                return
        self._plain(ins)
        spare = [i for i in range(self.count) if i not in self.registers.pinned and i != RSP]
        number = self.rng.choice(spare)
        self.load(number, target.linear)
        ins.memory_base = self.pointers[number]

    @staticmethod
    def _plain(ins: Instruction) -> None:
        ins.memory_base = ins.memory_index = Register.NONE
        ins.memory_index_scale = 1
        ins.memory_displacement = ins.memory_displ_size = 0
        ins.segment_prefix = Register.NONE

    def _segment(self, ins: Instruction, linear: int) -> int:
        """Perhaps an FS or GS override: the effective address that is left to reach."""
        rng, known = self.rng, self.registers
        choice = rng.random()
        if choice < 0.93:
            if choice < 0.02:  # ignored in 64-bit mode
                ins.segment_prefix = rng.choice((Register.CS, Register.DS, Register.ES,
                                                 Register.SS))
            return linear
        fs = choice < 0.965
        ins.segment_prefix = Register.FS if fs else Register.GS
        base = known.fs_base if fs else known.gs_base
        if base is None:
            base = linear - rng.choice((0, 0x28, -8, 0x1000, rng.getrandbits(31),
                                        -rng.getrandbits(31), rng.getrandbits(47)))
            base = base & M64 if base >> 47 in (0, -1) and (linear - base) >> 47 == 0 else 0
            if fs:
                known.fs_base = base
            else:
                known.gs_base = base
        return (linear - base) & M64

    def _try_memory(self, ins: Instruction, target: Target, rip: bool) -> bool:
        rng = self.rng
        self._plain(ins)
        ea = self._segment(ins, target.linear)
        kind = rng.random()
        if rip and kind < 0.12:
            if abs(ea - layout.CODE.linear) >= 0x7FF00000:
                return False
            ins.memory_base = Register.RIP
            ins.memory_displacement = ea
            ins.memory_displ_size = 8
            return True
        if kind < 0.16:  # absolute, sign-extended
            displacement = signed32(ea)
            if displacement is None:
                return False
            ins.memory_displacement = displacement & M64
            ins.memory_displ_size = 8
            return True
        return self._by_registers(ins, ea, kind > 0.93 and ea <= M32)

    def _by_registers(self, ins: Instruction, ea: int, addr32: bool) -> bool:
        """Choose a base, an index or both with which the address is `ea`."""
        rng = self.rng
        usable = self.registers.usable()
        if not usable:
            return False
        base = rng.choice(usable) if rng.random() < 0.9 else None
        index = None
        if base is None or rng.random() < 0.45:
            index = rng.choice(usable)
            if index == RSP:
                return False
        return self._solve(ins, ea, base, index, addr32)

    def _solve(self, ins: Instruction, ea: int, base: int | None, index: int | None,
               addr32: bool) -> bool:
        """Choose displacement, scale and the values of free registers so that the sum is `ea`."""
        rng, known = self.rng, self.registers
        scale = rng.choice((1, 2, 4, 8)) if index is not None else 1
        size = rng.choice((0, 1, 1, 4)) if base is not None else 4
        wanted = {0: 0, 1: rng.randrange(-128, 128),
                  4: rng.choice((0, 64, -0x80000000, 0x7FFFFFFF, rng.randrange(-4096, 4096),
                                 rng.randrange(-1 << 31, 1 << 31)))}[size]
        if known.free.isdisjoint((base, index)):
            total = self._value(base) + self._value(index) * scale
            rest = (ea - total) & (M32 if addr32 else M64)
            found = rest - (rest >> 31 << 32) if addr32 else signed32(rest)
            if found is None:
                return False
            displacement, size = found, 0 if base is not None else 4
        else:
            displacement = self._assign(ea, base, index, scale, wanted, addr32)
        if not -0x80000000 <= displacement <= 0x7FFFFFFF:
            return False
        if size < 4 and displacement:
            size = 1 if -128 <= displacement < 128 else 4
        file = R32 if addr32 else R64
        if base is not None:
            ins.memory_base = file[base]
        if index is not None:
            ins.memory_index = file[index]
            ins.memory_index_scale = scale
        if base is None or base & 7 == 5:
            size = size or 1
        ins.memory_displacement = displacement & M64
        ins.memory_displ_size = size if size != 4 else (4 if addr32 else 8)
        return True

    def _value(self, number: int | None) -> int:
        return 0 if number is None else self.registers.value[number] or 0

    def _assign(self, ea: int, base: int | None, index: int | None, scale: int, displacement: int,
                addr32: bool) -> int:
        """Give the free ones of `base` and `index` values; the displacement that is left."""
        rng, known = self.rng, self.registers
        mask = M32 if addr32 else M64
        if base is not None and base == index:
            rest = (ea - displacement) & mask
            known.assign(base, rest // (scale + 1))
            return displacement + rest % (scale + 1)
        if base is not None and base in known.free:
            if index is not None and index in known.free:
                known.assign(index, rng.choice((0, 1, -1, rng.randrange(4096), edge_value(rng))))
            high = rng.getrandbits(32) << 32 if addr32 and rng.random() < 0.5 else 0
            known.assign(base, ((ea - displacement - self._value(index) * scale) & mask) | high)
            return displacement
        assert index is not None
        rest = (ea - self._value(base) - displacement) & mask
        if base is None and rest >> 63:
            rest -= 1 << 64
        known.assign(index, rest // scale)
        return displacement + rest % scale

    # --- whole operand kinds

    def fill(self, ins: Instruction, kinds: tuple[OpCodeOperandKind_, ...],
             mem: bool | None = None, *, align: int = 1, rip: bool = True) -> bool:
        """Fill all operands of `ins`.  `mem` forces or forbids a memory operand where it may be
        either.  False: a kind that has no plain operand."""
        rng = self.rng
        memory = -1
        offsets = -1
        vsib: OpCodeOperandKind_ | None = None
        immediates = 0
        high = not any(k in _GPR_FILES and _GPR_FILES[k] is R64 for k in kinds)
        if mem is None:
            mem = rng.random() < 0.55
        for i, kind in enumerate(kinds):
            if (kind in _OR_MEM and mem) or kind == K.MEM:
                ins.set_op_kind(i, OpKind.MEMORY)
                memory = i
            elif kind in _GPR_FILES:
                file = _GPR_FILES[kind]
                written = i == 0 or ins.mnemonic in _WRITES_TWO
                ins.set_op_kind(i, OpKind.REGISTER)
                ins.set_op_register(i, self.byte_register(written, high) if file is R8
                                    else self.register(file, written))
            elif kind in _OTHER_FILES:
                ins.set_op_kind(i, OpKind.REGISTER)
                ins.set_op_register(i, rng.choice(_OTHER_FILES[kind][:self.count]))
            elif kind in _IMPLIED:
                ins.set_op_kind(i, OpKind.REGISTER)
                ins.set_op_register(i, _IMPLIED[kind])
            elif kind in _IMMEDIATES:
                bits, op_kind = _IMMEDIATES[kind]
                if immediates:
                    op_kind = OpKind.IMMEDIATE8_2ND
                immediates += 1
                ins.set_op_kind(i, op_kind)
                value = self.immediate(bits)
                if op_kind == OpKind.IMMEDIATE8_2ND:
                    ins.immediate8_2nd = value
                else:
                    ins.set_immediate_i64(i, value - (1 << 64) if value >= 1 << 63 else value)
            elif kind == K.MEM_OFFS:
                ins.set_op_kind(i, OpKind.MEMORY)
                offsets = i
            elif kind in _VSIB_SHAPE:
                ins.set_op_kind(i, OpKind.MEMORY)
                vsib = kind
            else:
                return False
        if memory >= 0:
            size = MemorySizeExt.size(ins.memory_size) or 8
            self.memory(ins, self.target(size, memory == 0 or ins.mnemonic in _WRITES_TWO, align),
                        rip=rip)
        elif offsets >= 0:
            self._absolute(ins, offsets == 0)
        elif vsib is not None:
            self._gather(ins, vsib)
        return True

    def _absolute(self, ins: Instruction, write: bool) -> None:
        target = self.target(MemorySizeExt.size(ins.memory_size), write)
        self._plain(ins)
        ea = self._segment(ins, target.linear)
        ins.memory_displacement = ea
        ins.memory_displ_size = 4 if ea <= M32 and self.rng.random() < 0.2 else 8

    def _gather(self, ins: Instruction, kind: OpCodeOperandKind_) -> None:
        """[base + vector*scale + disp] with lanes that stay in an area, mostly."""
        rng, known = self.rng, self.registers
        width, file = _VSIB_SHAPE[kind]
        used = {vector_number(ins.op0_register), vector_number(ins.op2_register)}
        numbers = [i for i in range(self.count) if i not in used]
        free = [i for i in numbers if i in known.vector_free]
        number = rng.choice(free or numbers)
        self._plain(ins)
        ins.memory_index = file[number]
        scale = rng.choice((1, 2, 4, 8))
        ins.memory_index_scale = scale
        if free:
            reach = rng.choice((512, 512, 512, 1 << 20, 1 << 31 if width == 4 else 1 << 62))
            lanes = [rng.randrange(-reach, reach) // scale for _ in range(32 // width)]
            known.vector_free.discard(number)
            known.vector_initial[number] = struct.pack("<8i" if width == 4 else "<4q", *lanes)
        target = layout.DATA.linear + layout.DATA.size // 2 + rng.randrange(-1024, 1024)
        usable = [i for i in self.registers.usable() if i not in known.pinned]
        ins.memory_displ_size = 8 if self.pointers is R64 else 4
        if not usable or rng.random() < 0.1:
            ins.memory_displacement = target
            return
        base = rng.choice(usable)
        displacement = rng.choice((0, 8, -100, rng.randrange(-1 << 20, 1 << 20)))
        if base in known.free:
            known.assign(base, target - displacement)
        ins.memory_base = self.pointers[base]
        ins.memory_displacement = displacement & M64


def _writes_two() -> frozenset[int]:
    from iced_x86 import Mnemonic as N
    return frozenset((N.XCHG, N.XADD, N.MULX, N.CMPXCHG))


_WRITES_TWO = _writes_two()
