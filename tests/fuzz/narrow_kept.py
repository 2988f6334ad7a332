"""Hostile 32-bit code and its kept translations: `python -m tests.fuzz.narrow_kept --count 100000`.

A sample of `tests.fuzz.narrow_bytes` first runs where the last 2 MiB of 4 GiB show the same memory,
or where it is if there are no page tables, so that its translations are kept.  Then it runs in
fragments, which are made of these, and step by step, as in `tests.fuzz.narrow_steps`: both must end
alike.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace

from tests.fuzz.narrow_bytes import sample
from tests.fuzz.narrow_place import RAM_SIZE, Mode, Place
from tests.fuzz.narrow_steps import OF_ITS_OWN, TIME_NS, Steps
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


class Kept(Steps):
    """Runs each sample three times; the second time of kept translations."""

    KEEP = True

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self._count = 0

    def run(self, seed: int) -> str:
        """Run the sample of a seed; how it ended."""
        self._count += 1
        if self._count % _RENEWED == 0:
            self.renew()
        one, code = sample(self.kind, seed)
        p = self.victim.processor
        if not any(piece in code for piece in OF_ITS_OWN):
            self._prepare()
            self._load(elsewhere(one))
            p.set_alarm(time.monotonic_ns() + TIME_NS)
            self._continue(seed)
        before = p.counters()["kept_fragments"]
        ended = super().run(seed)
        return f"{ended}, kept" if p.counters()["kept_fragments"] > before else ended


def main(arguments: list[str] | None = None) -> int:
    """Run the samples; the exit status."""
    return campaign("tests.fuzz.narrow_kept", "Run hostile code of kept translations.", Kept,
                    KINDS, arguments)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
