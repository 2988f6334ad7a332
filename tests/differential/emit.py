"""Emitting instructions while keeping track of which registers have a known value."""
from __future__ import annotations

import random
from collections.abc import Callable

from iced_x86 import (
    Code,
    Code_,
    Instruction,
    InstructionInfoFactory,
    Mnemonic,
    OpAccess,
    Register,
)

from tests.differential import layout
from tests.differential.operands import (
    M64,
    R32,
    R64,
    RSP,
    Operands,
    Registers,
    gpr_number,
    vector_number,
)
from tests.differential.program import Item

_WRITES = frozenset((OpAccess.WRITE, OpAccess.READ_WRITE, OpAccess.COND_WRITE,
                     OpAccess.READ_COND_WRITE))


class Emitter:
    """The items so far and what is known of the registers after them."""

    mask = M64

    def __init__(self, rng: random.Random, wild: float) -> None:
        self.rng = rng
        self.registers = self._registers()
        self.operands = self._operands(wild)
        self.operands.load = self._load
        self.items: list[Item] = []
        self._info = InstructionInfoFactory()

    def _registers(self) -> Registers:
        return Registers()

    def _operands(self, wild: float) -> Operands:
        return Operands(self.rng, self.registers, wild)

    def _emit(self, ins: Instruction, target: int | None = None, delta: int = 0) -> None:
        self.items.append(Item(ins, target=target, delta=delta))
        known = self.registers
        stack = known.value[RSP]
        explicit = False
        for used in self._info.info(ins).used_registers():
            if used.access in _WRITES:
                number = gpr_number(used.register)
                if number is not None:
                    explicit |= number == RSP
                    known.written(number)
                else:
                    vector = vector_number(used.register)
                    if vector is not None:
                        known.vector_free.discard(vector)
        if explicit and stack is not None and ins.is_stack_instruction \
                and ins.mnemonic != Mnemonic.LEAVE \
                and not (ins.op_count and ins.op0_register in (Register.RSP, Register.ESP)):
            known.value[RSP] = stack + ins.stack_pointer_increment & self.mask

    def _spare(self) -> list[int]:
        """Registers that may be overwritten."""
        return [i for i in range(self.operands.count)
                if i != RSP and i not in self.registers.pinned]

    def _make(self, code: Code_) -> Instruction:
        ins = Instruction()
        ins.code = code
        return ins

    def _load(self, number: int, value: int) -> None:
        """MOV register, value by one of its encodings."""
        if value <= 0x7FFFFFFF and self.rng.random() < 0.7:
            self._emit(Instruction.create_reg_u32(Code.MOV_R32_IMM32, R32[number], value))
        else:
            self._emit(Instruction.create_reg_u64(Code.MOV_R64_IMM64, R64[number], value))
        self.registers.value[number] = value

    def _need(self, number: int, choose: Callable[[], int]) -> int:
        """The value of a register that an implicit operand uses, made known if it is not."""
        known = self.registers
        value = known.value[number]
        if value is None:
            value = choose() & self.mask
            if number in known.free:
                known.assign(number, value)
            else:
                self._load(number, value)
        return value

    def _stack_address(self) -> int:
        rng = self.rng
        kind = rng.randrange(20)
        if kind < 15:
            return layout.STACK.linear + 0x2000 + rng.randrange(-64, 64) * 8
        if kind == 15:
            return layout.STACK.linear + 0x2000 + rng.randrange(-512, 512)
        if kind == 16:
            return self.operands.target(64, True).linear
        if kind == 17:
            return layout.STACK.linear + rng.randrange(64)
        if kind == 18:
            return layout.STACK.end - rng.randrange(64)
        return self._stack_edge()

    def _stack_edge(self) -> int:
        return layout.AREAS[self.rng.choice(("slot", "gib4"))].linear + layout.PAGE \
            + self.rng.randrange(-8, 8) * 8

    def _overwritten(self, start: int, number: int) -> bool:
        for item in self.items[start:]:
            assert item.instruction is not None
            for used in self._info.info(item.instruction).used_registers():
                if used.access in _WRITES and gpr_number(used.register) == number:
                    return True
        return False
