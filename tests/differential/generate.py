"""Generation of test programs with every instruction form, in sequences like a compiler's."""
from __future__ import annotations

import functools
import random
from dataclasses import dataclass, replace

from iced_x86 import Code, Code_, Decoder, Encoder, FlowControl, Instruction, OpKind, Register

from tests.differential import forms, layout, vectors
from tests.differential.codes import CODES, Codes
from tests.differential.forms import Form, Group
from tests.differential.operands import M64, R32, R64, RSP, edge_value
from tests.differential.program import START_SELECTORS_OF, Item, Program, State
from tests.differential.setups import RCX, Setups


@dataclass(frozen=True, slots=True)
class Style:
    """What programs to make.

    `wild` is the chance that one address is bad; the weights choose what each step is.
    """

    wild: float = 0.03
    most: int = 12
    weights: tuple[tuple[str, int], ...] = (
        ("plain", 40), ("vector", 22), ("x87", 5), ("string", 5), ("stack", 8), ("branch", 8),
        ("loop", 2), ("call", 3), ("bits", 4), ("gather", 2), ("image", 1), ("trap", 1),
        ("pointer", 6), ("self_modify", 2), ("indirect", 2))


_PREFIXES = (0x2E, 0x3E, 0x26, 0x36, 0x40, 0x48, 0x4F, 0x66, 0xF2, 0xF3)


@functools.cache
def _steps(style: Style) -> tuple[tuple[str, ...], tuple[int, ...]]:
    names, weights = zip(*style.weights, strict=True)
    total = 0
    cumulative = []
    for weight in weights:
        total += weight
        cumulative.append(total)
    return names, tuple(cumulative)


