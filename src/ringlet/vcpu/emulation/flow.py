"""Stack instructions and near transfers of control, implemented in Python (SDM 2A, 2B)."""

from collections.abc import Generator
from typing import Final

from iced_x86 import FlowControl, Instruction, Mnemonic, OpKind, Register

from ringlet.arch.vendors import Conduct
from ringlet.vcpu.emulation.access import Access, Accesses, Step, read, write
from ringlet.vcpu.emulation.native import FAULT, FIRST, SECOND, Native
from ringlet.vcpu.emulation.operand import Operand
from ringlet.vcpu.emulation.operands import (
    ALL64,
    RBP,
    RCX,
    RSP,
    info_of,
    is_canonical,
    number,
    operand_of,
)

_CF: Final = 1 << 0
_PF: Final = 1 << 2
_ZF: Final = 1 << 6
_SF: Final = 1 << 7
_RF: Final = 1 << 16
_VM: Final = 1 << 17
_OF: Final = 1 << 11
_GP: Final = 13

_BRANCHES: Final = (OpKind.NEAR_BRANCH16, OpKind.NEAR_BRANCH32, OpKind.NEAR_BRANCH64)
_PUSHF: Final = (Mnemonic.PUSHF, Mnemonic.PUSHFD, Mnemonic.PUSHFQ)


class Source:
    """The source of a push or jump: a register, a constant, memory, or an offset from RIP."""

    __slots__ = ("_operand", "_register", "_relative", "_size", "_value")

    def __init__(self, instruction: Instruction, operand: Operand | None, size: int) -> None:
        kind = instruction.op_kind(0)
        self._operand = operand
        self._size = size
        self._register = -1
        self._relative = kind in _BRANCHES
        self._value = 0
        if self._relative:
            self._value = instruction.near_branch_target
        elif kind == OpKind.REGISTER:
            self._register = number(instruction.op0_register)
        elif operand is None:
            self._value = instruction.immediate(0)

    def check(self, native: Native) -> bool:
        """Whether the source can be read; otherwise the guest's exception is set."""
        return self._operand is None or native.resolve(self._operand) != FAULT

    def get(self, native: Native) -> Generator[Access, int, int]:
        """Return the value, after `check`."""
        if self._operand is not None:
            yield from read(native, self._operand, FIRST)
            return native.peek(FIRST, self._size)
        value = native.gpr(self._register) if self._register >= 0 else self._value
        if self._relative:
            value += native.rip
        return value & (1 << 8 * self._size) - 1


def _go(native: Native, target: int) -> bool:
    """Jump to `target`, or raise #GP(0) if it is not canonical."""
    if not is_canonical(target):
        return native.raise_with_error(_GP, 0)
    native.rip = target
    return True


class Push:
    """PUSH of anything but a segment register."""

    __slots__ = ("_length", "_size", "_source", "_stack")

    def __init__(self, instruction: Instruction, source: Source, stack: Operand) -> None:
        self._length = instruction.len
        self._source = source
        self._stack = stack
        self._size = stack.size

    def run(self, native: Native) -> Accesses:
        if not self._source.check(native) or native.resolve(self._stack) == FAULT:
            return False
        native.poke(SECOND, (yield from self._source.get(native)), self._size)
        native.set_gpr(RSP, native.gpr(RSP) - self._size & ALL64, 8)
        native.skip(self._length)
        yield from write(native, self._stack, SECOND)
        return True


class PushFlags:
    """PUSHF where the privilege allows it; RF and VM are pushed as 0."""

    __slots__ = ("_length", "_size", "_stack")

    def __init__(self, instruction: Instruction, stack: Operand) -> None:
        self._length = instruction.len
        self._stack = stack
        self._size = stack.size

    def run(self, native: Native) -> Accesses:
        if native.resolve(self._stack) == FAULT:
            return False
        native.poke(SECOND, native.rflags & ~(_RF | _VM), self._size)
        native.set_gpr(RSP, native.gpr(RSP) - self._size & ALL64, 8)
        native.skip(self._length)
        yield from write(native, self._stack, SECOND)
        return True


class PopRegister:
    """POP to a general register; POP RSP leaves the popped value in RSP."""

    __slots__ = ("_length", "_register", "_stack")

    def __init__(self, instruction: Instruction, stack: Operand) -> None:
        self._length = instruction.len
        self._register = number(instruction.op0_register)
        self._stack = stack

    def run(self, native: Native) -> Accesses:
        stack = self._stack
        if native.resolve(stack) == FAULT:
            return False
        yield from read(native, stack, FIRST)
        native.set_gpr(RSP, native.gpr(RSP) + stack.size & ALL64, 8)
        native.set_gpr(self._register, native.peek(FIRST, stack.size), stack.size)
        native.skip(self._length)
        return True


class PopMemory:
    """POP to memory; the address is computed with RSP after the pop."""

    __slots__ = ("_length", "_stack", "_target")

    def __init__(self, instruction: Instruction, target: Operand, stack: Operand) -> None:
        self._length = instruction.len
        self._stack = stack
        self._target = target

    def run(self, native: Native) -> Accesses:
        stack = self._stack
        if native.resolve(stack) == FAULT or native.resolve(self._target) == FAULT:
            return False
        yield from read(native, stack, FIRST)
        native.set_gpr(RSP, native.gpr(RSP) + stack.size & ALL64, 8)
        native.skip(self._length)
        yield from write(native, self._target, FIRST)
        return True


