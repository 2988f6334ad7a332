"""The effects on `Facts` of instructions other than branches: rules 1 to 5."""

from collections.abc import Callable
from typing import Final

from iced_x86 import (
    Code,
    Instruction,
    InstructionInfo,
    MemorySizeExt,
    Mnemonic,
    OpAccess,
    OpKind,
    Register,
    Register_,
    RegisterExt,
    UsedMemory,
)

from ringlet.translate.translator import BLOCK, KEYS, SOURCE, Relocation, Translation
from ringlet.translate.verify.narrow.allowed import (
    FACTORY,
    WRITES,
    address,
    allow,
    is_wide,
    through_gs,
    written,
)
from ringlet.translate.verify.narrow.fields import (
    FIELDS,
    is_open,
    load_field,
    set_interrupts,
    store_field,
)
from ringlet.translate.verify.narrow.sums import SIZE_64K, address_sum, takes_back, target_sum
from ringlet.translate.verify.narrow.values import (
    COUNT,
    GUEST,
    NONE,
    OTHER,
    R9,
    R11,
    SCRATCH,
    SECRET,
    SHORT,
    Facts,
    Kind,
    UnsoundError,
    Value,
    displacement,
    full,
)

COUNT_OF_BITS: Final = 63
HALF: Final = 32

NEAR: Final = 1 << 28
"""Displacements beside a value of 32 bits are below this."""

_CPL: Final = KEYS["cpl"]

_WIDEST: Final = 64
"""No operand has more bytes."""
_READS: Final = frozenset(
    {OpAccess.READ, OpAccess.READ_WRITE, OpAccess.COND_READ, OpAccess.READ_COND_WRITE}
)
_NO_ACCESS: Final = frozenset({OpAccess.NONE, OpAccess.NO_MEM_ACCESS})
_IMMEDIATES: Final = frozenset({OpKind.IMMEDIATE32, OpKind.IMMEDIATE32TO64})
_BITS: Final = frozenset({Mnemonic.BT, Mnemonic.BTS, Mnemonic.BTR, Mnemonic.BTC})
_HIGH_BYTES: Final = frozenset({Register.AH, Register.CH, Register.DH, Register.BH})
_STRING_REGISTERS: Final = {Register.RSI: 0, Register.RDI: 1}