class Generator(Setups):
    """Draws one program from `rng` (hypothesis's own `Random` for one that shrinks)."""

    base_bits = 47  # of a segment's base
    mask = M64
    # What a displacement to code is added to.
    code_base = Register.RIP

    def __init__(self, rng: random.Random, style: Style | None = None) -> None:
        self.style = style or Style()
        super().__init__(rng, self.style.wild)
        self.patches: list[tuple[int, bytes]] = []
        self.used: list[Form] = []
        self._area = layout.SMC if rng.random() < 0.1 else layout.CODE

    @classmethod
    def forms(cls) -> tuple[Form, ...]:
        """The forms that programs consist of."""
        return forms.table(cls.bits)

    @property
    def codes(self) -> Codes:
        """What the program's own steps consist of."""
        return CODES[self.bits]

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

    def _decorate(self) -> None:
        """Return prefixes without effect, as assemblers use for padding and compilers misplace."""
        encoder = Encoder(self.bits)
        for i, item in enumerate(self.items):
            ins = item.instruction
            if self.rng.random() > 0.04 or item.target is not None or ins is None \
                    or ins.is_ip_rel_memory_operand or item.tied \
                    or ins.flow_control != FlowControl.NEXT:
                continue
            size = encoder.encode(ins, 0)
            code = bytes((self.rng.choice(_PREFIXES),)) + encoder.take_buffer()
            if size >= 15:
                continue
            again = Decoder(self.bits, code).decode()
            if again.code == ins.code and again.len == len(code) and self._alike(ins, again):
                self.items[i] = Item(raw=code)

    def _alike(self, ins: Instruction, again: Instruction) -> bool:
        """Whether an added prefix has no effect on an instruction's operand."""
        del ins, again
        return True

    def _finish(self) -> Program:
        rng, known = self.rng, self.registers
        self._decorate()
        if known.initial[RSP] is None:
            known.initial[RSP] = self._stack_address()
        gpr = self._gpr()
        rflags = 0x202 | (rng.getrandbits(12) & 0x8D5)
        for bit, chance in ((10, 0.1), (8, 0.01), (21, 0.05), (14, 0.02)):
            rflags |= (rng.random() < chance) << bit
        bases = [rng.getrandbits(self.base_bits) if b is None and rng.random() < 0.3 else b or 0
                 for b in (known.fs_base, known.gs_base)]
        program = Program(tuple(self.items), patches=tuple(self.patches), bits=self.bits)
        origin = self._origin(len(program.code))
        state = State(gpr, origin, rflags, bases[0], bases[1],
                      vectors.random_image(rng, known.vector_initial),
                      START_SELECTORS_OF[self.bits])
        return replace(program, origin=origin, state=state)

    def _gpr(self) -> tuple[int, ...]:
        """Return the initial registers; those that no address needs have any value."""
        return tuple(edge_value(self.rng) if v is None else v for v in self.registers.initial)

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

    # --- steps

    def _step_plain(self) -> None:
        self._form(self.rng.choice(_common(self.bits)))

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
            self._load(rng.choice(self._spare()), self.operands.target(8, False).linear)
            return
        number = rng.choice(numbers)
        value = known.value[number]
        assert value is not None
        step = rng.choice((8, -8, 16, 64, 128, -128, 4096, -4096, rng.randrange(-1 << 31, 1 << 31)))
        kind = rng.randrange(5 if number != RSP else 3)
        codes = self.codes.pointers
        reg = codes.registers[number]
        if kind == 0:
            self._emit(Instruction.create_reg_i32(codes.add, reg, step))
        elif kind == 1:
            self._emit(Instruction.create_reg_i32(codes.sub, reg, step))
            step = -step
        elif kind == 2:
            ins = self._make(codes.lea)
            ins.set_op_register(0, reg)
            ins.set_op_kind(1, OpKind.MEMORY)
            ins.memory_base = reg
            ins.memory_displacement = step & self.mask
            ins.memory_displ_size = codes.displacement
            self._emit(ins)
        elif kind == 3:
            step = 1 if rng.random() < 0.5 else -1
            self._emit(Instruction.create_reg(codes.inc if step > 0 else codes.dec, reg))
        else:
            other = rng.choice(self._spare())
            self._emit(Instruction.create_reg_reg(codes.mov, codes.registers[other], reg))
            number, step = other, 0
        known.value[number] = value + step & self.mask

    def _body(self, steps: int, names: tuple[str, ...]) -> None:
        """Emit steps that may be skipped: values that they make known are not known after them."""
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
        numbers = self._spare()
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
        self._close_loop(counter, head)
        known.pinned.discard(counter)

    def _close_loop(self, counter: int, head: int) -> None:
        """Emit the branch back, which counts."""
        rng, codes = self.rng, self.codes
        if counter == RCX and rng.random() < 0.6:
            self._emit(Instruction.create_branch(rng.choice(codes.loops), 0), head)
            return
        self._emit(rng.choice((
            *(Instruction.create_reg(code, file[counter]) for code, file in codes.decs),
            Instruction.create_reg_i32(codes.sub_imm8, codes.registers[counter], 1),
            Instruction.create_reg_i32(Code.ADD_RM32_IMM8, R32[counter], -1))))
        self._emit(Instruction.create_branch(rng.choice(codes.back), 0), head)

    def _step_call(self) -> None:
        """CALL a small function that stands behind a jump, directly or by a register or memory."""
        rng, codes = self.rng, self.codes
        self._need(RSP, self._stack_address)
        jump = len(self.items)
        self._emit(Instruction.create_branch(codes.jmp, 0))
        entry = len(self.items)
        self._body(rng.randint(0, 2), ("plain", "vector", "pointer"))
        if rng.random() < 0.85:
            self._emit(self._make(codes.ret))
        else:
            self._emit(Instruction.create_u32(codes.ret_imm, rng.choice(codes.drops)))
        after = len(self.items)
        self.items[jump] = replace(self.items[jump], target=after)
        if rng.random() < 0.6:
            self._emit(Instruction.create_branch(codes.call, 0), entry)
        else:
            self._indirect(codes.call_rm, entry)
        self.registers.written(RSP)
        if rng.random() < 0.3:  # and return once more through a pushed address
            self._need(RSP, self._stack_address)
            number = rng.choice(self._spare())
            self._lea_label(number, len(self.items) + 3)
            self._emit(Instruction.create_reg(codes.push, codes.registers[number]))
            self._emit(self._make(codes.ret))

    def _lea_label(self, number: int, target: int) -> None:
        ins = self._make(Code.LEA_R64_M)
        ins.set_op_register(0, R64[number])
        ins.set_op_kind(1, OpKind.MEMORY)
        ins.memory_base = Register.RIP
        ins.memory_displ_size = 8
        self._emit(ins, target)

    def _indirect(self, code: Code_, target: int) -> None:
        rng, codes = self.rng, self.codes
        number = rng.choice(self._spare())
        self._lea_label(number, target)
        ins = self._make(code)
        if rng.random() < 0.5:
            ins.set_op_kind(0, OpKind.REGISTER)
            ins.set_op_register(0, codes.registers[number])
        else:
            place = self.operands.target(codes.address, True)
            store = self._make(codes.store)
            store.set_op_kind(0, OpKind.MEMORY)
            store.set_op_register(1, codes.registers[number])
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
        self._indirect(self.codes.jmp_rm, 0)
        self._body_behind(place)

    def _body_behind(self, place: int) -> None:
        """Emit what an indirect jump that begins at item `place` passes over."""
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
        store.memory_base = self.code_base
        store.memory_displ_size = self.codes.pointers.displacement
        store.set_op_kind(1, OpKind.IMMEDIATE32)
        store.immediate32 = rng.getrandbits(32)
        place = len(self.items)
        self._emit(store)
        self._body(rng.randrange(3), ("plain", "vector"))
        self.items[place] = replace(self.items[place], target=len(self.items), delta=1)
        number = rng.choice([i for i in range(8) if i != RSP and i not in self.registers.pinned])
        self._emit(Instruction.create_reg_u32(Code.MOV_R32_IMM32, R32[number], 0x11223344))

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


@functools.cache
def _common(bits: int) -> tuple[Form, ...]:
    """Plain forms; those that compilers emit most stand several times."""
    often = frozenset("MOV ADD SUB CMP TEST AND OR XOR LEA MOVZX MOVSX MOVSXD SHL SHR SAR ADC SBB "
                      "IMUL INC DEC NEG NOT".split())
    out: list[Form] = []
    for form in forms.by_group(bits)[Group.PLAIN]:
        out += [form] * (3 if form.mnemonic in often else 1)
    return tuple(out)


def random_program(rng: random.Random, style: Style | None = None,
                   kind: type[Generator] = Generator) -> Program:
    """One program of a `kind` of code; drawn again if a branch would not reach."""
    while True:
        try:
            program = kind(rng, style).program()
            program.code  # noqa: B018  assembles it, which may not be possible
        except ValueError:
            continue
        return program


def program_of(form: Form, rng: random.Random, mem: bool | None = None,
               kind: type[Generator] = Generator) -> Program:
    """A program that has this form in it."""
    while True:
        try:
            program = kind(rng).of_form(form, mem)
            program.code  # noqa: B018
        except ValueError:
            continue
        return program