class Leave:
    """LEAVE: RSP becomes RBP, then RBP is popped."""

    __slots__ = ("_length", "_stack")

    def __init__(self, instruction: Instruction, stack: Operand) -> None:
        self._length = instruction.len
        self._stack = stack

    def run(self, native: Native) -> Accesses:
        stack = self._stack
        if native.resolve(stack) == FAULT:
            return False
        yield from read(native, stack, FIRST)
        native.set_gpr(RSP, native.gpr(RBP) + stack.size & ALL64, 8)
        native.set_gpr(RBP, native.peek(FIRST, stack.size), stack.size)
        native.skip(self._length)
        return True


class Call:
    """A near CALL."""

    __slots__ = ("_length", "_source", "_stack")

    def __init__(self, instruction: Instruction, source: Source, stack: Operand) -> None:
        self._length = instruction.len
        self._source = source
        self._stack = stack

    def run(self, native: Native) -> Accesses:
        if not self._source.check(native) or native.resolve(self._stack) == FAULT:
            return False
        target = yield from self._source.get(native)
        native.poke(SECOND, native.rip + self._length & ALL64, 8)
        if not is_canonical(target) and native.conduct & Conduct.CALL_STORES_FIRST:
            yield from write(native, self._stack, SECOND)
        if not _go(native, target):
            return False
        native.set_gpr(RSP, native.gpr(RSP) - 8 & ALL64, 8)
        yield from write(native, self._stack, SECOND)
        return True


class Jump:
    """A near JMP."""

    __slots__ = ("_source",)

    def __init__(self, source: Source) -> None:
        self._source = source

    def run(self, native: Native) -> Accesses:
        if not self._source.check(native):
            return False
        return _go(native, (yield from self._source.get(native)))


class Return:
    """A near RET, with or without bytes to release."""

    __slots__ = ("_release", "_stack")

    def __init__(self, instruction: Instruction, stack: Operand) -> None:
        self._stack = stack
        self._release = 8 + (instruction.immediate(0) if instruction.op_count else 0)

    def run(self, native: Native) -> Accesses:
        if native.resolve(self._stack) == FAULT:
            return False
        yield from read(native, self._stack, FIRST)
        if not _go(native, native.peek(FIRST, 8)):
            return False
        native.set_gpr(RSP, native.gpr(RSP) + self._release & ALL64, 8)
        return True


def condition(flags: int, code: int) -> bool:
    """Whether condition `code` (the low four bits of Jcc's opcode, SDM 1 appendix B) holds."""
    values = (
        flags & _OF,
        flags & _CF,
        flags & _ZF,
        flags & (_CF | _ZF),
        flags & _SF,
        flags & _PF,
        (flags & _SF != 0) != (flags & _OF != 0),
        flags & _ZF or (flags & _SF != 0) != (flags & _OF != 0),
    )
    return (values[code >> 1] != 0) != (code & 1 != 0)


class Branch:
    """Jcc, LOOP, LOOPE, LOOPNE and JRCXZ."""

    __slots__ = ("_code", "_count_size", "_length", "_mnemonic", "_target")

    def __init__(self, instruction: Instruction) -> None:
        self._length = instruction.len
        self._mnemonic = instruction.mnemonic
        self._target = instruction.near_branch_target
        # iced-x86 numbers the conditions from 1, in the order of the opcodes.
        self._code = instruction.condition_code - 1 if instruction.is_jcc_short_or_near else -1
        used = info_of(instruction).used_registers()
        self._count_size = 4 if any(r.register == Register.ECX for r in used) else 8

    def run(self, native: Native) -> Accesses:
        yield from ()
        if self._taken(native):
            return _go(native, native.rip + self._target & ALL64)
        native.skip(self._length)
        return True

    def _taken(self, native: Native) -> bool:
        if self._code >= 0:
            return condition(native.rflags, self._code)
        size = self._count_size
        count = native.gpr(RCX) & (1 << 8 * size) - 1
        if self._mnemonic in {Mnemonic.JRCXZ, Mnemonic.JECXZ}:
            return count == 0
        count = count - 1 & (1 << 8 * size) - 1
        native.set_gpr(RCX, count, size)
        zero = native.rflags & _ZF != 0
        if self._mnemonic == Mnemonic.LOOPE:
            return count != 0 and zero
        if self._mnemonic == Mnemonic.LOOPNE:
            return count != 0 and not zero
        return count != 0


def is_flow(instruction: Instruction) -> bool:
    """Whether `flow_step` performs the instruction."""
    return instruction.flow_control != FlowControl.NEXT or instruction.mnemonic in {
        Mnemonic.PUSH, Mnemonic.POP, Mnemonic.LEAVE, *_PUSHF,
    }  # fmt: skip


def flow_step(instruction: Instruction) -> Step:
    """Return the step of a stack instruction or a near transfer."""
    memory = [operand_of(instruction, m) for m in info_of(instruction).used_memory()]
    mnemonic = instruction.mnemonic
    if instruction.flow_control == FlowControl.CONDITIONAL_BRANCH:
        return Branch(instruction)
    if mnemonic == Mnemonic.JMP:
        return Jump(Source(instruction, memory[0] if memory else None, 8))
    stack = memory[-1]
    if mnemonic in _PUSHF:
        return PushFlags(instruction, stack)
    if mnemonic == Mnemonic.LEAVE:
        return Leave(instruction, stack)
    if mnemonic == Mnemonic.RET:
        return Return(instruction, stack)
    operand = memory[0] if len(memory) > 1 else None
    if mnemonic == Mnemonic.POP:
        if operand is not None:
            return PopMemory(instruction, operand, stack)
        return PopRegister(instruction, stack)
    source = Source(instruction, operand, stack.size)
    if mnemonic == Mnemonic.CALL:
        return Call(instruction, source, stack)
    return Push(instruction, source, stack)