class Effects:
    """Carries out the instructions of a translation on facts.

    `uses` collects the offsets of the relocations that belong to an instruction.
    """

    def __init__(self, translation: Translation) -> None:
        self._t = translation
        self._relocated = {at: (kind, value) for at, kind, value in translation.relocations}
        self.uses: set[int] = set()
        self._rules: dict[int, Callable[[Facts, Instruction, int], None]] = {
            Code.MOV_R64_RM64: self._move,
            Code.MOV_RM64_R64: self._move,
            Code.MOV_R64_IMM64: self._constant,
            Code.MOV_RM64_IMM32: self._name_operation,
            Code.NOT_RM64: self._invert,
            Code.VEX_SHRX_R64_RM64_R64: self._isolate,
            Code.VEX_SHLX_R64_RM64_R64: self._isolate,
            Code.VEX_RORX_R64_RM64_IMM8: self._rotate,
            Code.VEX_PDEP_R64_R64_RM64: self._place,
            Code.LEA_R16_M: self._lea,
            Code.LEA_R32_M: self._lea,
            Code.LEA_R64_M: self._lea,
            Code.XCHG_RM64_R64: self._exchange,
        }

    def relocation(self, at: int) -> tuple[int, int]:
        """Return the kind and value of the relocation at an offset, and note its use."""
        self.uses.add(at)
        return self._relocated.get(at, (NONE, NONE))

    def step(self, s: Facts, i: Instruction, data: bytes, at_displacement: int) -> None:
        """Carry out `i`, which is no branch and whose bytes are `data`.  Raises UnsoundError."""
        if i.code == Code.RDTSC and not self._t.key & _CPL:
            self._results(s, i)
            return
        allow(i)
        if i.segment_prefix and (i.is_string_instruction or i.code in self._rules):
            raise UnsoundError("it has a segment override")
        self._copied(i, at_displacement)
        if i.is_string_instruction:
            self._string(s, i, data)
        elif i.code in self._rules:
            self._rules[i.code](s, i, at_displacement)
        else:
            self._other(s, i, data, at_displacement)

    def _copied(self, i: Instruction, at_displacement: int) -> None:
        """Note the relocation of a field that the guest's bytes give, which may be anything.

        It is an immediate, or LEA's displacement.  `_other` notes one in GS, which wraps around.
        """
        fields = [at_displacement] if i.mnemonic == Mnemonic.LEA else []
        if i.op_count and i.op_kind(i.op_count - 1) in _IMMEDIATES:
            fields.append(i.next_ip - 4)
        self.uses.update(at for at in fields if self._is_copied(at))

    def _is_copied(self, at: int) -> bool:
        return self._relocated.get(at, (NONE, NONE))[0] == Relocation.FIELD

    # --- memory

    def _field(self, i: Instruction, at_displacement: int) -> int | None:
        """Return the offset in the state block that the operand names, None if it names none."""
        if i.memory_base or i.memory_index:
            return None
        offset = displacement(i) - BLOCK
        if self.relocation(at_displacement) != (Relocation.STATE, offset):
            raise UnsoundError("its constant address has no relocation")
        return offset

    def _access(self, s: Facts, i: Instruction, m: UsedMemory) -> None:
        """Raise unless the access is in the window or a checked part of a segment."""
        size = MemorySizeExt.size(m.memory_size)
        writes = m.access in WRITES
        moved = displacement(i) if OpKind.MEMORY in _kinds(i) else 0
        bits = i.mnemonic in _BITS and i.op1_kind == OpKind.REGISTER
        if m.index and m.scale != 1:
            raise UnsoundError("its index is scaled")
        parts = [s.value(register) for register in (m.base, m.index) if register]
        kinds = {value.kind for value in parts}
        if kinds == {Kind.SOURCE} and len(parts) == 1:
            self._source(parts[0], moved, size, writes or bits)
            return
        s.guest_is_whole()
        if len(parts) == 1 and kinds <= {Kind.WINDOW}:
            sound = -NEAR < moved < 1 << 31
        elif len(parts) == 2 and Kind.WINDOW in kinds:
            sound = any(value.is_guest for value in parts) and -NEAR < moved < NEAR
        elif len(parts) == 2 and Kind.REGION in kinds:
            sound = any(value.is_guest for value in parts) and not moved
        elif Kind.PARAGRAPH in kinds:
            _in_paragraph(parts, moved, size, writes, bits)
            sound = True
        elif kinds == {Kind.HOST} and len(parts) == 1:
            sound = not moved or 0 <= moved <= parts[0].size - size
            if parts[0].size:
                _within(parts[0], size, writes, bits)
        elif kinds == {Kind.CHECKED, Kind.SEGMENT}:
            checked, segment = sorted(parts, key=lambda value: value.kind is Kind.SEGMENT)
            sound = not moved
            if checked.segment != segment.segment:
                raise UnsoundError("the check is of another segment")
            _within(checked, size, writes, bits)
        else:
            sound = False
        if not sound:
            raise UnsoundError("its address is not in the window")

    def _source(self, value: Value, moved: int, size: int, more: bool) -> None:
        """Raise unless the access reads bytes from which the translation was made.

        `more`: it writes, or reads elsewhere too.
        """
        end = value.size + size
        if not self._t.checked or more or moved or not value.size < end <= self._t.guest_bytes:
            raise UnsoundError("it does not read the guest's bytes")

    def _string(self, s: Facts, i: Instruction, data: bytes) -> None:
        """Move RSI and RDI, which hold host addresses, by one element or more."""
        if is_wide(i, data):
            raise UnsoundError("its operand has 64 bits")
        memory = [m for m in FACTORY.info(i).used_memory() if m.access not in _NO_ACCESS]
        moved = {}
        for m in memory:
            address(m)
            slot = _STRING_REGISTERS.get(m.base)
            value = s.value(m.base)
            if slot is None or value.kind is not Kind.HOST or m.index:
                raise UnsoundError("a string instruction does not run on host addresses")
            if s.scratch[slot] != Value(Kind.BACK, origin=value.origin):
                raise UnsoundError("nothing takes a string's address back to the guest's")
            if value.size:
                _within(value, MemorySizeExt.size(i.memory_size), m.access in WRITES, False)
            moved[m.base] = Value(Kind.PASSED, origin=value.origin)
        s.guest_is_whole(moved)
        for register, value in moved.items():
            s.set(register, value)
        self._results(s, i, skip=frozenset(moved))

    # --- values

    def _move(self, s: Facts, i: Instruction, at_displacement: int) -> None:
        """Carry out a 64-bit MOV between registers, or a register and the state."""
        if i.op0_kind == OpKind.REGISTER and i.op1_kind == OpKind.REGISTER:
            s.set(i.op0_register, s.value(i.op1_register))
            return
        loads = i.op0_kind == OpKind.REGISTER
        register = i.op0_register if loads else i.op1_register
        offset = self._field(i, at_displacement)
        if offset is None:
            base = i.memory_base if RegisterExt.is_gpr64(i.memory_base) else Register.NONE
            if not loads or s.value(base).kind is not Kind.SOURCE or i.memory_index:
                raise UnsoundError("a 64-bit access is not for 16- or 32-bit code")
            self._source(s.value(base), displacement(i), 8, False)
            s.set(register, OTHER)
        elif loads:
            load_field(s, register, offset, self._t.key)
        else:
            store_field(s, s.value(register).alone, offset, self._t.key)

    def _constant(self, s: Facts, i: Instruction, _: int) -> None:
        at = i.next_ip - 8
        kind, value = self._relocated.get(at, (NONE, NONE))
        if kind == NONE:
            # The base of CS, in the upper half: a translation alone has EIP = linear address.
            s.set(i.op0_register, OTHER if i.immediate64 else Value(Kind.BASE))
            return
        self.uses.add(at)
        if kind != Relocation.SOURCE or i.immediate64 != SOURCE + value or value < 0:
            raise UnsoundError("a constant has a relocation that is not for it")
        s.set(i.op0_register, Value(Kind.SOURCE, size=value))

    def _exchange(self, s: Facts, i: Instruction, _: int) -> None:
        first, second = i.op0_register, i.op1_register
        values = s.value(first), s.value(second)
        if i.op0_kind != OpKind.REGISTER or not all(value.is_public for value in values):
            raise UnsoundError("it exchanges what is no value of the guest")
        s.set(first, values[1].alone)
        s.set(second, values[0].alone)

    def _name_operation(self, s: Facts, i: Instruction, at_displacement: int) -> None:
        """Carry out a 64-bit MOV of a constant to the state: of an operation, or of IF."""
        field = self._field(i, at_displacement) if i.op0_kind == OpKind.MEMORY else None
        if set_interrupts(i, field, self._t.key):
            return
        if field != FIELDS["op_info"]:
            raise UnsoundError("a 64-bit constant is not for 16- or 32-bit code")
        kind, value = self.relocation(i.next_ip - 4)
        if kind != Relocation.OP:
            raise UnsoundError("an operation has no relocation")
        s.operation = value

    def _invert(self, s: Facts, i: Instruction, _: int) -> None:
        value = s.value(i.op0_register) if i.op0_kind == OpKind.REGISTER else SECRET
        if value.kind not in (Kind.HOST, Kind.WINDOW):
            raise UnsoundError("it inverts what is no host address")
        s.set(i.op0_register, Value(Kind.INVERTED, origin=value.origin))

    def _isolate(self, s: Facts, i: Instruction, _: int) -> None:
        """Carry out SHRX by 63, then SHLX by 63, which leave bit 63 alone."""
        right = i.code == Code.VEX_SHRX_R64_RM64_R64
        value = s.value(i.op0_register)
        if (
            i.op1_register != i.op0_register
            or s.value(i.op2_register) != COUNT
            or value.kind is not (Kind.LIMIT if right else Kind.BIT)
        ):
            raise UnsoundError("a 64-bit shift is no part of a check")
        s.set(i.op0_register, value.after(Kind.BIT if right else Kind.SIGN))

    def _rotate(self, s: Facts, i: Instruction, _: int) -> None:
        if i.op1_kind != OpKind.REGISTER or not s.value(i.op1_register).is_public:
            raise UnsoundError("it computes with a host address")
        turned = i.immediate8 == HALF and s.value(i.op1_register).is_guest
        s.set(i.op0_register, Value(Kind.BASE) if turned else OTHER)

    def _place(self, s: Facts, i: Instruction, at_displacement: int) -> None:
        """Carry out PDEP, which moves bit 16 of an offset."""
        value = s.value(i.op1_register)
        if (
            i.op2_kind != OpKind.MEMORY
            or self._field(i, at_displacement) != FIELDS["deposit"]
            or value.kind is not Kind.SPAN
        ):
            raise UnsoundError("PDEP is no part of a check")
        s.set(i.op0_register, value.after(Kind.PLACED))

    def _lea(self, s: Facts, i: Instruction, at_displacement: int) -> None:
        registers = [r for r in (i.memory_base, i.memory_index) if r]
        if i.is_ip_rel_memory_operand or any(not RegisterExt.is_gpr64(r) for r in registers):
            raise UnsoundError("its sum is not one of 64-bit registers")
        size = RegisterExt.size(i.op0_register)
        copied = self._is_copied(at_displacement)
        parts = [s.value(register) for register in registers]
        if all(value.is_public for value in parts):
            if size == 2:
                self._partly(s, i.op0_register, 2)
            elif size == 4:
                span = len(parts) == 1 and i.memory_base and parts[0].kind is Kind.SHORT
                by = displacement(i) if span and not copied else 0
                made = GUEST
                if 0 < abs(by) < _WIDEST:
                    made = Value(Kind.SPAN if by > 0 else Kind.FIRST, size=abs(by) + 1)
                s.set(i.op0_register, made)
            else:
                s.set(i.op0_register, OTHER if copied else target_sum(i, parts))
            return
        if copied:
            raise UnsoundError("its displacement may be anything, by its relocation")
        alone = i.memory_index_scale == 1 and len(parts) <= 2
        moved = displacement(i)
        guest = [(r, v) for r, v in zip(registers, parts, strict=True) if v.is_guest]
        made = SECRET
        if size == 4 and alone and not moved and takes_back(parts):
            made = GUEST
        elif size != 8:
            raise UnsoundError("it computes with a host address")
        elif alone:
            host = next(value for value in parts if not value.is_public)
            made = address_sum(host, parts, guest, i, moved)
        s.set(i.op0_register, made)

    def _partly(self, s: Facts, register: Register_, size: int) -> None:
        """Note a result of 1 or 2 bytes."""
        value = s.value(register)
        if value.is_guest:
            s.set(register, GUEST)
        elif value.kind is Kind.OTHER:
            s.set(register, OTHER)
        else:
            high = register in _HIGH_BYTES
            s.set(register, SECRET if high else Value(Kind.PART, size=size))

    def _other(self, s: Facts, i: Instruction, data: bytes, at_displacement: int) -> None:
        """Carry out an instruction that has no rule of its own."""
        if is_wide(i, data):
            raise UnsoundError("its operand has 64 bits")
        info = FACTORY.info(i)
        for m in info.used_memory():
            if m.access in _NO_ACCESS:
                continue
            if through_gs(m):
                _in_gs(i)
                if self._is_copied(at_displacement):
                    self.uses.add(at_displacement)
                s.guest_is_whole()
                continue
            address(m)
            if not m.base and not m.index:
                self._state(s, i, at_displacement)
            else:
                self._access(s, i, m)
        self._operands(s, i, info)
        if i.code == Code.MOV_RM32_IMM32:
            self._immediate(i)
        self._results(s, i)
        if i.code == Code.MOV_R32_IMM32 and i.op0_register == Register.R11D:
            counts = i.immediate32 == COUNT_OF_BITS and not self._is_copied(i.next_ip - 4)
            s.set(R11, COUNT if counts else GUEST)
        if i.code == Code.MOVZX_R32_RM16 and i.op1_kind == OpKind.REGISTER:
            source = full(i.op1_register)
            known = source in SCRATCH and source != full(i.op0_register)
            s.set(i.op0_register, Value(Kind.LOW16, register=source) if known else SHORT)
        if i.code == Code.MOV_R32_IMM32 and full(i.op0_register) == R9:
            short = i.immediate32 <= 0xFFFF and not self._is_copied(i.next_ip - 4)
            s.set(R9, SHORT if short else GUEST)

    def _immediate(self, i: Instruction) -> None:
        """Note the relocation of a return address, which may be anything of the guest."""
        if self._relocated.get(i.next_ip - 4, (NONE, 0))[0] == Relocation.RIP32:
            self.uses.add(i.next_ip - 4)

    def _state(self, s: Facts, i: Instruction, at_displacement: int) -> None:
        """Raise unless it accesses a field that is open to the guest, or names the fragment."""
        offset = self._field(i, at_displacement)
        if is_open(i, offset, self._t.key):
            return
        if i.code != Code.MOV_RM32_IMM32 or offset != FIELDS["exit_arg"]:
            raise UnsoundError("it accesses a field of the state that it may not")
        if self.relocation(i.next_ip - 4) != (Relocation.FRAGMENT, 0):
            raise UnsoundError("a fragment's number has no relocation")
        s.fragment = True

    def _operands(self, s: Facts, i: Instruction, info: InstructionInfo) -> None:
        """Raise if the instruction reads, as data, what was made with a host address."""
        for number in range(i.op_count):
            if i.op_kind(number) == OpKind.REGISTER and info.op_access(number) in _READS:
                self._readable(s, i.op_register(number))
        in_addresses = {r for m in info.used_memory() for r in (m.base, m.index)}
        for used in info.used_registers():
            if used.access in _READS and used.register not in in_addresses:
                self._readable(s, used.register)

    def _readable(self, s: Facts, register: Register_) -> None:
        if RegisterExt.is_gpr(register) and not s.value(register).is_readable(
            RegisterExt.size(register)
        ):
            raise UnsoundError("it computes with a host address")

    def _results(
        self, s: Facts, i: Instruction, skip: frozenset[Register_] = frozenset()
    ) -> None:
        """Note what the instruction, whose operands have at most 32 bits, leaves in registers."""
        for register, sure in written(i):
            if full(register) in skip:
                continue
            if RegisterExt.size(register) <= 2:
                self._partly(s, register, RegisterExt.size(register))
            elif sure or s.value(register).is_guest:
                s.set(register, GUEST)
            else:
                s.set(register, SECRET)


