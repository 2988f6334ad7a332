"""The same check for 16- and 32-bit code, which has a contract of its own.

Between two guest instructions r10 is the host address of linear address 0 (or no canonical address),
r11 is 63, and the registers that have guest values have zeros in their upper halves, RSP among them.
Code of one guest instruction is a straight line; its branches lead out of it, or ahead in it.
So one pass over the host's instructions, with what r8, r9, r11, RSI and RDI hold, proves:

1.  **An access is in the window, or at no canonical address.**  Its address is r10 plus at most one
    value of 32 bits and a small displacement; or the host address of FS or GS in their place; or a
    checked offset plus its segment's base; or RSI or RDI while they are such addresses.  A window has
    64 GiB and guards on both sides, which a sum of two such values does not leave.
2.  **A checked offset** is below the segment's limit less the operand's size, or bit 63 is set in
    one of the two parts of the address.  The check and the base are of one segment, and it is the
    one for writes where the instruction may write.
3.  **The upper halves stay zero**: 64-bit results go to r8, r9 and r11 alone, and to RSI and RDI around
    the string instruction that runs on host addresses.
4.  **The state block** is accessed at constant addresses, in fields of this list.
5.  **Nothing sensitive is executed**, nothing that uses the host's stack, and no segment override.
6.  **Control** leaves through stubs, links and the jump table.

Sources: SDM vol. 1 3.4.1.1 (32-bit results); vol. 2A SHLX/SHRX, LEA.
"""

from dataclasses import dataclass, field
from typing import Final

from iced_x86 import (
    Decoder,
    DecoderOptions,
    FlowControl,
    Instruction,
    InstructionInfoFactory,
    MemorySizeExt,
    Mnemonic,
    OpAccess,
    OpKind,
    Register,
    Register_,
    RegisterExt,
)

from ringlet.core import state
from ringlet.translate.classify import Innocuous, classify
from ringlet.translate.translator import BLOCK, JUMP_TABLE, TABLE_BYTES, Relocation, Translation
from ringlet.translate.verify.paths import Violation

