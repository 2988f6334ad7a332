"""Hostile 16- and 32-bit code: `python -m tests.fuzz.narrow_bytes --kind v86 --count 1000000`.

Random bytes, instructions and operations run in each mode with wild segments, descriptors, gates,
tasks and page tables: the host process must stay alive and the memory outside the guest unchanged.
Exit status 1 if not.
"""

from __future__ import annotations

import random
import sys
import time
from functools import lru_cache

from tests.fuzz.narrow_code import hostile_code
from tests.fuzz.narrow_place import (
    GDT,
    GDT_ENTRIES,
    IDT,
    RAM_SIZE,
    Mode,
    Place,
    Tables,
    place,
    tables,
)
from tests.fuzz.strings import campaign
from tests.fuzz.surroundings import Surroundings

KINDS = tuple(mode.value for mode in Mode)
_TIME_NS = 2_000_000
_TOGETHER = 16
"""Samples that have the same tables, as they are at the start."""
NAMES = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi")
_NARROW = (*NAMES, "rip")
_BIT_64 = 1 << 4
_LME = 1 << 8


@lru_cache(maxsize=2)
def _tables(kind: str, number: int) -> Tables:
    return tables(random.Random(f"{kind} {number}"), Mode(kind))


def sample(kind: str, seed: int) -> tuple[Place, bytes]:
    """Return the guest of a seed, and its code."""
    mode = Mode(kind)
    draw = random.Random(seed)
    bits = 16 if mode in (Mode.REAL, Mode.V86, Mode.P16) else 32
    code = hostile_code(draw, bits)
    return place(draw, mode, _tables(kind, seed // _TOGETHER), code), code


class Guest:
    """Runs the samples of a mode, all on one processor."""

    KEEP = False
    """Whether the processor keeps its translations."""

    def __init__(self, kind: str) -> None:
        from tests.fuzz.victim import Victim

        self.kind = kind
        self.victim = Victim(ram_size=RAM_SIZE, keep=self.KEEP)
        self.around = self._surroundings()

    def _surroundings(self) -> Surroundings | None:
        """64-bit code, of which compatibility mode is a part, has larger windows."""
        return Surroundings(self.victim.arena) if self.kind != Mode.COMPAT.value else None

    def run(self, seed: int) -> str:
        """Run the sample of a seed; how it ended."""
        self._load(sample(self.kind, seed)[0])
        self.victim.processor.set_alarm(time.monotonic_ns() + _TIME_NS)
        return self._continue(seed)

    def _continue(self, seed: int) -> str:
        """Run to what is no access to a device; how it ended."""
        from ringlet.core.state import Exit

        p = self.victim.processor
        while True:
            ended = Exit(p.run())
            if ended in (Exit.EXIT_IO_IN, Exit.EXIT_MMIO_READ):
                p.complete(seed & 0xFF)
            elif ended not in (Exit.EXIT_IO_OUT, Exit.EXIT_MMIO_WRITE):
                return ended.name

    def _load(self, one: Place) -> None:
        p, mode = self.victim.processor, one.mode
        p.write_phys(0, one.tables.image)
        for at, code in one.code:
            p.write_phys(at, code)
        p.set("efer", 0xD01 if mode is Mode.COMPAT else 0)
        p.set("cr4", one.cr4)
        p.set("cr0", 0x10 | (mode is not Mode.REAL) | (one.paging != "none") << 31)
        p.set("cr3", one.root)
        p.set("xcr0", 7)
        p.set("dr7", 0x400)
        p.set("dr6", 0xFFFF0FF0)
        p.set_table("gdtr", GDT, 8 * GDT_ENTRIES + 7)
        limit = 0xFFF if mode is Mode.COMPAT else 0x7FF
        p.set_table("idtr", 0 if mode is Mode.REAL else IDT, limit)
        for i, segment in enumerate(one.segments):
            p.set_segment(i, *segment)
        p.set("cpl", one.cpl)
        for name, value in zip(NAMES, one.registers, strict=True):
            p.set(name, value)
        p.set("rip", one.rip)
        p.set("rflags", one.rflags)

    def text(self, seed: int) -> str:
        """The sample of a seed, in short."""
        one, code = sample(self.kind, seed)
        return f"{self.kind}: {code.hex()} at {one.rip:#x}, {one.paging}"

    def wrong(self) -> str:
        """What the last sample did that no guest may, or nothing."""
        p = self.victim.processor
        if self.victim.marks():
            return "host memory read"
        if self.around is not None and self.around.touched() and not p.get("efer") & _LME:
            return "an access beside the window"
        if not p.get("key") & _BIT_64 and any(p.get(name) >> 32 for name in _NARROW):
            return "a register has more than 32 bits"
        return ""

    def harm(self) -> list[str]:
        """What changed outside the guest."""
        if self.around is not None:
            self.around.place()
        return self.victim.harm()

    def renew(self) -> None:
        """Take another processor, after one broke."""
        if self.around is not None:
            self.around.close()
        self.victim.renew()
        self.around = self._surroundings()

    def close(self) -> None:
        """Release it."""
        if self.around is not None:
            self.around.close()
        self.victim.close()


def main(arguments: list[str] | None = None) -> int:
    """Run the samples; the exit status."""
    return campaign("tests.fuzz.narrow_bytes", "Run hostile 16- and 32-bit code.", Guest, KINDS,
                    arguments)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
