"""Steps that load segment registers, and far transfers between segments of one size."""
from __future__ import annotations

from iced_x86 import Code, Instruction, OpKind, Register

from tests.differential.emit import Emitter
from tests.differential.generate import Style
from tests.differential.narrow.segmented import DATA, STACKS, SegmentedOperands
from tests.differential.operands import M32, R16, R32, RSP
from tests.differential.segments import NAMED, SELECTOR

STYLE = Style(weights=(*Style().weights, ("segment", 8), ("far", 2)))

_ODD = ("absent", "absent code", "shown", "code16", "code32", "hidden16", "other32")
_REGISTERS = {"es": Register.ES, "ss": Register.SS, "ds": Register.DS, "fs": Register.FS,
              "gs": Register.GS}
_PUSH = {"es": (Code.PUSHW_ES, Code.PUSHD_ES), "cs": (Code.PUSHW_CS, Code.PUSHD_CS),
         "ss": (Code.PUSHW_SS, Code.PUSHD_SS), "ds": (Code.PUSHW_DS, Code.PUSHD_DS),
         "fs": (Code.PUSHW_FS, Code.PUSHD_FS), "gs": (Code.PUSHW_GS, Code.PUSHD_GS)}
_POP = {"es": (Code.POPW_ES, Code.POPD_ES), "ss": (Code.POPW_SS, Code.POPD_SS),
        "ds": (Code.POPW_DS, Code.POPD_DS), "fs": (Code.POPW_FS, Code.POPD_FS),
        "gs": (Code.POPW_GS, Code.POPD_GS)}
_POINTER = {"es": (Code.LES_R16_M1616, Code.LES_R32_M1632),
            "ss": (Code.LSS_R16_M1616, Code.LSS_R32_M1632),
            "ds": (Code.LDS_R16_M1616, Code.LDS_R32_M1632),
            "fs": (Code.LFS_R16_M1616, Code.LFS_R32_M1632),
            "gs": (Code.LGS_R16_M1616, Code.LGS_R32_M1632)}
_QUESTIONS = ((Code.VERR_RM16, None), (Code.VERW_RM16, None),
              (Code.LAR_R32_R32M16, R32), (Code.LAR_R16_RM16, R16),
              (Code.LSL_R32_R32M16, R32), (Code.LSL_R16_RM16, R16))
_ALIASES = {"code16": ("code16", "other16", "hidden16"),
            "hidden16": ("code16", "other16", "hidden16"),
            "code32": ("code32", "other32"), "flat code": ("flat code", "whole code"),
            "whole code": ("flat code", "whole code")}


