"""Generation of programs of 32-bit code."""
from __future__ import annotations

from dataclasses import replace

from iced_x86 import (
    Code,
    Code_,
    FlowControl,
    Instruction,
    OpKind,
)
from iced_x86 import OpCodeOperandKind as K

from tests.differential import layout
from tests.differential.forms import Form, Group
from tests.differential.generate import Generator
from tests.differential.narrow.operands import NarrowOperands
from tests.differential.operands import M32, R32, RSP, Operands, Registers, edge_value
from tests.differential.setups import RCX

_TO_16_BITS = (K.BR16_1, K.BR16_2)


class NarrowGenerator(Generator):
    """Draws one program of 32-bit code."""

    bits = 32
    base_bits = 32
    mask = M32
    strings = (OpKind.MEMORY_SEG_ESI, OpKind.MEMORY_ESEDI, OpKind.MEMORY_SEG_EDI)
    strings_67 = (OpKind.MEMORY_SEG_SI, OpKind.MEMORY_ESDI, OpKind.MEMORY_SEG_DI)

    def _registers(self) -> Registers:
        return Registers(free=set(range(8)), vector_free=set(range(8)), mask=M32)

    def _operands(self, wild: float) -> Operands:
        return NarrowOperands(self.rng, self.registers, wild)

    def _gpr(self) -> tuple[int, ...]:
        known = self.registers.initial[:8]
        return (*(edge_value(self.rng) & M32 if v is None else v for v in known), *[0] * 8)

    def _load(self, number: int, value: int) -> None:
        self._emit(Instruction.create_reg_u32(Code.MOV_R32_IMM32, R32[number], value))
        self.registers.value[number] = value

    def _push_flags(self, word: bool, flags: int) -> None:
        self._emit(Instruction.create_i32(Code.PUSHW_IMM8 if word else Code.PUSHD_IMM32,
                                          flags & 0x57 if word else flags))

    def _stack_edge(self) -> int:
        return layout.AREAS["edge32"].linear + self.rng.choice((8, 0x800, 0x1000)) & M32

    def _pick(self, group: Group) -> Form:
        form = super()._pick(group)
        while group is Group.BRANCH and self.rng.random() < 0.95 and self._to_16_bits(form):
            form = super()._pick(group)
        return form

    @staticmethod
    def _to_16_bits(form: Form) -> bool:
        """Whether the branch truncates EIP, so that it leads nowhere here."""
        return any(k in _TO_16_BITS for k in form.kinds) \
            or form.name in ("CALL_RM16", "JMP_RM16", "RETNW", "RETNW_IMM16")

    # --- steps

    def _step_pointer(self) -> None:
        """Pointers move by constants and copies, as in compiled code; the accesses follow."""
        rng, known = self.rng, self.registers
        numbers = [i for i in known.usable() if known.value[i] is not None
                   and i not in known.pinned]
        if not numbers:
            self._load(rng.choice(self._spare()), self.operands.target(8, False).linear)
            return
        number = rng.choice(numbers)
        value = known.value[number]
        assert value is not None
        step = rng.choice((8, -8, 16, 64, 128, -128, 4096, -4096, rng.randrange(-1 << 31, 1 << 31)))
        kind = rng.randrange(5 if number != RSP else 3)
        reg = R32[number]
        if kind == 0:
            self._emit(Instruction.create_reg_i32(Code.ADD_RM32_IMM32, reg, step))
        elif kind == 1:
            self._emit(Instruction.create_reg_i32(Code.SUB_RM32_IMM32, reg, step))
            step = -step
        elif kind == 2:
            ins = self._make(Code.LEA_R32_M)
            ins.set_op_register(0, reg)
            ins.set_op_kind(1, OpKind.MEMORY)
            ins.memory_base = reg
            ins.memory_displacement = step & M32
            ins.memory_displ_size = 4
            self._emit(ins)
        elif kind == 3:
            step = 1 if rng.random() < 0.5 else -1
            self._emit(Instruction.create_reg(Code.INC_R32 if step > 0 else Code.DEC_R32, reg))
        else:
            other = rng.choice(self._spare())
            self._emit(Instruction.create_reg_reg(Code.MOV_R32_RM32, R32[other], reg))
            number, step = other, 0
        known.value[number] = value + step & M32

    def _close_loop(self, counter: int, head: int) -> None:
        rng = self.rng
        if counter == RCX and rng.random() < 0.6:
            code = rng.choice((Code.LOOP_REL8_32_ECX, Code.LOOP_REL8_32_ECX,
                               Code.LOOPE_REL8_32_ECX, Code.LOOPNE_REL8_32_ECX,
                               Code.LOOP_REL8_32_CX))
            self._emit(Instruction.create_branch(code, 0), head)
            return
        self._emit(rng.choice((
            Instruction.create_reg(Code.DEC_R32, R32[counter]),
            Instruction.create_reg(Code.DEC_RM32, R32[counter]),
            Instruction.create_reg_i32(Code.SUB_RM32_IMM8, R32[counter], 1),
            Instruction.create_reg_i32(Code.ADD_RM32_IMM8, R32[counter], -1))))
        self._emit(Instruction.create_branch(
            rng.choice((Code.JNE_REL8_32, Code.JNE_REL32_32, Code.JG_REL8_32)), 0), head)

    def _step_call(self) -> None:
        """CALL a small function that stands behind a jump, directly or by a register or memory."""
        rng = self.rng
        self._need(RSP, self._stack_address)
        jump = len(self.items)
        self._emit(Instruction.create_branch(Code.JMP_REL32_32, 0))
        entry = len(self.items)
        self._body(rng.randint(0, 2), ("plain", "vector", "pointer"))
        if rng.random() < 0.85:
            self._emit(self._make(Code.RETND))
        else:
            self._emit(Instruction.create_u32(Code.RETND_IMM16, rng.choice((0, 4, 8, 16))))
        after = len(self.items)
        self.items[jump] = replace(self.items[jump], target=after)
        if rng.random() < 0.6:
            self._emit(Instruction.create_branch(Code.CALL_REL32_32, 0), entry)
        else:
            self._indirect(Code.CALL_RM32, entry)
        self.registers.written(RSP)
        if rng.random() < 0.3:  # and return once more through a pushed address
            self._need(RSP, self._stack_address)
            number = rng.choice(self._spare())
            self._lea_label(number, len(self.items) + 3)
            self._emit(Instruction.create_reg(Code.PUSH_R32, R32[number]))
            self._emit(self._make(Code.RETND))

    def _lea_label(self, number: int, target: int) -> None:
        self._emit(Instruction.create_reg_u32(Code.MOV_R32_IMM32, R32[number], 0), target)

    def _indirect(self, code: Code_, target: int) -> None:
        rng = self.rng
        number = rng.choice(self._spare())
        self._lea_label(number, target)
        ins = self._make(code)
        if rng.random() < 0.5:
            ins.set_op_kind(0, OpKind.REGISTER)
            ins.set_op_register(0, R32[number])
        else:
            place = self.operands.target(4, True)
            store = self._make(Code.MOV_RM32_R32)
            store.set_op_kind(0, OpKind.MEMORY)
            store.set_op_register(1, R32[number])
            self.registers.pinned.add(number)
            self.operands.memory(store, place)
            self._emit(store)
            self.registers.pinned.discard(number)
            ins.set_op_kind(0, OpKind.MEMORY)
            self.operands.memory(ins, place)
        self._emit(ins)

    def _step_indirect(self) -> None:
        """JMP through a register or memory, over an instruction or two."""
        place = len(self.items)
        self._indirect(Code.JMP_RM32, 0)
        self._body_behind(place)

    def _step_self_modify(self) -> None:
        """Store into the immediate of an instruction that follows."""
        if self._area is not layout.SMC:
            return
        rng = self.rng
        store = self._make(Code.MOV_RM32_IMM32)
        store.set_op_kind(0, OpKind.MEMORY)
        store.memory_displ_size = 4
        store.set_op_kind(1, OpKind.IMMEDIATE32)
        store.immediate32 = rng.getrandbits(32)
        place = len(self.items)
        self._emit(store)
        self._body(rng.randrange(3), ("plain", "vector"))
        self.items[place] = replace(self.items[place], target=len(self.items), delta=1)
        number = rng.choice([i for i in range(8) if i != RSP and i not in self.registers.pinned])
        self._emit(Instruction.create_reg_u32(Code.MOV_R32_IMM32, R32[number], 0x11223344))

    def _do_branch(self, form: Form, mem: bool | None) -> None:
        flow = self._make(form.code).flow_control
        if not self._to_16_bits(form) or flow in (
                FlowControl.CONDITIONAL_BRANCH, FlowControl.UNCONDITIONAL_BRANCH):
            super()._do_branch(form, mem)
            return
        self._need(RSP, self._stack_address)
        ins = self._fill(form, mem) if form.kinds and form.kinds[0] not in _TO_16_BITS \
            else Instruction.create_branch(form.code, 0) if form.kinds else self._make(form.code)
        place = len(self.items)
        self._emit(ins)
        if form.kinds and form.kinds[0] in _TO_16_BITS:
            self.items[place] = replace(self.items[place], target=len(self.items))
