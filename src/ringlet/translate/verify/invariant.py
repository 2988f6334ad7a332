"""`Invariant`: the facts at the head of a loop inside a fragment that hold in every pass."""

from dataclasses import dataclass
from typing import NamedTuple

from ringlet.translate.verify.execution import Execution
from ringlet.translate.verify.facts import (
    ABOVE,
    BELOW,
    IN_HOST,
    SPILLED,
    WINDOWS,
    Cover,
    Facts,
    add_cover,
    at_entry,
    symbol_of,
)
from ringlet.translate.verify.forms import U32, ZERO, Form, Symbols, add, minus, signed, times
from ringlet.translate.verify.plan import NONE


class Sum(NamedTuple):
    """A guest register plus another times a scale, or `NONE`, and a register with an addend."""

    window: int
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
    """The `sums` that their windows cover within `BELOW` and `ABOVE`; zero-extended registers.

    `copies`: the windows' registers that hold the values of spilled registers.
    """

    sums: frozenset[Sum]
    narrow: frozenset[int]
    copies: frozenset[tuple[int, int]]

    @classmethod
    def guess(cls, symbols: Symbols, execution: Execution, facts: Facts) -> "Invariant":
        """Return the facts of the first arrival, which may hold in every pass."""
        sums = {
            found
            for window in WINDOWS
            for cover in facts.covers.get(_addend(symbols, facts, window), ())
            for base in (*IN_HOST, *SPILLED)
            for found in _sums(facts, window, base, minus(cover.value, _guest(facts, base)))
        }
        copies = frozenset((window, number) for window in WINDOWS for number in SPILLED)
        everything = cls(frozenset(sums), frozenset((*IN_HOST, *SPILLED)), copies)
        return everything.holding(symbols, execution, facts)

    def holding(self, symbols: Symbols, execution: Execution, facts: Facts) -> "Invariant":
        """Return the part that holds for `facts`."""
        addends = {window: _addend(symbols, facts, window) for window in WINDOWS}
        near = execution.near
        return Invariant(
            frozenset(s for s in self.sums if near(facts, addends[s.window], s.of(facts))),
            frozenset(n for n in self.narrow if symbols.is_u32(_guest(facts, n))),
            frozenset(c for c in self.copies if facts.registers[c[0]] == _guest(facts, c[1])),
        )

    def assume(self, symbols: Symbols) -> Facts:
        """Return the facts of a pass that assumes only this and what holds at every entry."""
        facts = at_entry(symbols)
        for number in self.narrow:
            if number in SPILLED:
                facts.spilled[SPILLED.index(number)] = symbols.fresh(U32)
            else:
                facts.registers[number] = symbols.fresh(U32)
        copied = set[int]()
        for window, number in sorted(self.copies):
            if window in copied:  # another register has the same value
                facts.spilled[SPILLED.index(number)] = facts.registers[window]
            facts.registers[window] = _guest(facts, number)
            copied.add(window)
        for found in self.sums:
            cover = Cover(found.of(facts), BELOW, ABOVE)
            add_cover(facts, symbol_of(facts.registers[found.window]), cover)
        return facts


def _guest(facts: Facts, number: int) -> Form:
    """Return the value of a guest register other than RSP."""
    if number in SPILLED:
        return facts.spilled[SPILLED.index(number)]
    return facts.registers[number]


def _addend(symbols: Symbols, facts: Facts, window: int) -> int:
    """Return the symbol of the addend in a window's register, or `NONE` for another value."""
    split = symbols.split(facts.registers[window])
    return split[0] if split is not None and split[1] == ZERO else NONE


def _sums(facts: Facts, window: int, base: int, rest: Form) -> list[Sum]:
    """Return the sums with `base` that differ by a constant from `base` + `rest`."""
    if not rest[1]:
        return [Sum(window, base)]
    if len(rest[1]) != 1 or signed(rest[1][0][1]) not in (1, 2, 4, 8):
        return []
    symbol, scale = rest[1][0]
    return [
        Sum(window, base, index, scale)
        for index in (*IN_HOST, *SPILLED)
        if _guest(facts, index)[1] == ((symbol, 1),)
    ]
