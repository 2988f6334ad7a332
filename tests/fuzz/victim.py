"""A guest to attack, and everything around it that must not notice."""
from __future__ import annotations

import hashlib
from collections.abc import Sequence

from ringlet.vcpu.processor import Processor
from tests.differential import guest
from tests.differential.engine_ringlet import (
    RingletRunner,
    Watchdog,
    load_state,
    new_processor,
    reset_system,
)
from tests.differential.layout import CODE, DATA, IMAGE_SIZE
from tests.differential.program import REGISTERS, Outcome, Program, State
from tests.fuzz.canary import Canaries, Mapping, host_mappings, leaked

_CHUNK = 1 << 16


def _new_mappings(before: Sequence[Mapping]) -> list[Mapping]:
    known = {(m.start, m.end) for m in before}
    return [m for m in host_mappings() if (m.start, m.end) not in known]


class Victim:
    """One processor that runs hostile programs, a second that only watches, and canaries.

    With `ram_size` the first has so much RAM, and it is empty; with `keep` too, it keeps its
    translations.
    """

    def __init__(self, timeout: float = 0.05, *, exact: bool = False, ram_size: int = 0,
                 keep: bool = False) -> None:
        self._exact = exact
        self._ram_size = ram_size
        self._keep = keep
        before = host_mappings()
        self.runner = RingletRunner()
        self.processor = self._new_processor()
        self.bystander = new_processor()
        self.bystander.write_phys(guest.IMAGE + IMAGE_SIZE, bytes(range(256)) * 256)
        self._digest = self._bystander_digest()
        self.canaries = Canaries(_new_mappings(before))
        self.mappings = _new_mappings(before)
        self._memory = guest.memory()
        self._watchdog = Watchdog(self.processor, timeout)

    def close(self) -> None:
        """Release the canaries and end the threads."""
        self.canaries.close()
        self._watchdog.close()
        self.runner.close()

    def run_bytes(self, code: bytes, registers: Sequence[int], cpl: int, rflags: int,
                  *, data: bytes = b"", cr0: int = guest.CR0) -> int:
        """Run bytes in a fresh guest at `cpl`, with `data` in its data area; the exit's kind."""
        p = self.processor
        p.write_phys(0, self._memory)
        linear = guest.KERNEL + guest.RING0_CODE if cpl == 0 else CODE.linear
        at = guest.RING0_CODE if cpl == 0 else guest.IMAGE
        p.write_phys(at, code)
        p.write_phys(guest.IMAGE + DATA.offset, data)
        reset_system(p)
        p.set("cr0", cr0)
        load_state(p, State(tuple(registers), linear, rflags), cpl)
        with self._watchdog.watch():
            return int(p.run())

    def renew(self) -> None:
        """A new processor for run_bytes, after one broke."""
        del self.processor, self._watchdog.processor
        self.processor = self._watchdog.processor = self._new_processor()

    def _new_processor(self) -> Processor:
        before = host_mappings()
        if self._ram_size:
            made = Processor(self._ram_size, speculate=not self._exact, keep=self._keep)
        else:
            made = new_processor(exact=self._exact)
        self.arena = max(_new_mappings(before), key=lambda m: m.end - m.start)
        return made

    def run_program(self, program: Program) -> Outcome:
        """Run a ring-3 program as the differential test does."""
        return self.runner.run([program])[0]

    def host_pages(self, offset: int) -> list[int]:
        """Host addresses at which the runner's guest has the page at `offset` of the image."""
        at = guest.IMAGE + offset
        return [m.start + at - m.offset for m in host_mappings()
                if m.name.startswith("/memfd:ringlet-ram")
                and m.offset <= at < m.offset + m.end - m.start]

    @staticmethod
    def leaked(outcome: Outcome) -> bool:
        """Whether a canary's contents came into the guest's registers."""
        return leaked(outcome.state)

    def harm(self) -> list[str]:
        """What changed outside the guest since the last question."""
        out = [f"host memory at {at:#x} changed" for at in self.canaries.changed()]
        digest = self._bystander_digest()
        if digest != self._digest:
            out.append("the memory of another processor changed")
            self._digest = digest
        return out

    def marks(self) -> bool:
        """Whether the last run_bytes left a canary's contents in the guest's registers."""
        p = self.processor
        return leaked(State(tuple(p.get(n) for n in REGISTERS), xsave=p.get_xsave()))

    def _bystander_digest(self) -> bytes:
        digest = hashlib.blake2b()
        for at in range(0, guest.RAM_SIZE, _CHUNK):
            digest.update(self.bystander.read_phys(at, _CHUNK))
        return digest.digest()
