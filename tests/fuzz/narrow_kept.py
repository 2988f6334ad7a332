"""Hostile 32-bit code and its kept translations: `python -m tests.fuzz.narrow_kept --count 100000`.

A sample of `tests.fuzz.narrow_bytes` first runs where the last 2 MiB of 4 GiB show the same memory,
or where it is if there are no page tables, so that its translations are kept.  Then it runs where
it is.  A processor that keeps translations and one that does not must end alike.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace

from tests.fuzz.narrow_bytes import sample
from tests.fuzz.narrow_place import RAM_SIZE, Mode, Place
from tests.fuzz.narrow_steps import OF_ITS_OWN, TIME_NS, Outcome, Steps, difference
from tests.fuzz.strings import campaign

KINDS = tuple(mode.value for mode in (Mode.FLAT, Mode.COMPAT))
_AGAIN = (1 << 32) - RAM_SIZE
_RENEWED = 20_000
"""Samples on one processor, which leaves room for their translations."""


def elsewhere(one: Place) -> Place:
    """Return the guest with its code at the other end of 4 GiB, if it is there too."""
    if one.paging == "none" or one.segments[1][1]:
        return one
    return replace(one, rip=one.rip ^ _AGAIN if one.rip < RAM_SIZE else one.rip - _AGAIN)


class _Twice(Steps):
    """Runs each sample elsewhere and where it is."""

    def ended(self, seed: int) -> list[str]:
        """Return how the runs ended."""
        one, ends = sample(self.kind, seed)[0], []
        for place in (elsewhere(one), one):
            self._prepare()
            self._load(place)
            self.victim.processor.set_alarm(time.monotonic_ns() + TIME_NS)
            ends.append(self._continue(seed))
        return ends

    def outcome(self) -> Outcome:
        """Return registers and memory."""
        return self._outcome()


class Kept(_Twice):
    """Runs each sample on two processors, of which this one keeps its translations."""

    KEEP = True

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self._other = _Twice(kind)
        self._count = 0

    def run(self, seed: int) -> str:
        """Run the sample of a seed; how it ended."""
        self._found = ""
        self._count += 1
        if self._count % _RENEWED == 0:
            self.renew()
        if any(piece in sample(self.kind, seed)[1] for piece in OF_ITS_OWN):
            return "not compared"
        before = self.victim.processor.counters()["kept_fragments"]
        (before_it, end), (before_other, other) = self.ended(seed), self._other.ended(seed)
        kept = self.victim.processor.counters()["kept_fragments"] > before
        if "EXIT_INTERRUPTED" in (before_it, end, before_other, other):
            # How far it came is chance, and so is which pages it has mapped for the next run.
            return "not compared"
        if end != other:
            self._found = f"{end}, anew {other}"
        if not end == other == "EXIT_HLT":
            return f"{end}, not compared"
        for first, second in zip(self.outcome(), self._other.outcome(), strict=True):
            if first != second:
                self._found = f"{difference(first, second)} anew"
        return f"compared, {'kept' if kept else 'anew'}"

    def renew(self) -> None:
        """Take other processors, after one broke."""
        super().renew()
        self._other.renew()

    def close(self) -> None:
        """Release them."""
        super().close()
        self._other.close()


def main(arguments: list[str] | None = None) -> int:
    """Run the samples; the exit status."""
    return campaign("tests.fuzz.narrow_kept", "Run hostile code of kept translations.", Kept,
                    KINDS, arguments)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
