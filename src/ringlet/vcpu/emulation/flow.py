"""Stack instructions and near transfers of control, implemented in Python (SDM 2A, 2B)."""

from collections.abc import Generator
from typing import Final

from iced_x86 import FlowControl, Instruction, MemorySizeExt, Mnemonic, OpKind, Register

from ringlet.arch.vendors import Conduct
from ringlet.vcpu.emulation.access import Access, Accesses, Step, read, write
from ringlet.vcpu.emulation.native import FAULT, FIRST, SECOND, Native
from ringlet.vcpu.emulation.operand import Operand
from ringlet.vcpu.emulation.operands import (
    ALL64,
    RBP,
    RCX,
    RSP,
    explicit_operand,
    info_of,
    low_bytes,
    number,
    operand_of,
    size_of,
    stack_operand,
)

_CF: Final = 1 << 0
_PF: Final = 1 << 2
_ZF: Final = 1 << 6
_SF: Final = 1 << 7
_OF: Final = 1 << 11
_IOPL: Final = 3 << 12
_RF: Final = 1 << 16
_VM: Final = 1 << 17
_GP: Final = 13

_BRANCHES: Final = {
    OpKind.NEAR_BRANCH16: 2,
    OpKind.NEAR_BRANCH32: 4,
    OpKind.NEAR_BRANCH64: 8,
}
"""Relative targets, and the bytes of the instruction pointer that they leave."""
_COUNTERS: Final = {Register.CX: 2, Register.ECX: 4, Register.RCX: 8}
_CONDITIONAL_LOOPS: Final = (Mnemonic.LOOPE, Mnemonic.LOOPNE)
_LOOPS: Final = (Mnemonic.LOOP, *_CONDITIONAL_LOOPS)
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
        return value & low_bytes(self._size)


class Stack:
    """The value that an instruction pushes or pops, and the stack pointer."""

    __slots__ = ("_width", "operand", "size")

    def __init__(self, native: Native, size: int, *, push: bool, base: int = RSP) -> None:
        self._width = native.stack_width
        self.size = size
        self.operand = stack_operand(
            self._width, size, displacement=-size if push else 0, base=base
        )

    def check(self, native: Native) -> bool:
        """Whether the value can be accessed; otherwise the guest's exception is set."""
        return native.resolve(self.operand) != FAULT

    def move(self, native: Native, distance: int, base: int = RSP) -> None:
        """Let the stack pointer be `distance` bytes above that in `base`."""
        native.set_gpr(RSP, native.gpr(base) + distance & ALL64, self._width)

    def push(self, native: Native, value: int) -> Generator[Access, int, None]:
        """Push a value, after `check`."""
        native.poke(SECOND, value, self.size)
        self.move(native, -self.size)
        yield from write(native, self.operand, SECOND)

    def pop(self, native: Native) -> Generator[Access, int, int]:
        """Return the value, after `check`; the stack pointer stays."""
        yield from read(native, self.operand, FIRST)
        return native.peek(FIRST, self.size)


class Push:
    """PUSH of anything but a segment register."""

    __slots__ = ("_length", "_source", "_stack")

    def __init__(self, native: Native, instruction: Instruction, source: Source, size: int) -> None:
        self._length = instruction.len
        self._source = source
        self._stack = Stack(native, size, push=True)

    def run(self, native: Native) -> Accesses:
        if not self._source.check(native) or not self._stack.check(native):
            return False
        value = yield from self._source.get(native)
        native.skip(self._length)
        yield from self._stack.push(native, value)
        return True


class PushFlags:
    """PUSHF where the privilege allows it; RF and VM are pushed as 0."""

    __slots__ = ("_length", "_stack")

    def __init__(self, native: Native, instruction: Instruction, size: int) -> None:
        self._length = instruction.len
        self._stack = Stack(native, size, push=True)

    def run(self, native: Native) -> Accesses:
        flags = native.rflags
        if flags & _VM and flags & _IOPL != _IOPL:
            return native.raise_with_error(_GP, 0)
        if not self._stack.check(native):
            return False
        native.skip(self._length)
        yield from self._stack.push(native, flags & ~(_RF | _VM))
        return True


