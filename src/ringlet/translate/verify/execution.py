"""The effects on `Facts` of instructions other than branches: rules 1, 2, 5 and 6."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from iced_x86 import Instruction, RegisterExt

from ringlet.core import state
from ringlet.translate.translator import (
    BLOCK,
    NEGATED_SLOTS,
    PREDICTIONS,
    SLOTS,
    SOURCE,
    TABLE_BYTES,
    Relocation,
)
from ringlet.translate.verify.facts import (
    ABOVE,
    BELOW,
    SCRATCH,
    SPILLED,
    Comparison,
    Cover,
    Facts,
    UnsoundError,
    add_cover,
    as_form,
    slot_of,
    symbol_of,
)
from ringlet.translate.verify.forms import (
    MASK,
    U32,
    ZERO,
    Form,
    Symbols,
    add,
    constant,
    minus,
    shift,
    signed,
    times,
)
from ringlet.translate.verify.plan import NONE, RSP, Access, Kind, Plan

GUARD: Final = 40 << 30
"""How far beyond a region an address may lie (docs/adr/0001)."""

_INDEX32: Final = (-(1 << 31), (1 << 31) - 1)
_SLOT_BYTES: Final = 1 << 36
_MANY_TERMS: Final = 8
_PLAIN_LOADS: Final = frozenset(
    {"cr2", "fs_base", "gs_base", "iflag", "kernel_gs_base", "rflags", "tsc_offset"}
)
_KNOWN: Final = _PLAIN_LOADS | {
    "rsp_naddend", "fs_host", "gs_host", "arith_mask", "ea", "op_info", "exit_arg", "intr",
}  # fmt: skip


def _fields() -> dict[int, str]:
    named = state.offsets()
    found = {at: name for name, at in named.items() if name in _KNOWN}
    found.update({named["gpr"] + 8 * number: f"gpr{number}" for number in SPILLED})
    found.update({named["scratch"] + 8 * n: f"scratch{n}" for n in range(4)})
    return found


_FIELDS: Final = _fields()


class Execution:
    """Carries out instructions on facts.

    `user` is 1 at CPL 3; `relocated` gives the kind and value of the relocation at an offset.  A
    fragment that checks its guest bytes may read `compared_bytes` of them directly.
    """

    def __init__(
        self,
        symbols: Symbols,
        user: int,
        relocated: dict[int, tuple[int, int]],
        compared_bytes: int,
    ) -> None:
        self._y = symbols
        self._user = user
        self._relocated = relocated
        self._compared_bytes = compared_bytes
        self._source = symbols.computed("source", host=True)
        self._fixed: dict[int, int] = {}  # addends of constant slots
        self._rules: dict[Kind, Callable[[Facts, Instruction, Plan], None]] = {
            Kind.ALIGN: self._align,
            Kind.LEA: self._lea,
            Kind.LOW16: self._low16,
            Kind.EXCHANGE: self._exchange,
            Kind.COMPARE: self._compare,
            Kind.STORE: self._store,
            Kind.STORE_CONSTANT: self._store_constant,
            Kind.ADD_MEMORY: self._add_memory,
            Kind.STRING: self._string,
            Kind.BITS: self._bits,
            Kind.PROBE: self._probe,
            Kind.LOAD16: self._load16,
            Kind.EXTEND_SIGN: self._extend_sign,
            Kind.OTHER: self._other,
        }
        self._values: dict[Kind, Callable[[Facts, Plan], Form]] = {
            Kind.MOVE: lambda s, p: s.registers[p.second],
            Kind.MOVE32: lambda s, p: self._low32(s.registers[p.second]),
            Kind.CONSTANT: lambda _, p: constant(p.constant),
            Kind.ADD: lambda s, p: shift(s.registers[p.first], p.constant),
            Kind.RORX: lambda s, p: self._computed("rot", p.constant, s.registers[p.second]),
            Kind.SARX: self._sarx,
            Kind.MOVSXD: lambda s, p: self._signed32(s.registers[p.second]),
            Kind.SWAP: self._swap,
            Kind.LOAD: self._load,
        }

    def step(self, s: Facts, i: Instruction, p: Plan) -> None:
        """Carry out `i`, which is no branch.  Raises UnsoundError."""
        s.compared = None
        value = self._values.get(p.kind)
        kind, at = self._relocation(i.next_ip - 8)
        if p.kind is Kind.CONSTANT and kind == Relocation.SOURCE and p.constant == SOURCE + at:
            s.registers[p.first] = shift(self._source, at)
        elif value is not None:
            s.registers[p.first] = value(s, p)
        else:
            self._rules[p.kind](s, i, p)

    def _relocation(self, at: int) -> tuple[int, int]:
        return self._relocated.get(at, (NONE, NONE))

    def guest_value(self, form: Form) -> None:
        """Raise unless the value may be the guest's (rule 5)."""
        if self._y.is_host(form):
            raise UnsoundError("it computes with, or gives away, a host address")

    def table_index(self, access: Access, tables: Sequence[int]) -> int | None:
        """Return the constant index in a table, NONE if a register holds it, None if no table."""
        offset = access.displacement - BLOCK - tables[self._user]
        if access.base != NONE:
            return None
        if access.index == NONE:
            return offset // 8 if 0 <= offset < TABLE_BYTES and offset % 8 == 0 else None
        return NONE if offset == 0 and access.scale == 8 else None

    def reach(self, s: Facts, addend: int, value: Form) -> Iterator[tuple[int, int]]:
        """Yield how far `value` may be below and above each cover of `addend` (rule 2)."""
        if addend in self._fixed:
            start = signed(self._fixed[addend] << 48) >> 12
            bounds = self._y.bounds(minus(value, constant(start)))
            if bounds is not None:
                yield max(-bounds[0], 0), max(bounds[1] - _SLOT_BYTES + 1, 0)
        for cover in s.covers.get(addend, ()):
            bounds = self._y.bounds(minus(value, cover.value))
            if bounds is not None:
                yield max(cover.below - bounds[0], 0), max(cover.above + bounds[1], 0)

    def near(self, s: Facts, addend: int, value: Form) -> bool:
        """Whether the value is in the addend's slot, or within `BELOW` and `ABOVE` of it."""
        return any(
            below <= BELOW and above <= ABOVE for below, above in self.reach(s, addend, value)
        )

    # --- values

    def _computed(self, word: str, number: int, value: Form) -> Form:
        self.guest_value(value)
        return self._y.computed(word, number, value)

    def _signed32(self, value: Form) -> Form:
        self.guest_value(value)
        return self._y.computed("signed32", value, bounds=_INDEX32)

    def _low32(self, value: Form) -> Form:
        self.guest_value(value)
        if self._y.is_u32(value):
            return value
        return self._y.computed("low32", value, bounds=U32)

    def _sarx(self, s: Facts, p: Plan) -> Form:
        count = s.registers[p.constant]
        self.guest_value(s.registers[p.second])
        self.guest_value(count)
        if count[1]:
            return self._y.fresh()
        return self._y.computed("sar", count[0] & 63, s.registers[p.second])

    def _swap(self, s: Facts, p: Plan) -> Form:
        """Return the swapped value; a second swap restores the original."""
        value = s.registers[p.first]
        swapped = self._y.how(value, "swapped")
        bounds = U32 if self._y.is_u32(value) else None
        self.guest_value(value)
        return as_form(swapped[1]) if swapped else self._y.computed("swapped", value, bounds=bounds)

    def _load(self, s: Facts, p: Plan) -> Form:
        access = p.accesses[0]
        if access.base != NONE:
            self._access(s, access)
            return self._y.fresh()
        for tables, sign in ((SLOTS, 1), (NEGATED_SLOTS, MASK)):
            index = self.table_index(access, tables)
            if index is not None:
                return times(self._addend(s, access, index), sign)
        return self._load_field(s, self._field(access))

    def _addend(self, s: Facts, access: Access, index: int) -> Form:
        if index != NONE:
            found = self._y.computed("entry", index, host=True)
            self._fixed[symbol_of(found)] = index
            return found
        made = self._y.how(s.registers[access.index], "slot")
        if made is None:
            raise UnsoundError("the index of a slot is not made of an address's bits 51..36")
        value = as_form(made[1])
        found = self._y.computed("addend", value, host=True)
        s.covers.setdefault(symbol_of(found), (Cover(value),))
        return found

    def _load_field(self, s: Facts, name: str) -> Form:
        if name.startswith("gpr"):
            return s.spilled[SPILLED.index(int(name[3:]))]
        if name.startswith("scratch"):
            return s.scratch[int(name[7:])]
        if name == "rsp_naddend":
            return s.naddend
        if name in ("fs_host", "gs_host"):
            found = self._y.computed(name, host=True)
            s.covers[symbol_of(found)] = (Cover(ZERO),)
            return found
        if name in _PLAIN_LOADS:
            return self._y.fresh()
        raise UnsoundError("it reads a field of the state that it may not")

    # --- rules

    def _align(self, s: Facts, _: Instruction, p: Plan) -> None:
        s.registers[p.first] = add(s.registers[p.first], self._y.fresh((-127, 0)))

    def _lea(self, s: Facts, i: Instruction, p: Plan) -> None:
        form = constant(i.memory_displacement)
        wide = True
        for register, scale in ((i.memory_base, 1), (i.memory_index, i.memory_index_scale)):
            if register:
                number = RegisterExt.number(RegisterExt.full_register(register))
                form = add(form, times(s.registers[number], scale))
                wide = wide and RegisterExt.is_gpr64(register)
        if p.constant == 8 and wide:
            long = len(form[1]) > _MANY_TERMS and not self._y.is_host(form)
            s.registers[p.first] = self._y.fresh() if long else form
            return
        self.guest_value(form)
        if p.constant == 2:
            self._write(s, p)
        else:
            s.registers[p.first] = self._y.computed("low32", form, bounds=U32)

    def _low16(self, s: Facts, _: Instruction, p: Plan) -> None:
        value = s.registers[p.second]
        rotated = self._y.how(value, "rot")
        self.guest_value(value)
        if rotated is not None and rotated[1] == 36:
            s.registers[p.first] = slot_of(self._y, as_form(rotated[2]))
        else:
            s.registers[p.first] = self._y.computed("low16", value, bounds=(0, 0xFFFF))

    def _exchange(self, s: Facts, _: Instruction, p: Plan) -> None:
        r = s.registers
        r[p.first], r[p.second] = r[p.second], r[p.first]

    def _compare(self, s: Facts, _: Instruction, p: Plan) -> None:
        left = s.registers[p.first]
        right = constant(p.constant) if p.second == NONE else s.registers[p.second]
        self.guest_value(left)
        self.guest_value(right)
        s.compared = Comparison(left, right, 16 if p.second != NONE and p.constant == 16 else 64)

    def _store(self, s: Facts, _: Instruction, p: Plan) -> None:
        access, value = p.accesses[0], s.registers[p.first]
        name = self._field(access)
        if name == "rsp_naddend":
            s.naddend = value
            return
        if name.startswith("scratch"):
            s.scratch[int(name[7:])] = value
            return
        if name == "gs_host":
            self._new_gs_host(s, value)
            return
        self.guest_value(value)
        if access.base != NONE:
            self._access(s, access)
        elif name.startswith("gpr"):
            s.spilled[SPILLED.index(int(name[3:]))] = value
        elif name == "gs_base" and not self._user:
            s.gs_base = value
        elif name != "ea" and (name != "kernel_gs_base" or self._user):
            raise UnsoundError("it writes a field of the state that it may not")

    def _new_gs_host(self, s: Facts, value: Form) -> None:
        """Raise unless the value is the new base of GS with its addend (rule 9)."""
        split = self._y.split(value)
        if split is None or split[1] != s.gs_base or (0, 0) not in self.reach(s, *split):
            raise UnsoundError("it is not GS's base and its addend")
        s.gs_base = None

    def _store_constant(self, s: Facts, i: Instruction, p: Plan) -> None:
        access = p.accesses[0]
        if access.base != NONE:
            self._access(s, access)
            return
        name = self._field(access)
        if name == "op_info":
            kind, value = self._relocation(i.next_ip - 4)
            if kind != Relocation.OP:
                raise UnsoundError("an operation has no relocation")
            s.operation = value
        elif name == "exit_arg":
            if self._relocation(i.next_ip - 4) != (Relocation.FRAGMENT, 0):
                raise UnsoundError("a fragment's number has no relocation")
            s.fragment = True
        elif name.startswith("gpr"):
            whole = access.size == 8
            s.spilled[SPILLED.index(int(name[3:]))] = (
                constant(p.constant) if whole else self._y.fresh()
            )
        elif name != "iflag" or p.constant not in (0, 0x200) or self._user:
            raise UnsoundError("it writes a field of the state that it may not")

    def _add_memory(self, s: Facts, i: Instruction, p: Plan) -> None:
        name = self._field(p.accesses[0])
        if not name.startswith("gpr"):
            self._other(s, i, p)
            return
        index = SPILLED.index(int(name[3:]))
        s.spilled[index] = shift(s.spilled[index], p.constant)

    def _string(self, s: Facts, _: Instruction, p: Plan) -> None:
        """Move RSI and RDI by the accessed bytes; they still contain the addend."""
        kept = {}
        for access in p.accesses:
            self._access(s, access, performed=False)
            split = self._y.split(s.registers[access.base])
            if split is None:
                raise UnsoundError("a string's address has no addend")
            kept[access.base] = split[0]
        for register in p.reads:
            if register not in kept:
                self.guest_value(s.registers[register])
        self._write(s, p)
        for register, addend in kept.items():
            s.registers[register] = add(self._y.fresh(), (0, ((addend, 1),)))

    def _bits(self, s: Facts, _: Instruction, p: Plan) -> None:
        offset = s.registers[p.first]
        self.guest_value(offset)
        if p.constant == 8:
            extra = times(self._y.computed("sar", 6, offset), 8)
        elif p.constant == 4:
            extra = times(self._y.computed("sar", 5, self._signed32(offset)), 4)
        else:
            raise UnsoundError("it is a string of bits in 16-bit units")
        self._access(s, p.accesses[0], extra)
        self._write(s, p)

    def _probe(self, s: Facts, _: Instruction, __: Plan) -> None:
        """Bind RSP as the table would, whether the probe was performed or skipped (rule 3)."""
        split = self._y.split(s.registers[RSP])
        if split is None or s.naddend != (0, ((split[0], MASK),)):
            raise UnsoundError("RSP is not a value and the addend that the probe's fault asks for")
        if not any(b <= GUARD and a < GUARD for b, a in self.reach(s, *split)):
            raise UnsoundError("it may reach beyond the guards")
        add_cover(s, split[0], Cover(split[1]))
        s.registers[SCRATCH[0]] = self._y.fresh(host=True)

    def _load16(self, s: Facts, i: Instruction, p: Plan) -> None:
        """Read a predicted slot, which may be any number of 16 bits, or other memory."""
        if not self._predicts(p.accesses[0]):
            self._other(s, i, p)
            return
        found = self._y.fresh((0, 0xFFFF))
        self._y.made[symbol_of(found)] = ("predicted",)
        s.registers[p.first] = found

    def _extend_sign(self, s: Facts, i: Instruction, p: Plan) -> None:
        self._other(s, i, p)
        s.registers[p.first] = self._y.fresh(_INDEX32)

    def _predicts(self, access: Access) -> bool:
        """Whether the access is to predictions, which may hold anything but host addresses."""
        at = access.displacement - BLOCK
        return access.constant and at in PREDICTIONS and at + access.size <= PREDICTIONS.stop

    def _other(self, s: Facts, _: Instruction, p: Plan) -> None:
        for access in p.accesses:
            if access.base != NONE:
                self._access(s, access)
            elif not self._predicts(access):
                self._operate(s, self._field(access), access)
        for register in p.reads:
            self.guest_value(s.registers[register])
        self._write(s, p)
        if p.stack:
            s.registers[RSP] = shift(s.registers[RSP], p.stack)

    def _operate(self, s: Facts, name: str, access: Access) -> None:
        """Check an operand in the state block: a spilled register, a constant, or `intr`."""
        if name.startswith("gpr") and access.size <= 8:
            if access.written:
                s.spilled[SPILLED.index(int(name[3:]))] = self._y.fresh()
        elif ((name, access.size) != ("intr", 4) and name != "arith_mask") or access.written:
            raise UnsoundError("it reads or writes a field of the state that it may not")

    def _write(self, s: Facts, p: Plan) -> None:
        """Put new, unknown values into the registers that an instruction writes."""
        for register, extended, kept in p.writes:
            if register == RSP:
                raise UnsoundError("it gives RSP a value of its own")
            old = s.registers[register]
            if kept:
                self.guest_value(old)
            zero = extended or (kept and self._y.is_u32(old))
            s.registers[register] = self._y.fresh(U32 if zero else None)

    # --- memory

    def _field(self, access: Access) -> str:
        name = _FIELDS.get(access.displacement - BLOCK) if access.constant else None
        return name or ""

    def _access(self, s: Facts, access: Access, extra: Form = ZERO, performed: bool = True) -> None:
        """Raise unless the access goes through an addend (rule 1)."""
        form = shift(add(s.registers[access.base], extra), access.displacement)
        if access.index != NONE:
            form = add(form, times(s.registers[access.index], access.scale))
        if access.lanes:
            form = add(form, times(self._y.fresh(_INDEX32), access.scale))
        split = self._y.split(form)
        if split == (symbol_of(self._source), constant(form[0])):
            if access.written or form[0] + access.size > self._compared_bytes:
                raise UnsoundError("it does not only read the bytes that it is made of")
            return
        if split is None:
            raise UnsoundError("its address is not a value and one addend")
        addend, value = split
        reaches = list(self.reach(s, addend, value))
        if not reaches:
            raise UnsoundError("its addend is another address's, or an index is not bounded")
        if not any(b <= GUARD and a + access.size <= GUARD for b, a in reaches):
            raise UnsoundError("it may reach beyond the guards")
        if performed and access.sure:
            # The access did not fault, so it was in the slot.
            add_cover(s, addend, Cover(value))
