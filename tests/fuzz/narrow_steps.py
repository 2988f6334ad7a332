"""Hostile 16- and 32-bit code in fragments and step by step: `python -m tests.fuzz.narrow_steps`.

The samples are those of `tests.fuzz.narrow_bytes`.  One that halts runs once more, each instruction
in a fragment of its own, and must end with the same registers, segments, tables and memory.
"""

from __future__ import annotations

import sys
import time

from tests.fuzz.narrow_bytes import KINDS, NAMES, Guest, sample
from tests.fuzz.narrow_place import HANDLERS, PML4, PT32, RAM_SIZE
from tests.fuzz.strings import campaign

TIME_NS = 5_000_000
_MOST = 400
"""Steps; a sample that takes more is left."""
_REGISTERS = (*NAMES, "rip", "rflags", "cr0", "cr2", "cr3", "cr4", "efer", "cpl", "dr6", "dr7")
_CLEAR = (
    "star", "lstar", "cstar", "sfmask", "sysenter_cs", "sysenter_esp", "sysenter_eip", "db_pending",
    "inhibit", "nmi_blocked", "dr0", "dr1", "dr2", "dr3", "cr2", "kernel_gs_base", "pat",
)  # fmt: skip
OF_ITS_OWN = tuple(bytes.fromhex(code) for code in "0f30 0f31 0f32 0f33 0fa2 0fc7 0f01f9".split())
"""WRMSR, which may start a timer, and what returns the time, as RDMSR may, or a random number."""
_DOUBLE_FAULT = HANDLERS + 8 + 1
"""Its frame has RF as it was, which a step within a repetition sets."""

Outcome = tuple[tuple[object, ...], bytes]


class Steps(Guest):
    """Runs each sample twice, on one processor."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self._vectors = self.victim.processor.get_xsave()
        self._found = ""

    def run(self, seed: int) -> str:
        """Run the sample of a seed; how it ended."""
        self._found = ""
        one, code = sample(self.kind, seed)
        if any(piece in code for piece in OF_ITS_OWN):
            return "not compared"
        p = self.victim.processor
        self._prepare()
        self._load(one)
        p.set_alarm(time.monotonic_ns() + TIME_NS)
        ended = self._continue(seed)
        if ended != "EXIT_HLT" or p.get("rip") == _DOUBLE_FAULT:
            return f"{ended}, not compared"
        free = self._outcome()
        self._prepare()
        self._load(one)
        p.set_alarm(None)
        if not self._step(seed):
            return "too long"
        for first, second in zip(free, self._outcome(), strict=True):
            if first != second:
                self._found = f"{difference(first, second)} by steps"
        return "compared"

    def _prepare(self) -> None:
        p = self.victim.processor
        p.write_phys(0, bytes(RAM_SIZE))
        p.set_xsave(self._vectors)
        for name in _CLEAR:
            p.set(name, 0)

    def _step(self, seed: int) -> bool:
        """Run to the end in single steps; False: it takes too many."""
        p = self.victim.processor
        for count in range(_MOST):
            p.debug_go(True, count > 0)
            if self._continue(seed) != "EXIT_DEBUG":
                p.debug_go(False, False)
                return True
        p.debug_go(False, False)
        return False

    def _outcome(self) -> Outcome:
        p = self.victim.processor
        names = tuple((name, p.get(name)) for name in _REGISTERS)
        segments = tuple((number, p.get_segment(number)) for number in range(8))
        tables = tuple((name, p.get_table(name)) for name in ("gdtr", "idtr"))
        return (*names, *segments, *tables), _without_accessed(p.read_phys(0, RAM_SIZE))

    def wrong(self) -> str:
        """What differs between the runs, or what no guest may do."""
        return self._found or super().wrong()


def _without_accessed(memory: bytes) -> bytes:
    """Clear the accessed bits of the paging structures.

    Of two operands that fault the processor may have read either before (SDM 3A 4.8).
    """
    changed = bytearray(memory)
    for at in range(PML4, PT32 + 0x1000, 4):
        changed[at] &= ~0x20
    return bytes(changed)


def difference(first: object, second: object) -> str:
    """Return what differs between two memories, or registers."""
    if isinstance(first, bytes) and isinstance(second, bytes):
        places = [at for at in range(len(first)) if first[at] != second[at]]
        return ", ".join(f"{at:#x}: {first[at]:#x}, {second[at]:#x}" for at in places[:8])
    assert isinstance(first, tuple)
    assert isinstance(second, tuple)
    return ", ".join(f"{a}, {b}" for a, b in zip(first, second, strict=True) if a != b)


def main(arguments: list[str] | None = None) -> int:
    """Run the samples; the exit status."""
    return campaign("tests.fuzz.narrow_steps", "Run hostile code in fragments and by steps.", Steps,
                    KINDS, arguments)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
