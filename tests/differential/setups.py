"""The setup of each group of forms, with which most programs do not fault."""
from __future__ import annotations

from dataclasses import replace

from iced_x86 import Code, Instruction, Mnemonic, OpKind, Register, RegisterExt
from iced_x86 import OpCodeOperandKind as K

from tests.differential import forms
from tests.differential.emit import Emitter
from tests.differential.forms import Form, Group
from tests.differential.operands import M64, MM, R16, R32, R64, RSP, XMM, Target

RCX, RDX, RBX, RBP, RSI, RDI = 1, 2, 3, 5, 6, 7
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
# Offsets of the quadwords with FOP, FIP, FDP, FCS and FDS in the area that each instruction stores.
# FXSAVE and XSAVE also have MXCSR_MASK, in which AMD sets a bit (17, misaligned SSE) that the
# virtual processor's model does not have.
_LEGACY_AREA = (6, 14, 16, 28)
_POINTERS = {Code.FNSTENV_M14BYTE: (6,), Code.FNSAVE_M94BYTE: (6,),
             Code.FNSTENV_M28BYTE: (12, 20), Code.FNSAVE_M108BYTE: (12, 20),
             Code.FXSAVE_M512BYTE: _LEGACY_AREA, Code.FXSAVE64_M512BYTE: _LEGACY_AREA,
             Code.XSAVE_MEM: _LEGACY_AREA, Code.XSAVE64_MEM: _LEGACY_AREA}