class PopRegister:
    """POP to a general register; POP RSP leaves the popped value in RSP."""

    __slots__ = ("_length", "_register", "_stack")

    def __init__(self, native: Native, instruction: Instruction, size: int) -> None:
        self._length = instruction.len
        self._register = number(instruction.op0_register)
        self._stack = Stack(native, size, push=False)

    def run(self, native: Native) -> Accesses:
        stack = self._stack
        if not stack.check(native):
            return False
        value = yield from stack.pop(native)
        stack.move(native, stack.size)
        native.set_gpr(self._register, value, stack.size)
        native.skip(self._length)
        return True


class PopMemory:
    """POP to memory; the address is computed with the stack pointer after the pop."""

    __slots__ = ("_length", "_stack", "_target")

    def __init__(self, native: Native, instruction: Instruction, size: int) -> None:
        self._length = instruction.len
        self._stack = Stack(native, size, push=False)
        self._target = explicit_operand(instruction, size, writes=True)

    def run(self, native: Native) -> Accesses:
        stack, before = self._stack, native.gpr(RSP)
        if not stack.check(native):
            return False
        stack.move(native, stack.size)
        if native.resolve(self._target) == FAULT:
            native.set_gpr(RSP, before, 8)
            return False
        yield from stack.pop(native)
        native.skip(self._length)
        yield from write(native, self._target, FIRST)
        return True


class Leave:
    """LEAVE: RSP becomes RBP, then RBP is popped."""

    __slots__ = ("_length", "_stack")

    def __init__(self, native: Native, instruction: Instruction, size: int) -> None:
        self._length = instruction.len
        self._stack = Stack(native, size, push=False, base=RBP)

    def run(self, native: Native) -> Accesses:
        stack = self._stack
        if not stack.check(native):
            return False
        value = yield from stack.pop(native)
        stack.move(native, stack.size, RBP)
        native.set_gpr(RBP, value, stack.size)
        native.skip(self._length)
        return True


class Call:
    """A near CALL."""

    __slots__ = ("_length", "_source", "_stack")

    def __init__(self, native: Native, instruction: Instruction, source: Source, size: int) -> None:
        self._length = instruction.len
        self._source = source
        self._stack = Stack(native, size, push=True)

    def run(self, native: Native) -> Accesses:
        stack = self._stack
        if not self._source.check(native) or not stack.check(native):
            return False
        target = yield from self._source.get(native)
        back = native.rip + self._length & ALL64
        if not native.reaches(target):
            if native.bits == 64 and native.conduct & Conduct.CALL_STORES_FIRST:
                native.poke(SECOND, back, stack.size)
                yield from write(native, stack.operand, SECOND)
            return False
        native.jump(target)
        yield from stack.push(native, back)
        return True


class Jump:
    """A near JMP."""

    __slots__ = ("_source",)

    def __init__(self, source: Source) -> None:
        self._source = source

    def run(self, native: Native) -> Accesses:
        if not self._source.check(native):
            return False
        return native.jump((yield from self._source.get(native)))


