"""Linear forms over symbols: the verifier's knowledge of 64-bit values.

A form is a constant and symbols with factors, modulo 2^64: (const, ((symbol, factor), ...)).  A
symbol stands for a value of which only the range and the derivation are known.  Two values with the
same derivation have the same symbol, so that differences cancel.
"""

from dataclasses import dataclass, field
from typing import Final

Form = tuple[int, tuple[tuple[int, int], ...]]

MASK: Final = (1 << 64) - 1
U32: Final = (0, (1 << 32) - 1)
ZERO: Final[Form] = (0, ())


def constant(value: int) -> Form:
    """Return the form of a known value."""
    return (value & MASK, ())


def signed(value: int) -> int:
    """Return 64 bits as a two's complement value."""
    value &= MASK
    return value - (1 << 64) if value >> 63 else value


def shift(form: Form, by: int) -> Form:
    """Return `form` plus a constant."""
    return ((form[0] + by) & MASK, form[1])


def add(a: Form, b: Form) -> Form:
    """Return the sum."""
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
    """Return the product with a constant other than 0."""
    if factor == 1:
        return form
    scaled = ((s, f * factor & MASK) for s, f in form[1])
    return (form[0] * factor & MASK, tuple((s, f) for s, f in scaled if f))


def minus(a: Form, b: Form) -> Form:
    """Return the difference."""
    return constant(a[0] - b[0]) if a[1] == b[1] else add(a, times(b, MASK))


@dataclass(slots=True)
class Symbols:
    """The symbols of one verification.

    `ranges` holds inclusive bounds of symbols that have any; `host` holds addends and host
    pointers, which the guest must not see; `made` holds the derivation of each symbol, as a tuple
    of a word and forms.
    """

    ranges: dict[int, tuple[int, int]] = field(default_factory=dict)
    host: set[int] = field(default_factory=set)
    made: dict[int, tuple[object, ...]] = field(default_factory=dict)
    _memo: dict[tuple[object, ...], int] = field(default_factory=dict)
    _count: int = 0

    def fresh(self, bounds: tuple[int, int] | None = None, host: bool = False) -> Form:
        """Return a value of which only the range is known."""
        self._count += 1
        if bounds is not None:
            self.ranges[self._count] = bounds
        if host:
            self.host.add(self._count)
        return (0, ((self._count, 1),))

    def computed(
        self, *how: object, bounds: tuple[int, int] | None = None, host: bool = False
    ) -> Form:
        """Return the value with the derivation `how`, always as the same symbol."""
        symbol = self._memo.get(how)
        if symbol is None:
            form = self.fresh(bounds, host)
            symbol = form[1][0][0]
            self._memo[how] = symbol
            self.made[symbol] = how
        return (0, ((symbol, 1),))

    def how(self, form: Form, word: str) -> tuple[object, ...] | None:
        """Return the derivation of a value that is a single symbol derived by `word`."""
        if form[0] == 0 and len(form[1]) == 1 and form[1][0][1] == 1:
            made = self.made.get(form[1][0][0])
            if made is not None and made[0] == word:
                return made
        return None

    def is_host(self, form: Form) -> bool:
        """Whether the value contains a host symbol."""
        return any(symbol in self.host for symbol, _ in form[1])

    def split(self, form: Form) -> tuple[int, Form] | None:
        """Return the only host symbol of a form, if its factor is 1, and the rest of the form."""
        hosts = [(s, f) for s, f in form[1] if s in self.host]
        if len(hosts) != 1 or hosts[0][1] != 1:
            return None
        return hosts[0][0], (form[0], tuple(t for t in form[1] if t[0] != hosts[0][0]))

    def bounds(self, form: Form) -> tuple[int, int] | None:
        """Return inclusive bounds of the signed value; None if it has none."""
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
        """Whether the value's upper 32 bits are zero."""
        known = self.bounds(form)
        return known is not None and known[0] >= 0 and known[1] <= U32[1]
