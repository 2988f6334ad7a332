"""Makes test programs: every instruction form, in the company that real code gives it."""
from __future__ import annotations

import functools
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from iced_x86 import (
    Code,
    FlowControl,
    Instruction,
    InstructionInfoFactory,
    Mnemonic,
    OpAccess,
    OpKind,
    Register,
)
from iced_x86 import OpCodeOperandKind as K

from tests.differential import forms, layout, vectors
from tests.differential.forms import Form, Group
from tests.differential.operands import (
    M64,
    R16,
    R32,
    R64,
    RSP,
    Operands,
    Registers,
    edge_value,
    gpr_number,
    vector_number,
)
from tests.differential.program import Item, Program, State

RCX, RDX, RBX, RBP, RSI, RDI = 1, 2, 3, 5, 6, 7
_WRITES = frozenset((OpAccess.WRITE, OpAccess.READ_WRITE, OpAccess.COND_WRITE,
                     OpAccess.READ_COND_WRITE))
_DIVIDES = frozenset((Mnemonic.DIV, Mnemonic.IDIV))
_HINTS = frozenset((Mnemonic.LEA, Mnemonic.NOP, Mnemonic.PREFETCHNTA, Mnemonic.PREFETCHT0,
                    Mnemonic.PREFETCHT1, Mnemonic.PREFETCHT2, Mnemonic.PREFETCHW,
                    Mnemonic.RESERVEDNOP))
_RESTORES = {Code.FLDENV_M14BYTE: Code.FNSTENV_M14BYTE, Code.FLDENV_M28BYTE: Code.FNSTENV_M28BYTE,
             Code.FRSTOR_M94BYTE: Code.FNSAVE_M94BYTE, Code.FRSTOR_M108BYTE: Code.FNSAVE_M108BYTE,
             Code.FXRSTOR_M512BYTE: Code.FXSAVE_M512BYTE, Code.XRSTOR_MEM: Code.XSAVE_MEM,
             Code.FXRSTOR64_M512BYTE: Code.FXSAVE64_M512BYTE, Code.XRSTOR64_MEM: Code.XSAVE64_MEM}
_IMAGE_SIZE = {Mnemonic.XSAVE: 832, Mnemonic.XSAVE64: 832, Mnemonic.XRSTOR: 832,
               Mnemonic.XRSTOR64: 832}
_ALIGN = {Mnemonic.XSAVE: 64, Mnemonic.XSAVE64: 64, Mnemonic.XRSTOR: 64, Mnemonic.XRSTOR64: 64,
          Mnemonic.FXSAVE: 16, Mnemonic.FXSAVE64: 16, Mnemonic.FXRSTOR: 16, Mnemonic.FXRSTOR64: 16,
          Mnemonic.CMPXCHG16B: 16}


@dataclass(frozen=True, slots=True)
class Style:
    """What programs to make.  `wild` is the chance that one address is bad; `traps` allows
    privileged instructions; the weights choose what each step is."""

    wild: float = 0.03
    most: int = 12
    weights: tuple[tuple[str, int], ...] = (
        ("plain", 40), ("vector", 22), ("x87", 5), ("string", 5), ("stack", 8), ("branch", 8),
        ("loop", 2), ("call", 3), ("bits", 4), ("gather", 2), ("image", 1), ("trap", 1),
        ("pointer", 6), ("self_modify", 2), ("indirect", 2))


@functools.cache
def _steps(style: Style) -> tuple[tuple[str, ...], tuple[int, ...]]:
    names, weights = zip(*style.weights, strict=True)
    total = 0
    cumulative = []
    for weight in weights:
        total += weight
        cumulative.append(total)
    return names, tuple(cumulative)