NEAR: Final = 1 << 28
"""The largest displacement beside a value of 32 bits."""
FIELDS: Final = state.offsets()
_WRITABLE: Final = frozenset(
    FIELDS[name] + 8 * i
    for name, count in (("scratch", 2), ("string_old", 2), ("op_info", 1), ("ea", 1))
    for i in range(count)
)
_BASES: Final = frozenset({FIELDS["fs_base"], FIELDS["gs_base"]})
_SEGMENTS: Final = {
    FIELDS[name] + 8 * i: (name, i)
    for name in ("segment_host", "segment_at", "segment_read", "segment_write")
    for i in range(6)
}
_READS: Final = frozenset({OpAccess.READ, OpAccess.COND_READ})
_NO_ACCESS: Final = OpAccess.NO_MEM_ACCESS
_UNUSED: Final = Register.NONE
_INFO: Final = InstructionInfoFactory()
_STRINGS: Final = frozenset(
    {Mnemonic.MOVSB, Mnemonic.MOVSW, Mnemonic.MOVSD, Mnemonic.STOSB, Mnemonic.STOSW, Mnemonic.STOSD,
     Mnemonic.LODSB, Mnemonic.LODSW, Mnemonic.LODSD, Mnemonic.SCASB, Mnemonic.SCASW, Mnemonic.SCASD,
     Mnemonic.CMPSB, Mnemonic.CMPSW, Mnemonic.CMPSD}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Value:
    """What a register holds.

    `kind`: "guest" (32 bits), "base" (r10, or FS's or GS's host address), "segment" (a base with bit
    63 inverted), "limit" (minus a segment's size, then plus offset and size), "sign" (its sign bit),
    "checked" (an offset with that), "host" (an address that may be accessed), "count" (63), "other".
    `of` names segment, whether writes were checked, and the bytes that were.
    """

    kind: str
    segment: int = -1
    writes: bool = False
    size: int = 0


GUEST: Final = Value("guest")
OTHER: Final = Value("other")
COUNT: Final = Value("count")
WINDOW: Final = Value("base")
R8, R9, R10, R11 = Register.R8, Register.R9, Register.R10, Register.R11


@dataclass(slots=True)
class _Pass:
    translation: Translation
    held: dict[Register_, Value] = field(default_factory=dict)
    found: list[Violation] = field(default_factory=list)
    at: int = 0

    def complain(self, instruction: Instruction, why: str) -> None:
        self.found.append(Violation(self.at, self.guest(), str(instruction), why))

    def guest(self) -> int:
        """Return the offset of the guest's instruction."""
        return max((guest for host, guest in self.translation.map if host <= self.at), default=0)

    # --- the pass

    def run(self) -> list[Violation]:
        """Check every instruction from the body on."""
        code = self.translation.code
        begins = {host for host, _ in self.translation.map}
        stated = {at for at, kind, _ in self.translation.relocations if kind == Relocation.STATE}
        # An undefined form raises #UD on the host too.
        decoder = Decoder(64, code, DecoderOptions.NO_INVALID_CHECK)
        decoder.position = self.translation.body
        decoder.ip = self.translation.body
        self.begin()
        while decoder.can_decode:
            self.at = decoder.position
            string = any(value.kind == "host" for value in (self.value(Register.RSI), self.value(Register.RDI)))
            if self.at in begins and not string:
                self.begin()
            instruction = decoder.decode()
            constants = decoder.get_constant_offsets(instruction)
            self.check(instruction, self.at + constants.displacement_offset in stated)
        return self.found

    def begin(self) -> None:
        """Note what holds where a guest instruction begins."""
        if self.held.get(R11, COUNT) != COUNT:
            self.found.append(
                Violation(self.at, self.guest(), "", "r11 is not 63 where an instruction begins")
            )
        self.held = {R10: WINDOW, R11: COUNT, R8: OTHER, R9: OTHER}

    def value(self, register: Register_) -> Value:
        return self.held.get(RegisterExt.full_register(register), GUEST)

    def check(self, instruction: Instruction, stated: bool) -> None:
        kind = classify(instruction.code)
        if instruction.is_stack_instruction:
            self.complain(instruction, "it uses the host's stack")
        if not isinstance(kind, Innocuous):
            self.complain(instruction, "it is sensitive")
        if instruction.has_segment_prefix and instruction.segment_prefix != Register.NONE:
            self.complain(instruction, "a segment override")
        if instruction.flow_control not in (FlowControl.NEXT, FlowControl.UNCONDITIONAL_BRANCH,
                                            FlowControl.CONDITIONAL_BRANCH,
                                            FlowControl.INDIRECT_BRANCH):
            self.complain(instruction, "it leaves by itself")
        if instruction.mnemonic == Mnemonic.LEA:
            self.address(instruction)
            return
        if instruction.mnemonic in _STRINGS:
            self.string(instruction)
            return
        for memory in _INFO.info(instruction).used_memory():
            if memory.access != _NO_ACCESS:
                self.access(instruction, stated, memory.access not in _READS)
        self.results(instruction)

    # --- memory

    def access(self, instruction: Instruction, stated: bool, writes: bool) -> None:
        base, index = instruction.memory_base, instruction.memory_index
        disp = instruction.memory_displacement
        disp -= (disp >> 63) << 64
        size = MemorySizeExt.size(instruction.memory_size)
        if instruction.memory_size and RegisterExt.is_vector_register(index):
            self.complain(instruction, "a gather")
            return
        if base == _UNUSED and index == _UNUSED:
            offset = disp - BLOCK
            readable = offset in _SEGMENTS or (offset in _BASES and size == 4)
            if not stated or not (offset in _WRITABLE or (readable and not writes)):
                self.complain(instruction, "a constant address that is no field of the state")
            return
        if index == R9 and instruction.memory_index_scale == 8 and base == _UNUSED:
            if instruction.mnemonic != Mnemonic.JMP or not 0 <= disp - BLOCK - JUMP_TABLE < TABLE_BYTES * 8:
                self.complain(instruction, "a table that is not the jump table")
            return
        if index != _UNUSED and instruction.memory_index_scale != 1:
            self.complain(instruction, "a scaled index")
            return
        parts = sorted(
            (self.value(r) for r in (base, index) if r != _UNUSED), key=lambda v: v.kind
        )
        if not -NEAR <= disp < 1 << 31:
            self.complain(instruction, "a far displacement")
        if any(RegisterExt.size(r) != 8 for r in (base, index) if r != _UNUSED):
            self.complain(instruction, "a 32-bit address")
        match [value.kind for value in parts]:
            case ["base"] | ["base", "guest"] | ["host"]:
                if parts[0].kind == "base" and len(parts) == 2 and disp >= NEAR:
                    self.complain(instruction, "a far displacement")
            case ["checked", "segment"]:
                checked, segment = parts
                if disp or checked.segment != segment.segment:
                    self.complain(instruction, "a check of another segment")
                if checked.size < size or not size:
                    self.complain(instruction, f"{checked.size} bytes were checked, {size} are used")
                if writes and not checked.writes:
                    self.complain(instruction, "a write that was not checked")
            case _:
                self.complain(instruction, f"an address that is no window's: {parts}")

    def string(self, instruction: Instruction) -> None:
        """Check a string instruction on host addresses."""
        size = MemorySizeExt.size(instruction.memory_size)
        for memory in _INFO.info(instruction).used_memory():
            register = RegisterExt.full_register(memory.base)
            value = self.value(register)
            if value.kind != "host":
                self.complain(instruction, "not on host addresses")
            elif value.size and (value.size < size or (memory.access not in _READS and not value.writes)):
                self.complain(instruction, "an element that was not checked")
            elif value.size and (instruction.has_rep_prefix or instruction.has_repne_prefix):
                self.complain(instruction, "a repetition in a segment")

    # --- values

    def address(self, instruction: Instruction) -> None:
        """Follow LEA."""
        target = instruction.op0_register
        base, index = instruction.memory_base, instruction.memory_index
        disp = instruction.memory_displacement
        disp -= (disp >> 63) << 64
        if RegisterExt.size(target) < 8:
            if RegisterExt.full_register(target) in (R9, R8) or target <= Register.R15:
                self.set(instruction, target, GUEST)
            return
        values = [self.value(r) for r in (base, index) if r != _UNUSED]
        kinds = sorted(value.kind for value in values)
        by_kind = {value.kind: value for value in values}
        scale = instruction.memory_index_scale
        if target == R8 and kinds == ["guest", "limit"] and scale == 1:
            old = by_kind["limit"]
            self.held[R8] = Value("limit", old.segment, old.writes, disp + 1)
        elif target == R9 and kinds == ["guest", "sign"] and scale == 1 and not disp:
            old = by_kind["sign"]
            self.held[R9] = Value("checked", old.segment, old.writes, old.size)
        elif kinds == ["checked", "segment"] and not disp \
                and by_kind["checked"].segment == by_kind["segment"].segment \
                and target in (R9, Register.RSI, Register.RDI):
            old = by_kind["checked"]
            self.held[target] = Value("host", old.segment, old.writes, old.size)
        elif kinds in (["base", "guest"], ["base"]) and target in (R9, Register.RSI, Register.RDI) \
                and scale == 1 and not disp:
            self.held[target] = Value("host")
        elif target in (R8, R9):
            self.held[target] = OTHER
        else:
            self.complain(instruction, "a 64-bit sum in a guest register")

    def set(self, instruction: Instruction, register: Register_, value: Value) -> None:
        full = RegisterExt.full_register(register)
        if full == R10 or Register.R12 <= full <= Register.R15:
            self.complain(instruction, f"{full} changes")
        self.held[full] = value

    def results(self, instruction: Instruction) -> None:
        """Note what an instruction leaves in the general registers."""
        for used in _INFO.info(instruction).used_registers():
            if used.access in _READS or used.access == OpAccess.NONE:
                continue
            if not RegisterExt.is_gpr(used.register):
                continue
            full = RegisterExt.full_register(used.register)
            self.set(instruction, full, self.result(instruction, full, used.register))

    def result(self, instruction: Instruction, full: Register_, used: Register_) -> Value:
        scratch = full in (R8, R9, R11)
        wide = instruction.op0_kind == OpKind.REGISTER and RegisterExt.size(instruction.op0_register) == 8
        if instruction.mnemonic == Mnemonic.MOV and wide:
            return self.moved(instruction, full)
        if instruction.mnemonic in (Mnemonic.SHRX, Mnemonic.SHLX) and full == R8 and wide:
            old = self.held[R8]
            if self.held[R11] == COUNT and old.kind == "limit" and instruction.mnemonic == Mnemonic.SHRX:
                return Value("bit", old.segment, old.writes, old.size)
            if self.held[R11] == COUNT and old.kind == "bit":
                return Value("sign", old.segment, old.writes, old.size)
        if scratch:
            narrow = instruction.op0_kind == OpKind.REGISTER and \
                RegisterExt.size(instruction.op0_register) == 4
            if full == R11 and narrow and instruction.mnemonic == Mnemonic.MOV \
                    and instruction.op1_kind == OpKind.IMMEDIATE32 and instruction.immediate32 == 63:
                return COUNT
            return GUEST if narrow or self.held[full] == GUEST and not wide else OTHER
        if wide and used == full:
            self.complain(instruction, "a 64-bit result in a guest register")
        return self.held.get(full, GUEST)

    def moved(self, instruction: Instruction, full: Register_) -> Value:
        """Follow a 64-bit MOV."""
        if instruction.op1_kind == OpKind.MEMORY:
            what = _SEGMENTS.get(instruction.memory_displacement - BLOCK)
            if what is not None and full == R8:
                name, segment = what
                kinds = {"segment_host": Value("base"), "segment_at": Value("segment", segment),
                         "segment_read": Value("limit", segment, False),
                         "segment_write": Value("limit", segment, True)}
                return kinds[name]
            if full in (Register.RSI, Register.RDI) and instruction.memory_displacement - BLOCK in (
                    FIELDS["string_old"], FIELDS["string_old"] + 8):
                return GUEST
            if full in (R8, R9, R11):
                return OTHER
        elif instruction.op1_kind == OpKind.REGISTER:
            value = self.value(instruction.op1_register)
            if full in (R8, R9, R11) or value == GUEST:
                return value
            if full == Register.RCX and value == GUEST:
                return GUEST
        self.complain(instruction, "a 64-bit value in a guest register")
        return OTHER


def verify_narrow(translation: Translation) -> list[Violation]:
    """Return the violations in a translation of 16- or 32-bit code that is not checked."""
    return _Pass(translation).run()
