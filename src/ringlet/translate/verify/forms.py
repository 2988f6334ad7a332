"""Linear forms over symbols: what the verifier knows of a 64-bit value.

A form is a constant and symbols with factors, modulo 2^64: (const, ((symbol, factor), ...)).  A
symbol stands for a value of which nothing more is known than its range and how it was made; two
values made the same way are the same symbol, so that differences cancel.
"""

from dataclasses import dataclass, field
from typing import Final

Form = tuple[int, tuple[tuple[int, int], ...]]

MASK: Final = (1 << 64) - 1
U32: Final = (0, (1 << 32) - 1)
ZERO: Final[Form] = (0, ())


def constant(value: int) -> Form:
    """The form of a known value."""
    return (value & MASK, ())


def signed(value: int) -> int:
    """The two's complement value of 64 bits."""
    value &= MASK
    return value - (1 << 64) if value >> 63 else value


def shift(form: Form, by: int) -> Form:
    """`form` + a constant."""
    return ((form[0] + by) & MASK, form[1])


def add(a: Form, b: Form) -> Form:
    """The sum."""
    if not b[1]:
        return ((a[0] + b[0]) & MASK, a[1])
    terms = dict(a[1])
    for symbol, factor in b[1]:
        total = (terms.get(symbol, 0) + factor) & MASK
        if total:
            terms[symbol] = total
        else:
            del terms[symbol]
    return ((a[0] + b[0]) & MASK, tuple(sorted(terms.items())))


def times(form: Form, factor: int) -> Form:
    """The product with a constant other than 0."""
    if factor == 1:
        return form
    scaled = ((s, f * factor & MASK) for s, f in form[1])
    return (form[0] * factor & MASK, tuple((s, f) for s, f in scaled if f))


def minus(a: Form, b: Form) -> Form:
    """The difference."""
    return constant(a[0] - b[0]) if a[1] == b[1] else add(a, times(b, MASK))


@dataclass(slots=True)
class Symbols:
    """The symbols of one verification.

    `ranges` are inclusive bounds of those that have any; `host` are addends and host pointers,
    which no guest may see; `made` is how a symbol was computed, as a tuple of a word and forms.
    """

    ranges: dict[int, tuple[int, int]] = field(default_factory=dict)
    host: set[int] = field(default_factory=set)
    made: dict[int, tuple[object, ...]] = field(default_factory=dict)
    _memo: dict[tuple[object, ...], int] = field(default_factory=dict)
    _count: int = 0

    def fresh(self, bounds: tuple[int, int] | None = None, host: bool = False) -> Form:
        """A value of which nothing is known but its range."""
        self._count += 1
        if bounds is not None:
            self.ranges[self._count] = bounds
        if host:
            self.host.add(self._count)
        return (0, ((self._count, 1),))

    def computed(
        self, *how: object, bounds: tuple[int, int] | None = None, host: bool = False
    ) -> Form:
        """The value made in the way `how` says: the same symbol each time."""
        symbol = self._memo.get(how)
        if symbol is None:
            form = self.fresh(bounds, host)
            symbol = form[1][0][0]
            self._memo[how] = symbol
            self.made[symbol] = how
        return (0, ((symbol, 1),))

    def how(self, form: Form, word: str) -> tuple[object, ...] | None:
        """How the value was made, if it is a single symbol made in the way called `word`."""
        if form[0] == 0 and len(form[1]) == 1 and form[1][0][1] == 1:
            made = self.made.get(form[1][0][0])
            if made is not None and made[0] == word:
                return made
        return None

    def is_host(self, form: Form) -> bool:
        """A part of the value is the host's."""
        return any(symbol in self.host for symbol, _ in form[1])

    def split(self, form: Form) -> tuple[int, Form] | None:
        """The one host symbol of a form, if its factor is 1, and the rest of the form."""
        hosts = [(s, f) for s, f in form[1] if s in self.host]
        if len(hosts) != 1 or hosts[0][1] != 1:
            return None
        return hosts[0][0], (form[0], tuple(t for t in form[1] if t[0] != hosts[0][0]))

    def bounds(self, form: Form) -> tuple[int, int] | None:
        """Inclusive bounds of the value, taken as signed; None if it has none."""
        low = high = signed(form[0])
        for symbol, factor in form[1]:
            known = self.ranges.get(symbol)
            if known is None:
                return None
            ends = [known[0] * signed(factor), known[1] * signed(factor)]
            low += min(ends)
            high += max(ends)
        return low, high

    def is_u32(self, form: Form) -> bool:
        """The value's upper 32 bits are zero."""
        known = self.bounds(form)
        return known is not None and known[0] >= 0 and known[1] <= U32[1]