class Return:
    """A near RET, with or without bytes to release."""

    __slots__ = ("_release", "_stack")

    def __init__(self, native: Native, instruction: Instruction, size: int) -> None:
        self._stack = Stack(native, size, push=False)
        self._release = size + (instruction.immediate(0) if instruction.op_count else 0)

    def run(self, native: Native) -> Accesses:
        if not self._stack.check(native):
            return False
        if not native.jump((yield from self._stack.pop(native))):
            return False
        self._stack.move(native, self._release)
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

    __slots__ = (
        "_code", "_count_size", "_length", "_loops", "_mask", "_mnemonic", "_repeated", "_target",
    )  # fmt: skip

    def __init__(self, instruction: Instruction) -> None:
        self._length = instruction.len
        self._mnemonic = instruction.mnemonic
        self._loops = instruction.mnemonic in _LOOPS
        self._repeated = self._mnemonic
        if self._mnemonic in _CONDITIONAL_LOOPS:
            if instruction.has_repe_prefix:
                self._repeated = Mnemonic.LOOPE
            elif instruction.has_repne_prefix:
                self._repeated = Mnemonic.LOOPNE
        self._target = instruction.near_branch_target
        self._mask = low_bytes(_BRANCHES[instruction.op_kind(0)])
        # iced-x86 numbers the conditions from 1, in the order of the opcodes.
        self._code = instruction.condition_code - 1 if instruction.is_jcc_short_or_near else -1
        used = info_of(instruction).used_registers()
        self._count_size = next((_COUNTERS[r.register] for r in used if r.register in _COUNTERS), 8)

    def run(self, native: Native) -> Accesses:
        yield from ()
        count = native.gpr(RCX) - self._loops & low_bytes(self._count_size)
        if self._taken(native, count):
            if not native.jump(native.rip + self._target & self._mask):
                return False
        else:
            native.skip(self._length)
        if self._loops:
            native.set_gpr(RCX, count, self._count_size)
        return True

    def _taken(self, native: Native, count: int) -> bool:
        """Whether the branch is taken; `count` is the counter as the instruction leaves it."""
        if self._code >= 0:
            return condition(native.rflags, self._code)
        zero = native.rflags & _ZF != 0
        follows = native.conduct & Conduct.LOOP_TAKES_REPETITION
        match self._repeated if follows else self._mnemonic:
            case Mnemonic.LOOPE:
                return count != 0 and zero
            case Mnemonic.LOOPNE:
                return count != 0 and not zero
            case Mnemonic.LOOP:
                return count != 0
            case _:
                return count == 0


def is_flow(instruction: Instruction) -> bool:
    """Whether `flow_step` performs the instruction."""
    return instruction.flow_control != FlowControl.NEXT or instruction.mnemonic in {
        Mnemonic.PUSH, Mnemonic.POP, Mnemonic.LEAVE, *_PUSHF,
    }  # fmt: skip


def flow_step(native: Native, instruction: Instruction) -> Step:
    """Return the step of a stack instruction or a near transfer."""
    memory = info_of(instruction).used_memory()
    mnemonic = instruction.mnemonic
    if instruction.flow_control == FlowControl.CONDITIONAL_BRANCH:
        return Branch(instruction)
    if mnemonic == Mnemonic.JMP:
        operand = operand_of(instruction, memory[0]) if memory else None
        return Jump(Source(instruction, operand, _target_size(instruction, operand)))
    # The stack comes last; its size is that of the operand.
    size = MemorySizeExt.size(memory[-1].memory_size)
    operand = operand_of(instruction, memory[0]) if len(memory) > 1 else None
    if mnemonic in _PUSHF:
        return PushFlags(native, instruction, size)
    if mnemonic == Mnemonic.LEAVE:
        return Leave(native, instruction, size)
    if mnemonic == Mnemonic.RET:
        return Return(native, instruction, size)
    if mnemonic == Mnemonic.POP:
        if operand is not None:
            return PopMemory(native, instruction, size)
        return PopRegister(native, instruction, size)
    source = Source(instruction, operand, size)
    if mnemonic == Mnemonic.CALL:
        return Call(native, instruction, source, size)
    return Push(native, instruction, source, size)


def _target_size(instruction: Instruction, operand: Operand | None) -> int:
    """Return the size of a jump's target in bytes."""
    kind = instruction.op_kind(0)
    if kind in _BRANCHES:
        return _BRANCHES[kind]
    return operand.size if operand is not None else size_of(instruction.op0_register)
