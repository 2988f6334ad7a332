"""Runs samples of a campaign in processes of their own, which may die, hang or grow."""
from __future__ import annotations

import argparse
import faulthandler
import gc
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.differential.isolate import Death, Progress, isolated

Sample = Callable[[int, str], tuple[Counter[str], list[str]]]
"""Runs the sample of a seed and a kind ("": any): what it reached, and what it broke."""

_HANG = 30.0
_CHUNK = 100
_WARM = 30
"""Samples after which a process should not grow."""
_GROWTH = 24 << 20
"""Bytes that it may grow nevertheless: arenas of the allocators of several threads."""


@dataclass(frozen=True, slots=True)
class Task:
    """Samples that one process runs, of a kind or of all."""

    sample: Sample
    seed: int
    count: int
    kind: str = ""


@dataclass(slots=True)
class Findings:
    """How many samples were run, what they reached, and what they broke."""

    count: int = 0
    reached: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)

    def add(self, other: Findings) -> None:
        """Add another part of the campaign."""
        self.count += other.count
        self.reached += other.reached
        self.broken += other.broken


def open_files() -> int:
    """How many descriptors this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def resident() -> int:
    """How many bytes of memory this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _run_task(task: Task, progress: Progress) -> Findings:
    """Run a task's samples in this process, which ends if one of them hangs."""
    findings = Findings()
    task.sample(task.seed, task.kind)
    files, threads, size = open_files(), threading.active_count(), 0
    for number in range(task.count):
        seed = task.seed + number
        progress(number)
        faulthandler.dump_traceback_later(_HANG, exit=True)
        reached, broken = task.sample(seed, task.kind)
        findings.count += 1
        findings.reached += reached
        findings.broken += [f"seed {seed}: {line}" for line in broken]
        gc.collect()  # a sample's machine takes much of what is below 2 GiB
        if number == _WARM:
            size = resident()
    faulthandler.cancel_dump_traceback_later()
    gc.collect()
    time.sleep(0.1)
    name = f"seeds {task.seed} to {task.seed + task.count - 1}: "
    if open_files() > files + 8 or threading.active_count() > threads + 4:
        findings.broken.append(f"{name}{open_files() - files} files and "
                               f"{threading.active_count() - threads} threads are left")
    if size and resident() > size + _GROWTH:
        findings.broken.append(f"{name}{resident() - size >> 10} KiB are left")
    return findings


def run_isolated(task: Task) -> Findings:
    """Run a task in a process of its own; its death is a finding and the rest is still run."""
    total = Findings()
    while task.count > 0:
        result = isolated(_run_task, task)
        if not isinstance(result, Death):
            total.add(result)
            break
        seed = task.seed + result.index
        total.count += result.index + 1
        total.broken.append(f"seed {seed}: the process died or hung, exit code {result.exit_code}")
        task = replace(task, seed=seed + 1, count=task.count - result.index - 1)
    return total


def campaign(
    program: str, about: str, sample: Sample, kinds: Sequence[str] = (),
    arguments: list[str] | None = None,
) -> int:
    """Run samples for a time, as the command line says; the exit status."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=about)
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=kinds, default="", help="one kind alone")
    options = parser.parse_args(arguments)
    end = time.monotonic() + 60 * options.minutes
    total = Findings()
    seed = options.seed
    while time.monotonic() < end:
        findings = run_isolated(Task(sample, seed, _CHUNK, options.kind))
        seed += _CHUNK
        total.add(findings)
        for line in findings.broken:
            print(line, flush=True)
        print(f"\r{total.count} samples, {len(total.broken)} broken", end="", file=sys.stderr)
    print(file=sys.stderr)
    print(f"{total.count} samples from seed {options.seed}")
    print("reached: " + ", ".join(f"{name}: {n}" for name, n in sorted(total.reached.items())))
    print(f"broken: {len(total.broken)}")
    return 1 if total.broken else 0