class Setups(Emitter):
    """There is one method per group: `_do_` and its name in lower case."""

    used: list[Form]
    bits = 64
    # The operand kinds of strings with the mode's own address size, and with 67h's.
    strings = (OpKind.MEMORY_SEG_RSI, OpKind.MEMORY_ESRDI, OpKind.MEMORY_SEG_RDI)
    strings_67 = (OpKind.MEMORY_SEG_ESI, OpKind.MEMORY_ESEDI, OpKind.MEMORY_SEG_EDI)

    def _form(self, form: Form, mem: bool | None = None) -> None:
        self.used.append(form)
        getattr(self, f"_do_{form.group.name.lower()}")(form, mem)

    def _pick(self, group: Group) -> Form:
        return self.rng.choice(forms.by_group(self.bits)[group])

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
            self._need(RBX, lambda: self._string_offset(
                self.operands.target(256, False).linear, True))
            ins.set_op_kind(0, OpKind.MEMORY)
            ins.memory_base = self.operands.pointers[RBX]
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
        number = rng.choice(self._spare())
        reach = rng.choice((64, 4096, 4096, 1 << 16, 1 << 31, 1 << 35))
        offset = rng.randrange(-reach, reach)
        if number in known.free and rng.random() < 0.7:
            known.assign(number, offset)
        elif rng.random() < 0.9:
            self._load(number, offset & self.mask)
        ins = self._make(form.code)
        value = (known.value[number] or 0) & ((1 << width) - 1)
        value -= (value >> (width - 1)) << width
        pinned = number not in known.pinned
        known.pinned.add(number)
        place = self.operands.target(width // 8, ins.mnemonic != Mnemonic.BT)
        place.linear = place.linear - (value // width) * (width // 8) & self.mask
        ins.set_op_kind(0, OpKind.MEMORY)
        ins.set_op_kind(1, OpKind.REGISTER)
        ins.set_op_register(1, {16: R16, 32: R32, 64: R64}[width][number])
        self.operands.memory(ins, place)
        if pinned:
            known.pinned.discard(number)
        if form.lock and rng.random() < 0.3:
            ins.has_lock_prefix = True
        self._emit(ins)

    def _string_offset(self, linear: int, source: bool) -> int:
        """Return what RSI or RDI holds to reach a linear address."""
        del source
        return linear

    def _string_operands(self, ins: Instruction, form: Form, size: int, count: int) -> None:
        """Make RSI and RDI point where a string of `count` elements fits either way."""
        rng = self.rng
        other_size = rng.random() < 0.1
        bits = self.bits // 2 if self.bits > 16 else 32  # of an address with 67h
        span = size * max(1, min(count, 64))
        accumulators = {K.AL: Register.AL, K.AX: Register.AX, K.EAX: Register.EAX,
                        K.RAX: Register.RAX, K.DX: Register.DX}

        def place(write: bool) -> int:
            spot = self.operands.target(2 * span, write)
            linear = spot.linear if spot.bad else spot.linear + span - size
            return self._string_offset(linear, not write)

        for i, kind in enumerate(form.kinds):
            if kind == K.SEG_RSI:
                value = self._need(RSI, lambda: place(False))
                other_size = other_size and value >> bits == 0
                ins.set_op_kind(i, (self.strings_67 if other_size else self.strings)[0])
            elif kind in (K.ES_RDI, K.SEG_RDI):
                value = self._need(RDI, lambda: place(True))
                ins.set_op_kind(i, (self.strings_67 if other_size else self.strings)[
                    2 if kind == K.SEG_RDI else 1])
            elif kind in accumulators:
                ins.set_op_kind(i, OpKind.REGISTER)
                ins.set_op_register(i, accumulators[kind])
        memory = [i for i in range(len(form.kinds)) if ins.op_kind(i) != OpKind.REGISTER]
        if len(memory) == 2 and not all(ins.op_kind(i) in self.strings_67 for i in memory):
            for i in memory:  # both address the same way
                ins.set_op_kind(i, self.strings[0 if form.kinds[i] == K.SEG_RSI else 1])

    def _do_string(self, form: Form, mem: bool | None) -> None:
        del mem
        rng = self.rng
        ins = self._make(form.code)
        if K.SEG_RDI in form.kinds:  # MASKMOVQ, MASKMOVDQU
            self._string_operands(ins, form, 16, 1)
            file = K.MM_REG if K.MM_REG in form.kinds else K.XMM_REG
            rest = [k for k in form.kinds if k != K.SEG_RDI]
            for i in range(len(rest)):
                ins.set_op_kind(i + 1, OpKind.REGISTER)
                ins.set_op_register(i + 1, rng.choice(MM if file == K.MM_REG else XMM))
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
            self._push_flags(form.mnemonic == "POPF", flags)
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

    def _push_flags(self, word: bool, flags: int) -> None:
        self._emit(Instruction.create_i32(Code.PUSHW_IMM8 if word else Code.PUSHQ_IMM32,
                                          flags & 0x57 if word else flags))

    def _do_image(self, form: Form, mem: bool | None) -> None:
        """Set up the XSAVE family; restores mostly load an image that was saved before."""
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
            if code in _POINTERS:
                self._forget(ins, place, _POINTERS[code])

    def _forget(self, image: Instruction, place: Target, offsets: tuple[int, ...]) -> None:
        """Clear the x87 instruction and data pointers that an image holds: see compare.

        Through the operand of the instruction that stored it, wherever that has led to.
        """
        start = len(self.items)
        size = 8 if self.bits == 64 else 4
        for offset in (o + more for o in offsets for more in range(0, 8, size)):
            store = self._make(Code.MOV_RM64_IMM32 if size == 8 else Code.MOV_RM32_IMM32)
            store.set_op_kind(0, OpKind.MEMORY)
            store.set_op_kind(1, OpKind.IMMEDIATE32TO64 if size == 8 else OpKind.IMMEDIATE32)
            if not _move_operand(image, store, offset):
                self.operands.memory(store, Target(place.linear + offset & self.mask))
            self._emit(store)
        self.items[start:] = [replace(item, tied=True) for item in self.items[start:]]


def _move_operand(source: Instruction, target: Instruction, offset: int) -> bool:
    """Give `target` the memory operand of `source`, `offset` bytes further; False: out of reach."""
    base, index = source.memory_base, source.memory_index
    displacement = source.memory_displacement + offset
    sizes = (source.memory_displ_size, RegisterExt.size(base), RegisterExt.size(index))
    narrow = 2 if 2 in sizes else 4 if 4 in sizes else 0
    if narrow:
        displacement &= (1 << 8 * narrow) - 1
    elif not source.is_ip_rel_memory_operand and (displacement + (1 << 31)) & M64 >= 1 << 32:
        return False
    target.memory_base, target.memory_index = base, index
    target.memory_index_scale = source.memory_index_scale
    target.memory_displacement = displacement & M64
    target.memory_displ_size = narrow or 8
    target.segment_prefix = source.segment_prefix
    return True
