"""Generation of programs of 16- and 32-bit code."""
from __future__ import annotations

import random
from dataclasses import replace

from iced_x86 import Code, FlowControl, Instruction, OpKind, Register
from iced_x86 import OpCodeOperandKind as K

from tests.differential import layout
from tests.differential.forms import Form, Group
from tests.differential.generate import Generator, Style
from tests.differential.narrow.loads import STYLE, SegmentSteps
from tests.differential.narrow.operands import NarrowOperands
from tests.differential.narrow.segmented import SegmentedOperands, choose, stack_offset
from tests.differential.operands import M32, R32, RSP, Operands, Registers, edge_value
from tests.differential.program import SEGMENTS, Program
from tests.differential.segments import NAMED, SELECTOR

# The flags that instructions for decimal numbers define, as LAHF loads them.
_DEFINED = {"AAA": 0x11, "AAS": 0x11, "AAM": 0xC4, "AAD": 0xC4, "DAA": 0xD5, "DAS": 0xD5}
_TO_16_BITS = (K.BR16_1, K.BR16_2)
_STRINGS = {32: (OpKind.MEMORY_SEG_ESI, OpKind.MEMORY_ESEDI, OpKind.MEMORY_SEG_EDI),
            16: (OpKind.MEMORY_SEG_SI, OpKind.MEMORY_ESDI, OpKind.MEMORY_SEG_DI)}


class NarrowGenerator(Generator):
    """Draws one program of 32-bit code in flat segments."""

    bits = 32
    base_bits = 32
    mask = M32
    code_base = Register.NONE
    strings = _STRINGS[32]
    strings_67 = _STRINGS[16]

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
        while group is Group.BRANCH and self.rng.random() < 0.95 and self._leads_away(form):
            form = super()._pick(group)
        return form

    def _leads_away(self, form: Form) -> bool:
        """Whether the branch truncates EIP, so that it leads nowhere here."""
        return any(k in _TO_16_BITS for k in form.kinds) \
            or form.name in ("CALL_RM16", "JMP_RM16", "RETNW", "RETNW_IMM16")

    def _do_plain(self, form: Form, mem: bool | None) -> None:
        defined = _DEFINED.get(form.mnemonic)
        if defined is not None and 0 in self.registers.pinned:
            return
        super()._do_plain(form, mem)
        if defined is not None:  # LAHF, and AND of AH: the other flags are undefined
            start = len(self.items)
            self._emit(self._make(Code.LAHF))
            self._emit(Instruction.create_reg_u32(Code.AND_RM8_IMM8, Register.AH, defined))
            self.items[start:] = [replace(item, tied=True) for item in self.items[start:]]

    def _do_image(self, form: Form, mem: bool | None) -> None:
        assert isinstance(self.operands, NarrowOperands)
        self.operands.straddles = False  # processors disagree on how they access an image
        super()._do_image(form, mem)
        self.operands.straddles = True

    # --- steps

    def _lea_label(self, number: int, target: int) -> None:
        codes = self.codes
        self._emit(Instruction.create_reg_u32(codes.mov_imm, codes.registers[number], 0), target)

    def _do_branch(self, form: Form, mem: bool | None) -> None:
        flow = self._make(form.code).flow_control
        if not self._leads_away(form) or flow in (
                FlowControl.CONDITIONAL_BRANCH, FlowControl.UNCONDITIONAL_BRANCH):
            super()._do_branch(form, mem)
            return
        self._need(RSP, self._stack_address)
        relative = bool(form.kinds) and form.kinds[0] in _TO_16_BITS
        if relative:
            ins = Instruction.create_branch(form.code, 0)
        else:
            ins = self._fill(form, mem) if form.kinds else self._make(form.code)
        place = len(self.items)
        self._emit(ins)
        if relative:
            self.items[place] = replace(self.items[place], target=len(self.items))


class SegmentedGenerator(SegmentSteps, NarrowGenerator):
    """Draws one program of 32-bit code in segments that are not flat."""

    def __init__(self, rng: random.Random, style: Style | None = None) -> None:
        self._smc = rng.random() < 0.1
        self.names = choose(rng, self.bits, self._smc)
        super().__init__(rng, style or STYLE)
        self._area = layout.SMC if self._smc else layout.CODE
        self.registers.fs_base = NAMED[self.names["fs"]].base
        self.registers.gs_base = NAMED[self.names["gs"]].base
        if not NAMED[self.names["ss"]].big:  # the runner can only begin with this high half
            self.registers.assign(RSP, self._stack_address())

    def _operands(self, wild: float) -> Operands:
        return SegmentedOperands(self.rng, self.registers, wild,
                                 {r: NAMED[n] for r, n in self.names.items()}, self.bits)

    def _stack_address(self) -> int:
        operands = self.operands
        assert isinstance(operands, SegmentedOperands)
        return stack_offset(self.rng, operands.segments["ss"].name)

    def _string_offset(self, linear: int, source: bool) -> int:
        operands = self.operands
        assert isinstance(operands, SegmentedOperands)
        return operands.offset(linear, "ds" if source else "es")

    def _leads_away(self, form: Form) -> bool:
        return False

    def _alike(self, ins: Instruction, again: Instruction) -> bool:
        return again.memory_segment == ins.memory_segment

    def _step_self_modify(self) -> None:
        """The code cannot be written through these segments."""

    def _finish(self) -> Program:
        program = super()._finish()
        selectors = tuple(SELECTOR[self.names[s]] for s in SEGMENTS)
        state = replace(program.state, selectors=selectors)
        program = replace(program, state=state)
        return replace(program, state=replace(state, rip=program.origin - program.base))


class Generator16(SegmentedGenerator):
    """Draws one program of 16-bit code."""

    bits = 16
    strings = _STRINGS[16]
    strings_67 = _STRINGS[32]

    def _push_flags(self, word: bool, flags: int) -> None:
        if word:
            self._emit(Instruction.create_i32(Code.PUSH_IMM16, flags & 0xFFF))
        else:
            self._emit(Instruction.create_i32(Code.PUSHD_IMM32, flags))
