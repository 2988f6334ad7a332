"""PUSHA, POPA, BOUND and ARPL, which only 16- and 32-bit code has (SDM 2A, 2B)."""

from typing import Final

from iced_x86 import Code, Instruction, OpKind

from ringlet.vcpu.emulation.access import Accesses, read, write
from ringlet.vcpu.emulation.native import FAULT, FIRST, Native
from ringlet.vcpu.emulation.operands import (
    ALL64,
    RSP,
    explicit_operand,
    low_bytes,
    number,
    size_of,
    stack_operand,
)

_ZF: Final = 1 << 6
_BOUND_RANGE: Final = 5
_UD: Final = 6
_GP: Final = 13
_RPL: Final = 3
_REGISTERS: Final = 8
_SHORT_OF_STACK: Final = (7, 9, 11, 13, 15)
"""Values of SP with which PUSHA raises #GP in real and virtual-8086 mode."""


class PushAll:
    """PUSHA: nothing is written if one of the eight registers cannot be."""

    __slots__ = ("_length", "_mask", "_parts", "_size", "_width")

    def __init__(self, native: Native, instruction: Instruction) -> None:
        self._length = instruction.len
        self._width = native.stack_width
        self._mask = low_bytes(self._width)
        self._size = size = 2 if instruction.code == Code.PUSHAW else 4
        self._parts = [
            stack_operand(self._width, size, displacement=-size * (i + 1))
            for i in range(_REGISTERS)
        ]

    def run(self, native: Native) -> Accesses:
        pointer = native.gpr(RSP)
        if native.real and pointer & self._mask in _SHORT_OF_STACK:
            return native.raise_with_error(_GP, 0)
        if any(native.resolve(part) == FAULT for part in self._parts):
            return False
        native.set_gpr(RSP, pointer - self._size * _REGISTERS & ALL64, self._width)
        native.skip(self._length)
        for i, part in enumerate(self._parts):
            native.poke(FIRST, pointer if i == RSP else native.gpr(i), self._size)
            yield from write(native, part, FIRST)
        return True


class PopAll:
    """POPA: the image of the stack pointer is skipped."""

    __slots__ = ("_length", "_parts", "_size", "_width")

    def __init__(self, native: Native, instruction: Instruction) -> None:
        self._length = instruction.len
        self._width = native.stack_width
        self._size = size = 2 if instruction.code == Code.POPAW else 4
        self._parts = [
            stack_operand(self._width, size, displacement=size * i) for i in range(_REGISTERS)
        ]

    def run(self, native: Native) -> Accesses:
        if any(native.resolve(part) == FAULT for part in self._parts):
            return False
        values = []
        for part in self._parts:
            yield from read(native, part, FIRST)
            values.append(native.peek(FIRST, self._size))
        native.set_gpr(RSP, native.gpr(RSP) + self._size * _REGISTERS & ALL64, self._width)
        for i, value in enumerate(reversed(values)):
            if i != RSP:
                native.set_gpr(i, value, self._size)
        native.skip(self._length)
        return True


class Bound:
    """BOUND: a signed index outside the two bounds in memory raises #BR."""

    __slots__ = ("_length", "_parts", "_register", "_size")

    def __init__(self, native: Native, instruction: Instruction) -> None:
        del native
        self._length = instruction.len
        self._size = size = size_of(instruction.op0_register)
        self._register = number(instruction.op0_register)
        self._parts = {at: explicit_operand(instruction, size, reads=True) for at in (0, size)}

    def run(self, native: Native) -> Accesses:
        size = self._size
        for at, part in self._parts.items():
            if native.resolve_at(part, at, size, False) == FAULT:
                return False
        for at, part in self._parts.items():
            yield from read(native, part, FIRST + at)
        lower, upper = (self._signed(native.peek(FIRST + at, size)) for at in self._parts)
        if not lower <= self._signed(native.gpr(self._register)) <= upper:
            return native.raise_exception(_BOUND_RANGE)
        native.skip(self._length)
        return True

    def _signed(self, value: int) -> int:
        sign = 1 << 8 * self._size - 1
        return (value & low_bytes(self._size) ^ sign) - sign


class AdjustPrivilege:
    """ARPL: raises the RPL of a selector to that of another; ZF tells whether it did."""

    __slots__ = ("_length", "_operand", "_source", "_target")

    def __init__(self, native: Native, instruction: Instruction) -> None:
        del native
        self._length = instruction.len
        memory = instruction.op0_kind == OpKind.MEMORY
        self._operand = explicit_operand(instruction, 2, reads=True) if memory else None
        self._target = -1 if memory else number(instruction.op0_register)
        self._source = number(instruction.op1_register)

    def run(self, native: Native) -> Accesses:
        if native.real:
            return native.raise_exception(_UD)
        operand = self._operand
        if operand is not None:
            if native.resolve(operand) == FAULT:
                return False
            yield from read(native, operand, FIRST)
            selector = native.peek(FIRST, 2)
        else:
            selector = native.gpr(self._target) & 0xFFFF
        wanted = native.gpr(self._source) & _RPL
        raised = selector & _RPL < wanted
        # Only now is it a write.
        if raised and operand is not None and native.resolve_at(operand, 0, 2, True) == FAULT:
            return False
        native.set_flags(native.rflags & ~_ZF | (_ZF if raised else 0))
        native.skip(self._length)
        if raised:
            selector = selector & ~_RPL | wanted
            if operand is None:
                native.set_gpr(self._target, selector, 2)
            else:
                native.poke(FIRST, selector, 2)
                yield from write(native, operand, FIRST)
        return True
