"""`Invariant`: the facts at the head of a loop inside a fragment that hold in every pass."""

from dataclasses import dataclass
from typing import NamedTuple

from ringlet.translate.verify.execution import Execution
from ringlet.translate.verify.facts import (
    ABOVE,
    ADDEND,
    BELOW,
    IN_HOST,
    SPILLED,
    Cover,
    Facts,
    add_cover,
    at_entry,
    symbol_of,
)
from ringlet.translate.verify.forms import U32, Form, Symbols, add, minus, signed, times
from ringlet.translate.verify.plan import NONE


class Sum(NamedTuple):
    """A guest register plus another times a scale, or `NONE`."""

    base: int
    other: int = NONE
    scale: int = 1

    def of(self, facts: Facts) -> Form:
        """Return the value of the sum."""
        form = _guest(facts, self.base)
        if self.other == NONE:
            return form
        return add(form, times(_guest(facts, self.other), self.scale))


@dataclass(frozen=True, slots=True)
class Invariant:
    """The `sums` that r11 covers within `BELOW` and `ABOVE`, and the zero-extended registers."""

    sums: frozenset[Sum]
    narrow: frozenset[int]

    @classmethod
    def guess(cls, symbols: Symbols, execution: Execution, facts: Facts) -> "Invariant":
        """Return the facts of the first arrival, which may hold in every pass."""
        addend = symbol_of(facts.registers[ADDEND])
        sums = {
            found
            for cover in facts.covers[addend]
            for base in (*IN_HOST, *SPILLED)
            for found in _sums(facts, base, minus(cover.value, _guest(facts, base)))
        }
        everything = cls(frozenset(sums), frozenset((*IN_HOST, *SPILLED)))
        return everything.holding(symbols, execution, facts)

    def holding(self, symbols: Symbols, execution: Execution, facts: Facts) -> "Invariant":
        """Return the part that holds for `facts`."""
        addend = symbol_of(facts.registers[ADDEND])
        return Invariant(
            frozenset(s for s in self.sums if execution.near(facts, addend, s.of(facts))),
            frozenset(n for n in self.narrow if symbols.is_u32(_guest(facts, n))),
        )

    def assume(self, symbols: Symbols) -> Facts:
        """Return the facts of a pass that assumes only this and what holds at every entry."""
        facts = at_entry(symbols)
        for number in self.narrow:
            if number in SPILLED:
                facts.spilled[SPILLED.index(number)] = symbols.fresh(U32)
            else:
                facts.registers[number] = symbols.fresh(U32)
        for found in self.sums:
            cover = Cover(found.of(facts), BELOW, ABOVE)
            add_cover(facts, symbol_of(facts.registers[ADDEND]), cover)
        return facts


def _guest(facts: Facts, number: int) -> Form:
    """Return the value of a guest register other than RSP."""
    if number in SPILLED:
        return facts.spilled[SPILLED.index(number)]
    return facts.registers[number]


def _sums(facts: Facts, base: int, rest: Form) -> list[Sum]:
    """Return the sums with `base` that differ by a constant from `base` + `rest`."""
    if not rest[1]:
        return [Sum(base)]
    if len(rest[1]) != 1 or signed(rest[1][0][1]) not in (1, 2, 4, 8):
        return []
    symbol, scale = rest[1][0]
    return [
        Sum(base, index, scale)
        for index in (*IN_HOST, *SPILLED)
        if _guest(facts, index)[1] == ((symbol, 1),)
    ]
