"""Direct execution under load: guests beside each other, and more address spaces than ever fit."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ringlet.direct.support import obstacle
from ringlet.direct.zygote import LIMIT
from tests.guests.counters import direct_counters

PATIENCE = 280
SPACES = 10_000
TICK = os.sysconf("SC_CLK_TCK")

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("kernel")]


def start(script: str, direct: str, program: str = "ringlet") -> subprocess.Popen[str]:
    """Start a guest whose shell runs a script."""
    return subprocess.Popen(
        [sys.executable, "-m", program, "run", "busybox", "--stats", "--direct", direct, "--",
         "sh", "-c", script],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def tree(pid: int) -> Iterator[int]:
    """A process and all that descend from it."""
    yield pid
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from tree(int(child))
    except (FileNotFoundError, ProcessLookupError):
        return


# --- two guests


@dataclass(frozen=True)
class Moment:
    """Clocks of the host, in seconds: its own, of its processors' idling, of a guest's work."""

    now: float
    idle: float
    work: tuple[float, ...]


def work(pid: int) -> float:
    """Processor time of a process and of all that descend from it."""
    total = 0
    for process in tree(pid):
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += int(fields[11]) + int(fields[12])
    return total / TICK


def moment(guests: list[subprocess.Popen[str]]) -> Moment:
    idle = int(Path("/proc/stat").read_text().split(maxsplit=6)[4])
    return Moment(time.monotonic(), idle / TICK, tuple(work(guest.pid) for guest in guests))


@pytest.mark.parametrize("program", ["ringlet", "tests.guests.older_host"])
def test_guests_beside_each_other_leave_no_processor_idle(program: str) -> None:
    """Two guests in a loop have a processor each, if the host has two that nobody else uses."""
    direct = "never" if obstacle() else "always"
    guests = [start("echo begun; while :; do :; done", direct, program) for _ in range(2)]
    try:
        for guest in guests:
            assert guest.stdout is not None
            assert guest.stdout.readline() == "begun\n"
        before = moment(guests)
        time.sleep(2)
        after = moment(guests)
    finally:
        for guest in guests:
            guest.kill()
            guest.communicate()

    seconds = after.now - before.now
    idle = after.idle - before.idle
    least = min(late - early for early, late in zip(before.work, after.work, strict=True))
    # A guest that has less than a processor while one idles waits for the wrong one.
    wanted = 0.8 * seconds if len(os.sched_getaffinity(0)) > 1 else 0.0
    assert least >= wanted or idle < 0.2 * seconds, (least, idle, seconds)
    assert least > 0


# --- ten thousand address spaces

CHAIN = f"""
n=0; sum=0
while [ $n -lt {SPACES} ]; do
    (: $((n * n)); exit $((n % 7))); sum=$((sum + $?)); n=$((n + 1))
done
echo $n $sum
"""
VERDICT = f"{SPACES} {sum(n % 7 for n in range(SPACES))}\n"


@pytest.mark.parametrize("direct", ["always", "auto"])
def test_ten_thousand_programs_share_a_few_processes(direct: str) -> None:
    if direct == "always" and obstacle():
        direct = "never"
    guest = start(CHAIN, direct)
    most = 0
    deadline = time.monotonic() + PATIENCE
    while guest.poll() is None and time.monotonic() < deadline:
        most = max(most, len(list(tree(guest.pid))))
        time.sleep(0.05)
    guest.kill()
    output, errors = guest.communicate()

    assert (guest.returncode, output) == (0, VERDICT), errors
    counters = direct_counters(errors)
    if direct == "always":
        assert counters["direct_calls"] > SPACES
        assert most > 2
    # With the machine and the zygote.  A host that stands still for seconds loses some, which may
    # be seen beside those in their places.
    assert most <= 2 + LIMIT + counters["direct_lost"]
