"""`Facts`: the verifier's knowledge at one point of a path, and its merging where paths meet."""

from dataclasses import dataclass
from typing import Final, NamedTuple

from ringlet.translate.verify.forms import MASK, U32, ZERO, Form, Symbols, add, times
from ringlet.translate.verify.plan import RSP

SPILLED: Final = (8, 9, 10, 11)
"""Guest registers that live in the state block."""
IN_HOST: Final = (0, 1, 2, 3, 5, 6, 7, 12, 13, 14, 15)
"""Guest registers that live in the host registers of their numbers."""
SCRATCH: Final = (8, 9)
BELOW: Final = (1 << 35) + (1 << 31) + (1 << 26)
"""How far an accessed value may be below its slot: by index * 8 and more."""
ABOVE: Final = (1 << 31) + (1 << 26)
"""How far an accessed value may be above its slot."""
WINDOWS: Final = (10, 11)
"""The registers with the addends of a fragment's windows."""


class UnsoundError(Exception):
    """The path breaks a rule; the message describes the fault of "it", the instruction."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The comparison before a branch."""

    left: Form
    right: Form
    bits: int


class Cover(NamedTuple):
    """A value in an addend's slot, or at most `below` or `above` bytes outside it."""

    value: Form
    below: int = 0
    above: int = 0

    @property
    def exact(self) -> bool:
        """Whether the value is in the slot."""
        return self.below == 0 and self.above == 0


@dataclass(slots=True)
class Facts:
    """The values of registers and state fields as forms, and the covers of each addend."""

    registers: list[Form]
    spilled: list[Form]
    scratch: list[Form]
    naddend: Form
    covers: dict[int, tuple[Cover, ...]]
    compared: Comparison | None = None
    operation: int = -1  # the operation that op_info names
    fragment: bool = False  # exit_arg names this fragment
    proved: bool = False  # r8 was the fragment's address
    gs_base: Form | None = None  # GS's new base, until its host address is stored

    def copy(self) -> "Facts":
        """Return an independent copy."""
        return Facts(
            self.registers[:],
            self.spilled[:],
            self.scratch[:],
            self.naddend,
            dict(self.covers),
            self.compared,
            self.operation,
            self.fragment,
            self.proved,
            self.gs_base,
        )


def symbol_of(form: Form) -> int:
    """Return the symbol of a form that consists of one symbol."""
    return form[1][0][0]


def at_entry(symbols: Symbols) -> Facts:
    """Return the facts at entry: guest registers are unknown; rules 3 and 4 hold."""
    registers = [symbols.fresh() for _ in range(16)]
    rsp, addend = registers[RSP], symbols.fresh(host=True)
    registers[RSP] = add(rsp, addend)
    for window in WINDOWS:
        registers[window] = symbols.fresh(host=True)
    return Facts(
        registers,
        [symbols.fresh() for _ in SPILLED],
        [symbols.fresh(host=True) for _ in range(4)],
        times(addend, MASK),
        {symbol_of(addend): (Cover(rsp, BELOW, ABOVE),)},
    )


def add_cover(facts: Facts, addend: int, cover: Cover) -> None:
    """Record that the addend covers a value."""
    covers = facts.covers.get(addend, ())
    if cover not in covers:
        facts.covers[addend] = (*covers, cover)


def merge(symbols: Symbols, a: Facts, b: Facts) -> Facts:
    """Return the facts that hold on both of two paths that meet."""
    met = a.copy()
    met.covers = {
        symbol: tuple(cover for cover in covers if cover in b.covers[symbol])
        for symbol, covers in a.covers.items()
        if symbol in b.covers
    }

    def either(x: Form, y: Form) -> Form:
        if x == y:
            return x
        if not symbols.is_host(x) and not symbols.is_host(y):
            return symbols.fresh(U32 if symbols.is_u32(x) and symbols.is_u32(y) else None)
        joined = symbols.fresh(host=True)
        left, right = symbols.split(x), symbols.split(y)
        if left and right and left[1] == right[1] == ZERO:
            known = b.covers.get(right[0], ())
            covers = tuple(cover for cover in a.covers.get(left[0], ()) if cover in known)
            met.covers[symbol_of(joined)] = covers
        return joined

    met.registers = [either(x, y) for x, y in zip(a.registers, b.registers, strict=True)]
    met.spilled = [either(x, y) for x, y in zip(a.spilled, b.spilled, strict=True)]
    met.scratch = [either(x, y) for x, y in zip(a.scratch, b.scratch, strict=True)]
    met.naddend = either(a.naddend, b.naddend)
    met.compared = None
    met.operation = a.operation if a.operation == b.operation else -1
    met.fragment = a.fragment and b.fragment
    met.proved = a.proved and b.proved
    met.gs_base = a.gs_base or b.gs_base
    return met


def learn_slot(symbols: Symbols, facts: Facts, compared: Comparison) -> None:
    """Record that 16 bits are equal: bits 51..36 of a value and a predicted slot."""
    rotated = symbols.how(compared.left, "rot")
    if rotated is None or rotated[1] != 36 or not symbols.how(compared.right, "predicted"):
        return
    slot = slot_of(symbols, as_form(rotated[2]))
    facts.registers = [slot if r == compared.right else r for r in facts.registers]


def slot_of(symbols: Symbols, value: Form) -> Form:
    """Return bits 51..36 of a value."""
    return symbols.computed("slot", value, bounds=(0, 0xFFFF))


def as_form(value: object) -> Form:
    """Return a part of a symbol's derivation that is a form."""
    assert isinstance(value, tuple)
    return value
