"""Random bytes as guest code: `python -m tests.fuzz.bytes --count 1000000`.

At CPL 0 and CPL 3, with registers that point at guest pages, at host memory and anywhere: the host
process must stay alive and the memory outside the guest unchanged.  Exit status 1 if not.
"""
from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from tests.differential import guest, layout
from tests.differential.generate import random_program
from tests.differential.isolate import Death, Progress, isolated

_CHUNK = 10_000
_EACH = 3     # examples of one internal error
_CHECK = 100  # programs between looks at the canaries
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


@dataclass(frozen=True, slots=True)
class Task:
    """Samples that one process runs."""

    seed: int
    count: int


@dataclass(slots=True)
class Findings:
    """How the samples ended, by exit kind, and what they broke."""

    count: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)


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


def run_task(task: Task, progress: Progress) -> Findings:
    """Run a task's samples in this process."""
    from ringlet.core.state import Exit
    from ringlet.errors import InternalError
    from tests.fuzz.victim import Victim
    findings = Findings()
    victim = Victim()
    hosts = victim.canaries.addresses + [m.start for m in victim.mappings]
    since = 0
    for i in range(task.count):
        progress(i)
        one = sample(task.seed + i, hosts)
        findings.count += 1
        broken = ""
        try:
            kind = victim.run_bytes(one.code, one.registers, one.cpl, one.rflags)
        except InternalError as error:
            broken = str(error)
        if broken:
            what = broken.split("(")[0]
            findings.kinds[what] += 1
            if findings.kinds[what] <= _EACH:
                findings.broken.append(f"seed {task.seed + i}: {broken}: {one.text()}")
            victim.renew()
            continue
        findings.kinds[Exit(kind).name] += 1
        if victim.marks():
            findings.broken.append(f"seed {task.seed + i}: host memory read: {one.text()}")
        if i - since >= _CHECK or i == task.count - 1:
            harm = victim.harm()
            if harm:
                findings.broken.append(_blame(victim, task.seed + since, task.seed + i + 1, hosts,
                                              harm))
            since = i + 1
    victim.close()
    return findings


def _blame(victim: object, start: int, end: int, hosts: list[int], harm: list[str]) -> str:
    """Run the suspects again, looking after each."""
    from tests.fuzz.victim import Victim
    assert isinstance(victim, Victim)
    for seed in range(start, end):
        one = sample(seed, hosts)
        victim.run_bytes(one.code, one.registers, one.cpl, one.rflags)
        again = victim.harm()
        if again:
            return f"seed {seed}: {'; '.join(again)}: {one.text()}"
    return f"seeds {start} to {end - 1}: {'; '.join(harm)} (not reproduced alone)"


def run_isolated(task: Task) -> Findings:
    """Run a task in a process of its own; its death is a finding and the rest is still run."""
    total = Findings()
    while task.count > 0:
        result = isolated(run_task, task)
        if not isinstance(result, Death):
            assert isinstance(result, Findings)
            total.count += result.count
            total.kinds += result.kinds
            total.broken += result.broken
            break
        seed = task.seed + result.index
        total.count += result.index + 1
        total.broken.append(f"seed {seed}: the host process died with exit code "
                            f"{result.exit_code}: {sample(seed, []).text()}")
        task = Task(seed + 1, task.count - result.index - 1)
    return total


def main(arguments: list[str] | None = None) -> int:
    """Run the samples; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.bytes",
                                     description="Run random bytes as guest code.")
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args(arguments)
    tasks = [Task(options.seed + i, min(_CHUNK, options.count - i))
             for i in range(0, options.count, _CHUNK)]
    count = 0
    kinds: Counter[str] = Counter()
    broken: list[str] = []
    start = time.monotonic()
    with ThreadPoolExecutor(options.jobs) as pool:
        for findings in pool.map(run_isolated, tasks):
            count += findings.count
            kinds += findings.kinds
            broken += findings.broken
            for line in findings.broken:
                print(line, flush=True)
            print(f"\r{count} samples, {len(broken)} broken", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    seconds = time.monotonic() - start
    print(f"{count} samples from seed {options.seed} in {seconds:.0f} s "
          f"({count / seconds:.0f} a second)")
    print("ended with: " + ", ".join(f"{k}: {n}" for k, n in kinds.most_common()))
    print(f"broken: {len(broken)}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
