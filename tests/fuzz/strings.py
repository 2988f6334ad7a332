"""Campaigns of many small hostile guests, which processes of their own run one after another.

The host process must stay alive and the memory outside the guest unchanged.
"""
from __future__ import annotations

import argparse
import faulthandler
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

from tests.differential.isolate import Death, Progress, isolated
from tests.fuzz.samples import Findings

_CHUNK = 10_000
_EACH = 3     # examples of one internal error
_CHECK = 100  # samples between looks at the canaries
_HANG = 120.0
"""Seconds after which so many samples have hung: each is kicked after some milliseconds."""


class Guest(Protocol):
    """What runs the samples of a campaign; it is made with the kind of the task."""

    def run(self, seed: int) -> str:
        """Run the sample of a seed; how it ended."""

    def text(self, seed: int) -> str:
        """The sample of a seed, to be pasted into a test."""

    def wrong(self) -> str:
        """What the last sample did that no guest may, or nothing."""

    def harm(self) -> list[str]:
        """What changed outside the guest since the last question."""

    def renew(self) -> None:
        """Take another processor, after one broke."""

    def close(self) -> None:
        """Release everything."""


@dataclass(frozen=True, slots=True)
class Task:
    """Samples that one process runs."""

    guest: Callable[[str], Guest]
    seed: int
    count: int
    kind: str = ""


def run_task(task: Task, progress: Progress) -> Findings:
    """Run a task's samples in this process."""
    findings = Findings()
    guest = task.guest(task.kind)
    since = 0
    for i in range(task.count):
        seed = task.seed + i
        progress(i)
        if i % _CHECK == 0:
            faulthandler.dump_traceback_later(_HANG, exit=True)
        findings.count += 1
        try:
            findings.reached[guest.run(seed)] += 1
        except Exception as error:  # noqa: BLE001 - it is a finding
            what = f"{type(error).__name__}: {error}".split("(", maxsplit=1)[0]
            findings.reached[what] += 1
            if findings.reached[what] <= _EACH:
                findings.broken.append(
                    f"seed {seed}: {type(error).__name__}: {error}: {guest.text(seed)}")
            guest.renew()
            continue
        wrong = guest.wrong()
        if wrong:
            findings.broken.append(f"seed {seed}: {wrong}: {guest.text(seed)}")
        if i - since >= _CHECK or i == task.count - 1:
            harm = guest.harm()
            if harm:
                findings.broken.append(_blame(guest, task.seed + since, seed + 1, harm))
            since = i + 1
    faulthandler.cancel_dump_traceback_later()
    guest.close()
    return findings


def _blame(guest: Guest, start: int, end: int, harm: list[str]) -> str:
    """Run the suspects again, looking after each."""
    for seed in range(start, end):
        guest.run(seed)
        again = guest.harm()
        if again:
            return f"seed {seed}: {'; '.join(again)}: {guest.text(seed)}"
    return f"seeds {start} to {end - 1}: {'; '.join(harm)} (not reproduced alone)"


def run_isolated(task: Task) -> Findings:
    """Run a task in a process of its own; its death is a finding and the rest is still run."""
    total = Findings()
    while task.count > 0:
        result = isolated(run_task, task)
        if not isinstance(result, Death):
            assert isinstance(result, Findings)
            total.add(result)
            break
        seed = task.seed + result.index
        total.count += result.index + 1
        total.broken.append(f"seed {seed}: the host process died or hung, exit code "
                            f"{result.exit_code}")
        task = replace(task, seed=seed + 1, count=task.count - result.index - 1)
    return total


def campaign(program: str, about: str, guest: Callable[[str], Guest], kinds: Sequence[str] = (),
             arguments: list[str] | None = None) -> int:
    """Run samples of each kind, as the command line says; the exit status."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=about)
    parser.add_argument("--count", type=int, default=1_000_000, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    if kinds:
        parser.add_argument("--kind", choices=kinds, action="append", help="these kinds alone")
    options = parser.parse_args(arguments)
    broken = False
    for kind in (options.kind or kinds) if kinds else ("",):
        broken |= _run_kind(guest, kind, options)
    return 1 if broken else 0


def _run_kind(guest: Callable[[str], Guest], kind: str, options: argparse.Namespace) -> bool:
    """Run the samples of a kind, and print what came of them; whether something broke."""
    tasks = [Task(guest, options.seed + i, min(_CHUNK, options.count - i), kind)
             for i in range(0, options.count, _CHUNK)]
    total = Findings()
    start = time.monotonic()
    with ThreadPoolExecutor(options.jobs) as pool:
        for findings in pool.map(run_isolated, tasks):
            total.add(findings)
            for line in findings.broken:
                print(line, flush=True)
            print(f"\r{kind} {total.count} samples, {len(total.broken)} broken", end="",
                  file=sys.stderr, flush=True)
    print(file=sys.stderr)
    seconds = time.monotonic() - start
    print(f"{kind}: " * bool(kind) + f"{total.count} samples from seed {options.seed} in "
          f"{seconds:.0f} s ({total.count / seconds:.0f} a second)")
    print("ended with: " + ", ".join(f"{k}: {n}" for k, n in total.reached.most_common()))
    print(f"broken: {len(total.broken)}", flush=True)
    return bool(total.broken)