class Generator:
    """Draws one program from `rng` (hypothesis's own `Random` for one that shrinks)."""

    def __init__(self, rng: random.Random, style: Style | None = None) -> None:
        self.rng = rng
        self.style = style or Style()
        self.registers = Registers()
        self.operands = Operands(rng, self.registers, self.style.wild)
        self.operands.load = self._load
        self.items: list[Item] = []
        self.patches: list[tuple[int, bytes]] = []
        self.used: list[Form] = []
        self._info = InstructionInfoFactory()
        self._area = layout.SMC if rng.random() < 0.1 else layout.CODE

    # --- one program

    def program(self) -> Program:
        """A program of up to `style.most` steps."""
        names, weights = _steps(self.style)
        for name in self.rng.choices(names, cum_weights=weights,
                                     k=self.rng.randint(1, self.style.most)):
            getattr(self, f"_step_{name}")()
        return self._finish()

    def of_form(self, form: Form, mem: bool | None = None) -> Program:
        """A short program around one form, so that each is met."""
        self._form(form, mem)
        for _ in range(self.rng.randrange(3)):
            self._step_plain()
        return self._finish()

    def _finish(self) -> Program:
        rng, known = self.rng, self.registers
        if known.initial[RSP] is None:
            known.initial[RSP] = self._stack_address()
        gpr = tuple(edge_value(rng) if v is None else v for v in known.initial)
        rflags = 0x202 | (rng.getrandbits(12) & 0x8D5)
        for bit, chance in ((10, 0.1), (8, 0.01), (21, 0.05), (14, 0.02)):
            rflags |= (rng.random() < chance) << bit
        bases = [rng.getrandbits(47) if b is None and rng.random() < 0.3 else b or 0
                 for b in (known.fs_base, known.gs_base)]
        program = Program(tuple(self.items), patches=tuple(self.patches))
        origin = self._origin(len(program.code))
        state = State(gpr, origin, rflags, bases[0], bases[1],
                      vectors.random_image(rng, known.vector_initial))
        return replace(program, origin=origin, state=state)

    def _origin(self, size: int) -> int:
        rng, area = self.rng, self._area
        kind = rng.randrange(10)
        if kind < 5:
            return area.linear + rng.randrange(64)
        if kind < 9:  # about the page boundary inside the area
            return area.linear + layout.PAGE - rng.randrange(size + 1)
        if rng.random() < 0.8:
            return area.end - size
        return area.end - rng.randrange(1, size + 1)  # runs into the unmapped page

    # --- emitting

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
                and not (ins.op_count and ins.op0_register == Register.RSP):
            known.value[RSP] = stack + ins.stack_pointer_increment & M64

    def _make(self, code: int) -> Instruction:
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
            value = choose() & M64
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
        return layout.AREAS[rng.choice(("slot", "gib4"))].linear + layout.PAGE \
            + rng.randrange(-8, 8) * 8

    # --- steps

    def _form(self, form: Form, mem: bool | None = None) -> None:
        self.used.append(form)
        getattr(self, f"_do_{form.group.name.lower()}")(form, mem)

    def _pick(self, group: Group) -> Form:
        return self.rng.choice(forms.by_group()[group])

    def _step_plain(self) -> None:
        self._form(self.rng.choice(_common()))

    def _step_vector(self) -> None:
        self._form(self._pick(Group.VECTOR))

    def _step_x87(self) -> None:
        self._form(self._pick(Group.X87))

    def _step_string(self) -> None:
        self._form(self._pick(Group.STRING))

    def _step_stack(self) -> None:
        self._form(self._pick(Group.STACK))

    def _step_bits(self) -> None:
        self._form(self._pick(Group.BITS))

    def _step_gather(self) -> None:
        self._form(self._pick(Group.GATHER))

    def _step_image(self) -> None:
        self._form(self._pick(Group.IMAGE))

    def _step_trap(self) -> None:
        self._form(self._pick(Group.TRAP))

    def _step_branch(self) -> None:
        self._form(self._pick(Group.BRANCH))

    def _step_pointer(self) -> None:
        """Pointers move by constants and copies, as in compiled code; the accesses follow."""
        rng, known = self.rng, self.registers
        numbers = [i for i in known.usable() if known.value[i] is not None
                   and i not in known.pinned]
        if not numbers:
            number = rng.choice([i for i in range(16) if i not in known.pinned and i != RSP])
            self._load(number, self.operands.target(8, False).linear)
            return
        number = rng.choice(numbers)
        value = known.value[number]
        assert value is not None
        step = rng.choice((8, -8, 16, 64, 128, -128, 4096, -4096, rng.randrange(-1 << 31, 1 << 31)))
        kind = rng.randrange(5 if number != RSP else 3)
        reg = R64[number]
        if kind == 0:
            self._emit(Instruction.create_reg_i32(Code.ADD_RM64_IMM32, reg, step))
        elif kind == 1:
            self._emit(Instruction.create_reg_i32(Code.SUB_RM64_IMM32, reg, step))
            step = -step
        elif kind == 2:
            ins = self._make(Code.LEA_R64_M)
            ins.set_op_register(0, reg)
            ins.set_op_kind(1, OpKind.MEMORY)
            ins.memory_base = reg
            ins.memory_displacement = step & M64
            ins.memory_displ_size = 8
            self._emit(ins)
        elif kind == 3:
            step = 1 if rng.random() < 0.5 else -1
            self._emit(Instruction.create_reg(Code.INC_RM64 if step > 0 else Code.DEC_RM64, reg))
        else:
            other = rng.choice([i for i in range(16) if i not in known.pinned and i != RSP])
            self._emit(Instruction.create_reg_reg(Code.MOV_R64_RM64, R64[other], reg))
            number, step = other, 0
        known.value[number] = value + step & M64

    def _body(self, steps: int, names: tuple[str, ...]) -> None:
        """Steps that may be skipped: what they make known is not known after them."""
        before = list(self.registers.value)
        for _ in range(steps):
            getattr(self, f"_step_{self.rng.choice(names)}")()
        for i, value in enumerate(self.registers.value):
            if value != before[i] and i not in self.registers.free \
                    and self.registers.initial[i] != value:
                self.registers.written(i)

    _INNER = ("plain", "plain", "vector", "pointer", "stack", "bits")

    def _step_loop(self) -> None:
        """A counted loop; its counter is written by nothing else."""
        rng, known = self.rng, self.registers
        numbers = [i for i in range(16) if i not in known.pinned and i != RSP]
        counter = RCX if rng.random() < 0.4 and RCX in numbers else rng.choice(numbers)
        self._load(counter, rng.randrange(1, 8))
        known.written(counter)
        known.pinned.add(counter)
        for i in range(16):  # a pointer that the body moves is not where the first pass had it
            if known.value[i] is not None and rng.random() < 0.3:
                known.written(i)
        head = len(self.items)
        start = list(known.value)
        self._body(rng.randint(1, 3), ("plain", "plain", "vector", "bits"))
        if self._overwritten(head, counter):
            known.pinned.discard(counter)
            return
        for i in range(16):
            if start[i] != known.value[i]:
                known.written(i)
        if counter == RCX and rng.random() < 0.6:
            code = rng.choice((Code.LOOP_REL8_64_RCX, Code.LOOP_REL8_64_RCX,
                               Code.LOOPE_REL8_64_RCX, Code.LOOPNE_REL8_64_RCX,
                               Code.LOOP_REL8_64_ECX))
            self._emit(Instruction.create_branch(code, 0), head)
        else:
            self._emit(rng.choice((
                Instruction.create_reg(Code.DEC_RM64, R64[counter]),
                Instruction.create_reg(Code.DEC_RM32, R32[counter]),
                Instruction.create_reg_i32(Code.SUB_RM64_IMM8, R64[counter], 1),
                Instruction.create_reg_i32(Code.ADD_RM32_IMM8, R32[counter], -1))))
            self._emit(Instruction.create_branch(
                rng.choice((Code.JNE_REL8_64, Code.JNE_REL32_64, Code.JG_REL8_64)), 0), head)
        known.pinned.discard(counter)

    def _overwritten(self, start: int, number: int) -> bool:
        for item in self.items[start:]:
            assert item.instruction is not None
            for used in self._info.info(item.instruction).used_registers():
                if used.access in _WRITES and gpr_number(used.register) == number:
                    return True
        return False

    def _step_call(self) -> None:
        """CALL a small function that stands behind a jump, directly or by a register or memory."""
        rng = self.rng
        self._need(RSP, self._stack_address)
        jump = len(self.items)
        self._emit(Instruction.create_branch(Code.JMP_REL32_64, 0))
        entry = len(self.items)
        self._body(rng.randint(0, 2), ("plain", "vector", "pointer"))
        if rng.random() < 0.85:
            self._emit(self._make(Code.RETNQ))
        else:
            self._emit(Instruction.create_u32(Code.RETNQ_IMM16, rng.choice((0, 8, 16))))
        after = len(self.items)
        self.items[jump] = replace(self.items[jump], target=after)
        if rng.random() < 0.6:
            self._emit(Instruction.create_branch(Code.CALL_REL32_64, 0), entry)
        else:
            self._indirect(Code.CALL_RM64, entry)
        self.registers.written(RSP)
        if rng.random() < 0.3:  # and return once more through a pushed address
            self._need(RSP, self._stack_address)
            pinned = self.registers.pinned
            number = rng.choice([i for i in range(16) if i != RSP and i not in pinned])
            self._lea_label(number, len(self.items) + 3)
            self._emit(Instruction.create_reg(Code.PUSH_R64, R64[number]))
            self._emit(self._make(Code.RETNQ))

    def _lea_label(self, number: int, target: int) -> None:
        ins = self._make(Code.LEA_R64_M)
        ins.set_op_register(0, R64[number])
        ins.set_op_kind(1, OpKind.MEMORY)
        ins.memory_base = Register.RIP
        ins.memory_displ_size = 8
        self._emit(ins, target)

    def _indirect(self, code: int, target: int) -> None:
        rng = self.rng
        number = rng.choice([i for i in range(16) if i != RSP and i not in self.registers.pinned])
        self._lea_label(number, target)
        ins = self._make(code)
        if rng.random() < 0.5:
            ins.set_op_kind(0, OpKind.REGISTER)
            ins.set_op_register(0, R64[number])
        else:
            place = self.operands.target(8, True)
            store = self._make(Code.MOV_RM64_R64)
            store.set_op_kind(0, OpKind.MEMORY)
            store.set_op_register(1, R64[number])
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
        self._indirect(Code.JMP_RM64, 0)
        lea = next(i for i in range(place, len(self.items)) if self.items[i].target == 0)
        self._body(self.rng.randrange(3), ("plain", "vector"))
        self.items[lea] = replace(self.items[lea], target=len(self.items))

    def _step_self_modify(self) -> None:
        """Store into the immediate of an instruction that follows."""
        if self._area is not layout.SMC:
            return
        rng = self.rng
        store = self._make(Code.MOV_RM32_IMM32)
        store.set_op_kind(0, OpKind.MEMORY)
        store.memory_base = Register.RIP
        store.memory_displ_size = 8
        store.set_op_kind(1, OpKind.IMMEDIATE32)
        store.immediate32 = rng.getrandbits(32)
        place = len(self.items)
        self._emit(store)
        self._body(rng.randrange(3), ("plain", "vector"))
        self.items[place] = replace(self.items[place], target=len(self.items), delta=1)
        number = rng.choice([i for i in range(8) if i != RSP and i not in self.registers.pinned])
        self._emit(Instruction.create_reg_u32(Code.MOV_R32_IMM32, R32[number], 0x11223344))

    # --- one form of each group

    def _fill(self, form: Form, mem: bool | None, align: int = 1, rip: bool = True) -> Instruction:
        ins = self._make(form.code)
        if not self.operands.fill(ins, form.kinds, mem, align=align, rip=rip):
            raise ValueError(f"{form.name}: no rule for an operand")
        if form.lock and ins.op0_kind == OpKind.MEMORY and self.rng.random() < 0.3:
            ins.has_lock_prefix = True
        return ins

    def _do_plain(self, form: Form, mem: bool | None) -> None:
        rng = self.rng
        ins = self._make(form.code)
        if ins.mnemonic in _DIVIDES and rng.random() < 0.75 and RDX not in self.registers.pinned:
            self._load(RDX, rng.choice((0, 0, 1)))
        if ins.mnemonic == Mnemonic.XLATB:
            self._need(RBX, lambda: self.operands.target(256, False).linear)
            ins.set_op_kind(0, OpKind.MEMORY)
            ins.memory_base = Register.RBX
            ins.memory_index = Register.AL
            self._emit(ins)
            return
        wild = self.operands.wild
        if ins.mnemonic in _HINTS:
            self.operands.wild = 0.3
        self._emit(self._fill(form, mem, _ALIGN.get(ins.mnemonic, 1)))
        self.operands.wild = wild

    def _do_vector(self, form: Form, mem: bool | None) -> None:
        aligned = self.rng.random() < (0.4 if form.vex else 0.9)
        self._emit(self._fill(form, mem, (32 if form.vex else 16) if aligned else 1))

    def _do_x87(self, form: Form, mem: bool | None) -> None:
        self._emit(self._fill(form, mem))

    def _do_trap(self, form: Form, mem: bool | None) -> None:
        ins = self._make(form.code)
        if K.SEG_RSI in form.kinds or K.ES_RDI in form.kinds:
            self._string_operands(ins, form, 8, 4)
        else:
            ins = self._fill(form, mem)
        self._emit(ins)

    def _do_gather(self, form: Form, mem: bool | None) -> None:
        self._emit(self._fill(form, mem))

    def _do_bits(self, form: Form, mem: bool | None) -> None:
        rng, known = self.rng, self.registers
        width = {K.R16_REG: 16, K.R32_REG: 32, K.R64_REG: 64}[form.kinds[1]]
        if mem is None:
            mem = rng.random() < 0.7
        if not mem:
            self._emit(self._fill(form, False))
            return
        number = rng.choice([i for i in range(16) if i != RSP and i not in known.pinned])
        reach = rng.choice((64, 4096, 4096, 1 << 16, 1 << 31, 1 << 35))
        offset = rng.randrange(-reach, reach)
        if number in known.free and rng.random() < 0.7:
            known.assign(number, offset)
        elif rng.random() < 0.9:
            self._load(number, offset & M64)
        ins = self._make(form.code)
        value = (known.value[number] or 0) & ((1 << width) - 1)
        value -= (value >> (width - 1)) << width
        pinned = number not in known.pinned
        known.pinned.add(number)
        place = self.operands.target(width // 8, ins.mnemonic != Mnemonic.BT)
        place.linear = place.linear - (value // width) * (width // 8) & M64
        ins.set_op_kind(0, OpKind.MEMORY)
        ins.set_op_kind(1, OpKind.REGISTER)
        ins.set_op_register(1, {16: R16, 32: R32, 64: R64}[width][number])
        self.operands.memory(ins, place)
        if pinned:
            known.pinned.discard(number)
        if form.lock and rng.random() < 0.3:
            ins.has_lock_prefix = True
        self._emit(ins)

    def _string_operands(self, ins: Instruction, form: Form, size: int, count: int) -> None:
        """Make RSI and RDI point where a string of `count` elements fits either way."""
        rng = self.rng
        addr32 = rng.random() < 0.1
        span = size * max(1, min(count, 64))
        accumulators = {K.AL: Register.AL, K.AX: Register.AX, K.EAX: Register.EAX,
                        K.RAX: Register.RAX, K.DX: Register.DX}

        def place(write: bool) -> int:
            spot = self.operands.target(2 * span, write)
            return spot.linear if spot.bad else spot.linear + span - size

        for i, kind in enumerate(form.kinds):
            if kind == K.SEG_RSI:
                value = self._need(RSI, lambda: place(False))
                ins.set_op_kind(i, OpKind.MEMORY_SEG_ESI if addr32 and value >> 32 == 0
                                else OpKind.MEMORY_SEG_RSI)
                addr32 = addr32 and value >> 32 == 0
            elif kind in (K.ES_RDI, K.SEG_RDI):
                value = self._need(RDI, lambda: place(True))
                if kind == K.SEG_RDI:
                    ins.set_op_kind(i, OpKind.MEMORY_SEG_EDI if addr32 else OpKind.MEMORY_SEG_RDI)
                else:
                    ins.set_op_kind(i, OpKind.MEMORY_ESEDI if addr32 else OpKind.MEMORY_ESRDI)
            elif kind in accumulators:
                ins.set_op_kind(i, OpKind.REGISTER)
                ins.set_op_register(i, accumulators[kind])
        memory = [i for i in range(len(form.kinds)) if ins.op_kind(i) != OpKind.REGISTER]
        if len(memory) == 2 and addr32:  # both address the same way
            source = {OpKind.MEMORY_SEG_ESI, OpKind.MEMORY_ESEDI}
            if not all(ins.op_kind(i) in source for i in memory):
                for i in memory:
                    ins.set_op_kind(i, OpKind.MEMORY_SEG_RSI if form.kinds[i] == K.SEG_RSI
                                    else OpKind.MEMORY_ESRDI)

    def _do_string(self, form: Form, mem: bool | None) -> None:
        del mem
        rng = self.rng
        ins = self._make(form.code)
        if K.SEG_RDI in form.kinds:  # MASKMOVQ, MASKMOVDQU
            self._string_operands(ins, form, 16, 1)
            file = K.MM_REG if K.MM_REG in form.kinds else K.XMM_REG
            rest = [k for k in form.kinds if k != K.SEG_RDI]
            base = Register.MM0 if file == K.MM_REG else Register.XMM0
            for i in range(len(rest)):
                ins.set_op_kind(i + 1, OpKind.REGISTER)
                ins.set_op_register(i + 1, base + rng.randrange(8 if file == K.MM_REG else 16))
            self._emit(ins)
            return
        rep = rng.random() < 0.6 and RCX not in self.registers.pinned
        count = 1
        if rep:
            pick = rng.choice((0, 1, 2, 3, rng.randrange(64), rng.randrange(64), 300, 5000))
            count = self._need(RCX, lambda: pick)
            if count > 1 << 16 and rng.random() < 0.95:
                self._load(RCX, pick)
                count = pick
        size = {"B": 1, "W": 2, "D": 4, "Q": 8}[form.name.split("_")[0][-1]]
        self._string_operands(ins, form, size, count)
        if rep:
            if form.repne and rng.random() < 0.5:
                ins.has_repne_prefix = True
            elif form.rep or not form.repne:
                ins.has_rep_prefix = True
            else:
                ins.has_repne_prefix = True
        self._emit(ins)

    def _do_stack(self, form: Form, mem: bool | None) -> None:
        rng, known = self.rng, self.registers
        self._need(RSP, self._stack_address)
        if form.mnemonic.startswith("POPF") and rng.random() < 0.9:
            # neither AC (the host checks alignment) nor, mostly, TF
            flags = rng.getrandbits(16) & (0x4FD5 if rng.random() < 0.9 else 0xFFD5) & ~0x100
            flags |= (rng.random() < 0.05) << 8 | (rng.random() < 0.1) << 21
            self._emit(Instruction.create_i32(
                Code.PUSHW_IMM8 if form.mnemonic == "POPF" else Code.PUSHQ_IMM32,
                (flags & 0x57) if form.mnemonic == "POPF" else flags))
        if form.mnemonic == "LEAVE":
            self._need(RBP, self._stack_address)
        if form.mnemonic == "ENTER":
            ins = self._make(form.code)
            ins.set_op_kind(0, OpKind.IMMEDIATE16)
            ins.immediate16 = rng.choice((0, 8, 16, 32, 128, rng.randrange(1024)))
            ins.set_op_kind(1, OpKind.IMMEDIATE8_2ND)
            ins.immediate8_2nd = rng.choice((0, 0, 0, 1, 2, rng.randrange(256)))
            self._need(RBP, self._stack_address)
            self._emit(ins)
            known.written(RSP)
            return
        self._emit(self._fill(form, mem))

    def _do_branch(self, form: Form, mem: bool | None) -> None:
        del mem
        ins = self._make(form.code)
        if ins.flow_control in (FlowControl.CALL, FlowControl.RETURN, FlowControl.INDIRECT_CALL):
            self._step_call()
            return
        if ins.flow_control == FlowControl.INDIRECT_BRANCH:
            self._step_indirect()
            return
        place = len(self.items)
        self._emit(Instruction.create_branch(form.code, 0))
        self._body(self.rng.randrange(3), self._INNER)
        self.items[place] = replace(self.items[place], target=len(self.items))

    def _do_image(self, form: Form, mem: bool | None) -> None:
        """XSAVE and its family: restores mostly load what was saved before."""
        del mem
        rng = self.rng
        codes = [form.code]
        if form.code in _RESTORES and rng.random() < 0.9:
            codes = [_RESTORES[form.code], form.code]
        if "XSAVE" in form.mnemonic or "XRSTOR" in form.mnemonic:
            if self.registers.pinned & {0, RDX}:
                return
            self._load(0, rng.choice((7, 7, 3, 2, 1, 4, 5, 6, 0)))
            self._load(RDX, 0)
        ins = self._make(form.code)
        size = _IMAGE_SIZE.get(ins.mnemonic, 512)
        place = self.operands.target(size, True, _ALIGN.get(ins.mnemonic, 1))
        for i, code in enumerate(codes):
            if i and rng.random() < 0.5:
                self._form(self._pick(rng.choice((Group.X87, Group.VECTOR))))
            ins = self._make(code)
            ins.set_op_kind(0, OpKind.MEMORY)
            self.operands.memory(ins, place)
            self._emit(ins)


@functools.cache
def _common() -> tuple[Form, ...]:
    """Plain forms; those that compilers emit most stand several times."""
    often = frozenset("MOV ADD SUB CMP TEST AND OR XOR LEA MOVZX MOVSX MOVSXD SHL SHR SAR ADC SBB "
                      "IMUL INC DEC NEG NOT".split())
    out: list[Form] = []
    for form in forms.by_group()[Group.PLAIN]:
        out += [form] * (3 if form.mnemonic in often else 1)
    return tuple(out)


def random_program(rng: random.Random, style: Style | None = None) -> Program:
    """One program; drawn again if a branch would not reach."""
    while True:
        try:
            program = Generator(rng, style).program()
            program.code  # noqa: B018  assembles it, which may not be possible
        except ValueError:
            continue
        return program


def program_of(form: Form, rng: random.Random, mem: bool | None = None) -> Program:
    """A program that has this form in it."""
    while True:
        try:
            program = Generator(rng).of_form(form, mem)
            program.code  # noqa: B018
        except ValueError:
            continue
        return program