class SegmentSteps(Emitter):
    """Segment loads with selectors of the table, which the host and the guest share."""

    bits = 32
    names: dict[str, str]

    def _step_segment(self) -> None:
        kind = self.rng.randrange(7)
        if kind < 4:
            self._load_segment(self.rng.choice(("es", "ds", "fs", "gs", "es", "ds", "ss")))
        elif kind == 4:
            self._store_segment()
        elif kind == 5:
            self._ask()
        else:
            self._push_segment()

    def _name(self, register: str) -> str:
        """Return the segment to load: one that fits, mostly."""
        rng = self.rng
        if rng.random() < 0.06:
            return rng.choice(_ODD)
        return rng.choice(STACKS if register == "ss" else (*DATA, "flat"))

    def _selector(self, name: str) -> int:
        """Return a selector of a segment: any RPL is good for data; null, and beyond the table."""
        chance = self.rng.random()
        if chance < 0.02:
            return self.rng.choice((0, 3, 0xFFFF, 0x1FF))
        selector = SELECTOR[name]
        return selector & ~3 | self.rng.randrange(4) if chance < 0.1 else selector

    def _word(self, number: int, value: int) -> None:
        self._emit(Instruction.create_reg_u32(Code.MOV_R16_IMM16, R16[number], value))

    def _load_segment(self, register: str) -> None:
        rng = self.rng
        operands = self.operands
        assert isinstance(operands, SegmentedOperands)
        name = self._name(register)
        selector = self._selector(name)
        kind = rng.randrange(4)
        if kind == 0:
            number = rng.choice(self._spare())
            self._word(number, selector)
            self._emit(Instruction.create_reg_reg(
                rng.choice((Code.MOV_SREG_RM16, Code.MOV_SREG_R32M16)), _REGISTERS[register],
                R16[number]))
        elif kind == 1:
            place = operands.target(2, True)
            self._store_word(place.linear, selector)
            ins = self._make(Code.MOV_SREG_RM16)
            ins.set_op_kind(0, OpKind.REGISTER)
            ins.set_op_register(0, _REGISTERS[register])
            ins.set_op_kind(1, OpKind.MEMORY)
            operands.memory(ins, place)
            self._emit(ins)
        elif kind == 2:
            self._need(RSP, self._stack_address)
            wide = rng.random() < 0.5
            self._emit(Instruction.create_u32(Code.PUSHD_IMM32 if wide else Code.PUSH_IMM16,
                                              selector))
            self._emit(self._make(_POP[register][wide]))
        else:
            wide = rng.random() < 0.5
            place = operands.target(6, True)
            self._store_word(place.linear + (4 if wide else 2), selector)
            ins = self._make(_POINTER[register][wide])
            ins.set_op_kind(0, OpKind.REGISTER)
            ins.set_op_register(0, (R32 if wide else R16)[rng.choice(self._spare())])
            ins.set_op_kind(1, OpKind.MEMORY)
            operands.memory(ins, place)
            self._emit(ins)
        operands.loaded(register, name)
        if register == "ss":
            self.registers.written(RSP)
            self._emit(Instruction.create_reg_u32(
                Code.MOV_R32_IMM32, R32[RSP], self._stack_address()))

    def _store_word(self, linear: int, value: int) -> None:
        store = self._make(Code.MOV_RM16_IMM16)
        store.set_op_kind(0, OpKind.MEMORY)
        store.set_op_kind(1, OpKind.IMMEDIATE16)
        store.immediate16 = value
        target = self.operands.target(2, True)
        target.linear = linear & M32
        self.operands.memory(store, target)
        self._emit(store)

    def _store_segment(self) -> None:
        rng = self.rng
        ins = self._make(Code.MOV_RM16_SREG)
        if rng.random() < 0.5:
            ins.set_op_kind(0, OpKind.MEMORY)
            self.operands.memory(ins, self.operands.target(2, True))
        else:
            wide = rng.random() < 0.5
            ins = self._make(Code.MOV_R32M16_SREG if wide else Code.MOV_RM16_SREG)
            ins.set_op_kind(0, OpKind.REGISTER)
            ins.set_op_register(0, (R32 if wide else R16)[rng.choice(self._spare())])
        ins.set_op_kind(1, OpKind.REGISTER)
        ins.set_op_register(1, rng.choice((*_REGISTERS.values(), Register.CS)))
        self._emit(ins)

    def _ask(self) -> None:
        """LAR, LSL, VERR, VERW."""
        rng = self.rng
        number = rng.choice(self._spare())
        code, file = rng.choice(_QUESTIONS)
        # AMD's LAR gives bits 16 to 19 of a limit, which Intel leaves undefined.
        names = [n for n in (*_ODD, *DATA, *STACKS)
                 if code != Code.LAR_R32_R32M16 or NAMED[n].pages == 0]
        self._word(number, self._selector(rng.choice(names)))
        if file is None:
            self._emit(Instruction.create_reg(code, R16[number]))
        else:
            self._emit(Instruction.create_reg_reg(code, file[rng.choice(self._spare())],
                                                  file[number]))

    def _push_segment(self) -> None:
        self._need(RSP, self._stack_address)
        self._emit(self._make(self.rng.choice(_PUSH[self.rng.choice(tuple(_PUSH))])))

    def _step_far(self) -> None:
        """JMP, CALL or RETF to what follows, in another segment with the same base."""
        rng = self.rng
        aliases = _ALIASES.get(self.names["cs"])
        if aliases is None:
            return
        self._need(RSP, self._stack_address)
        kind = rng.randrange(3)
        name = rng.choice(aliases if rng.random() < 0.95 else _ODD)
        wide = self.bits == 32 or rng.random() < 0.3
        if kind < 2:
            code = ((Code.JMP_PTR1616, Code.CALL_PTR1616),
                    (Code.JMP_PTR1632, Code.CALL_PTR1632))[wide][kind]
            ins = self._make(code)
            ins.set_op_kind(0, OpKind.FAR_BRANCH32 if wide else OpKind.FAR_BRANCH16)
            ins.far_branch_selector = self._selector(name)
            self._emit(ins, len(self.items) + 1)
            self.registers.written(RSP)
            return
        push = Code.PUSHD_IMM32 if wide else Code.PUSH_IMM16
        self._emit(Instruction.create_u32(push, self._selector(name)))
        self._emit(Instruction.create_u32(push, 0), len(self.items) + 2)
        self._emit(self._make(Code.RETFD if wide else Code.RETFW))
        self.registers.written(RSP)