def _kinds(i: Instruction) -> list[int]:
    return [i.op_kind(number) for number in range(i.op_count)]


def _in_paragraph(parts: list[Value], moved: int, size: int, writes: bool, bits: bool) -> None:
    """Raise unless the operand is in a segment of 64 KiB."""
    segment = next(value for value in parts if value.kind is Kind.PARAGRAPH)
    checked = next((value for value in parts if value.placed), OTHER)
    begin = moved + checked.ahead
    covered, sound = checked.placed - begin, 0 <= begin < checked.placed
    if len(parts) == 1:
        covered, sound = SIZE_64K - moved, 0 <= moved < SIZE_64K
    if not sound:
        raise UnsoundError("its offset is no checked one in a segment of 64 KiB")
    _within(Value(Kind.HOST, writes=segment.writes, size=covered), size, writes, bits)


def _in_gs(i: Instruction) -> None:
    """Raise if the instruction accesses memory beside its address, or computes with GS's base."""
    if i.mnemonic in _BITS and i.op1_kind == OpKind.REGISTER:
        raise UnsoundError("a string of bits is accessed in GS")


def _within(value: Value, size: int, writes: bool, bits: bool) -> None:
    """Raise unless the check behind `value` covers the access."""
    if bits:
        raise UnsoundError("a string of bits is accessed in a segment")
    if not 0 < size <= value.size:
        raise UnsoundError(f"{value.size} bytes were checked, {size} are accessed")
    if writes and not value.writes:
        raise UnsoundError("a write was not checked")
