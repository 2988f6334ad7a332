"""Random bytes as guest code: `python -m tests.fuzz.bytes --count 1000000`.

At CPL 0 and CPL 3, with registers that point at guest pages, at host memory and anywhere: the host
process must stay alive and the memory outside the guest unchanged.  Exit status 1 if not.
"""
from __future__ import annotations

import random
import sys
from dataclasses import dataclass

from tests.differential import guest, layout
from tests.differential.generate import random_program
from tests.fuzz.strings import campaign

_OPCODES = bytes((0x0F, 0x48, 0x66, 0xF2, 0xF3, 0x67, 0x64, 0x65, 0xC4, 0xC5, 0x0F, 0xFF, 0x8B,
                  0x89, 0x8E, 0x0F, 0xF7, 0x48, 0x4C, 0xE8, 0xEB, 0x74, 0xCF, 0xCB, 0x9D, 0xA4,
                  0xAA))


@dataclass(frozen=True, slots=True)
class Sample:
    """One piece of hostile code."""

    code: bytes
    registers: tuple[int, ...]
    cpl: int
    rflags: int

    def text(self) -> str:
        """To be pasted into a test."""
        registers = ", ".join(f"{r:#x}" for r in self.registers)
        code = f"bytes.fromhex({self.code.hex()!r})"
        return f"Sample({code}, ({registers}), {self.cpl}, {self.rflags:#x})"


def random_code(rng: random.Random) -> bytes:
    """Random bytes, bytes that look like code, or a mutated program."""
    kind = rng.randrange(4)
    if kind == 0:
        return rng.randbytes(rng.randrange(1, 64))
    if kind == 1:
        return bytes(rng.choice(_OPCODES) if rng.random() < 0.4 else rng.getrandbits(8)
                     for _ in range(rng.randrange(1, 64)))
    code = bytearray(random_program(rng).code)
    for _ in range(rng.randrange(1, 4) if kind == 2 else 1):
        at = rng.randrange(len(code))
        how = rng.randrange(4)
        if how == 0:
            code[at] ^= 1 << rng.randrange(8)
        elif how == 1:
            code[at] = rng.getrandbits(8)
        elif how == 2:
            code.insert(at, rng.choice(_OPCODES))
        elif len(code) > 1:
            del code[at]
    return bytes(code[:200])


def random_register(rng: random.Random, hosts: list[int]) -> int:
    """A value that may be an address: the guest's, the host's, or neither."""
    kind = rng.randrange(8)
    if kind < 3:
        area = rng.choice(tuple(layout.AREAS.values()))
        return area.linear + rng.randrange(-64, area.size + 64)
    if kind == 3:
        return guest.KERNEL + rng.randrange(0x10000)
    if kind == 4:  # the same draws whatever `hosts` is, so that a seed means one sample
        high = rng.getrandbits(16) << 48 if rng.random() < 0.4 else 0
        which, low = rng.random(), rng.randrange(1 << 16)
        return (hosts[int(which * len(hosts))] if hosts else 0) + low | high
    if kind == 5:
        return rng.randrange(256)
    if kind == 6:
        return rng.getrandbits(48)
    return rng.getrandbits(64)


def sample(seed: int, hosts: list[int]) -> Sample:
    """The sample of this seed; `hosts` are host addresses to aim at."""
    rng = random.Random(seed)
    cpl = rng.choice((0, 3))
    registers = [random_register(rng, hosts) for _ in range(16)]
    if rng.random() < 0.8:
        registers[4] = (guest.KERNEL + guest.RING0_STACK_TOP if cpl == 0
                        else layout.STACK.end) - 8 * rng.randrange(1, 64)
    rflags = 0x202 | rng.getrandbits(12) & 0x8D5 | (rng.random() < 0.1) << 10 \
        | (rng.random() < 0.03) << 8
    if cpl == 0:
        rflags &= ~0x200 if rng.random() < 0.5 else ~0
    return Sample(random_code(rng), tuple(registers), cpl, rflags)


class Guest:
    """Runs the samples, all on one processor."""

    def __init__(self, kind: str) -> None:
        from tests.fuzz.victim import Victim
        del kind
        self.victim = Victim()
        self.hosts = self.victim.canaries.addresses + [m.start for m in self.victim.mappings]

    def run(self, seed: int) -> str:
        """Run the sample of a seed; how it ended."""
        from ringlet.core.state import Exit
        one = sample(seed, self.hosts)
        return Exit(self.victim.run_bytes(one.code, one.registers, one.cpl, one.rflags)).name

    def text(self, seed: int) -> str:
        """The sample of a seed, to be pasted into a test."""
        return sample(seed, self.hosts).text()

    def wrong(self) -> str:
        """What the last sample did that no guest may, or nothing."""
        return "host memory read" if self.victim.marks() else ""

    def harm(self) -> list[str]:
        """What changed outside the guest."""
        return self.victim.harm()

    def renew(self) -> None:
        """Take another processor, after one broke."""
        self.victim.renew()

    def close(self) -> None:
        """Release it."""
        self.victim.close()


def main(arguments: list[str] | None = None) -> int:
    """Run the samples; the exit status."""
    return campaign("tests.fuzz.bytes", "Run random bytes as guest code.", Guest,
                    arguments=arguments)


if __name__ == "__main__":
    sys.exit(main())
