"""Instructions with one ModRM memory operand or none, which the host executes unchanged."""

from typing import Final

from iced_x86 import Instruction, Mnemonic

from ringlet.vcpu.emulation.access import Accesses, read, write
from ringlet.vcpu.emulation.native import FAULT, FIRST, OK, Native
from ringlet.vcpu.emulation.operand import Operand
from ringlet.vcpu.emulation.operands import encode, explicit_operand, number, on_bounce, size_of

_UD: Final = 6
_FPU_STORES: Final = frozenset(
    {Mnemonic.FST, Mnemonic.FSTP, Mnemonic.FIST, Mnemonic.FISTP, Mnemonic.FISTTP, Mnemonic.FBSTP}
)


class Plain:
    """An instruction that runs on a copy of its operand in the bounce area."""

    __slots__ = ("_entry", "_fpu_store", "_length", "_operand")

    def __init__(self, native: Native, instruction: Instruction, operand: Operand) -> None:
        self._operand = operand
        self._length = instruction.len
        self._fpu_store = instruction.mnemonic in _FPU_STORES
        address = native.bounce + FIRST
        self._entry = native.place(on_bounce(instruction, address))
        # MOVAPS and the like, and CMPXCHG16B, raise #GP for a misaligned operand.  A trial on the
        # processor shows whether this instruction does.
        if operand.size in {16, 32} and native.refuses(
            native.place(on_bounce(instruction, address + 1))
        ):
            operand.align = operand.size - 1

    def run(self, native: Native) -> Accesses:
        operand = self._operand
        found = native.resolve(operand)
        if found == FAULT:
            return False
        if operand.reads:
            if found == OK:
                native.load(operand, FIRST)
            else:
                yield from read(native, operand, FIRST)
        if not native.execute(self._entry):
            return False
        native.commit(self._length)
        if operand.writes and not (self._fpu_store and native.fpu_refused):
            if found == OK:
                native.store(operand, FIRST)
            else:
                yield from write(native, operand, FIRST)
        return True


class Bits:
    """BT, BTS, BTR, BTC with a bit offset in a register, which may select memory far away."""

    __slots__ = ("_entry", "_length", "_operand", "_register")

    def __init__(self, native: Native, instruction: Instruction, operand: Operand) -> None:
        self._operand = operand
        self._length = instruction.len
        self._register = number(instruction.op1_register)
        self._entry = native.place(on_bounce(instruction, native.bounce + FIRST))

    def run(self, native: Native) -> Accesses:
        operand = self._operand
        size = operand.size
        bits = 8 * size
        offset = native.gpr(self._register) & (1 << bits) - 1
        if offset >> bits - 1:
            offset -= 1 << bits
        found = native.resolve_at(operand, offset // bits * size, size, operand.writes)
        if found == FAULT:
            return False
        yield from read(native, operand, FIRST)
        if not native.execute(self._entry, self._register, offset % bits):
            return False
        native.commit(self._length, self._register)
        if operand.writes:
            yield from write(native, operand, FIRST)
        return True


class Registers:
    """An instruction without a memory operand."""

    __slots__ = ("_entry", "_length")

    def __init__(self, native: Native, instruction: Instruction) -> None:
        self._length = instruction.len
        self._entry = native.place(encode(instruction))

    def run(self, native: Native) -> Accesses:
        yield from ()
        if not native.execute(self._entry):
            return False
        native.commit(self._length)
        return True


class Address:
    """LEA."""

    __slots__ = ("_length", "_operand", "_register", "_size")

    def __init__(self, native: Native, instruction: Instruction) -> None:
        self._length = instruction.len
        self._operand = explicit_operand(instruction, 0)
        self._register = number(instruction.op0_register)
        self._size = size_of(instruction.op0_register)

    def run(self, native: Native) -> Accesses:
        yield from ()
        native.set_gpr(self._register, native.address(self._operand), self._size)
        native.skip(self._length)
        return True


class Touch:
    """CLFLUSH and the like: checked as a read; the emulator has no cache to flush."""

    __slots__ = ("_length", "_operand")

    def __init__(self, instruction: Instruction, operand: Operand) -> None:
        self._length = instruction.len
        operand.flushes = True
        self._operand = operand

    def run(self, native: Native) -> Accesses:
        yield from ()
        if native.resolve(self._operand) == FAULT:
            return False
        native.skip(self._length)
        return True


class Nothing:
    """NOP and PREFETCH, which do not access their operand."""

    __slots__ = ("_length",)

    def __init__(self, instruction: Instruction) -> None:
        self._length = instruction.len

    def run(self, native: Native) -> Accesses:
        yield from ()
        native.skip(self._length)
        return True


class Undefined:
    """An undefined instruction, which raises #UD."""

    __slots__ = ()

    def run(self, native: Native) -> Accesses:
        yield from ()
        return native.raise_exception(_UD)
