"""Runs several guests at once: `python -m tests.guests.together --guests 4 --cores 2`.

Each does work whose results are known, behind the same starting shot; before and after them one
guest does it alone, on the same cores of the host.  Fair is what the work takes alone, if each
guest has an equal part of the cores: of what the host's other work leaves of them, which is
measured meanwhile.  The exit status is 1 if a result is wrong or a guest is slower than that by
more than 20 percent; in every one of `--rounds`, that is: what disturbs a round only adds time.
"""

import argparse
import gzip
import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

TOLERANCE = 0.2
PATIENCE = 600.0
"""Seconds after which a guest counts as hanging."""
NUMBERS = 200_000
ZEROS = 64 << 20
ROUNDS = 4
SCRIPT = f"""
echo ready
read -r line
for round in $(seq {ROUNDS}); do
    dd if=/dev/zero bs=1M count={ZEROS >> 20} 2>/dev/null | sha256sum | cut -c1-64
    seq {NUMBERS} >/tmp/numbers
    sha256sum </tmp/numbers | cut -c1-64
    sort -rn /tmp/numbers | md5sum | cut -c1-32
    gzip -c /tmp/numbers | gunzip -c | cmp - /tmp/numbers && echo same
    awk '{{ s += $1 * $1 % 7 }} END {{ print s }}' /tmp/numbers
    i=0; while [ $i -lt 100 ]; do /bin/true && i=$((i + 1)); done; echo $i
done
echo end
"""
_TICKS = os.sysconf("SC_CLK_TCK")


def expected() -> list[str]:
    """Return the expected output of the script between "ready" and "end"."""
    text = "".join(f"{n}\n" for n in range(1, NUMBERS + 1))
    downwards = "".join(f"{n}\n" for n in range(NUMBERS, 0, -1))
    assert gzip.decompress(gzip.compress(text.encode(), 1)).decode() == text
    of_round = [
        hashlib.sha256(bytes(ZEROS)).hexdigest(),
        hashlib.sha256(text.encode()).hexdigest(),
        hashlib.md5(downwards.encode(), usedforsecurity=False).hexdigest(),
        "same",
        str(sum(n * n % 7 for n in range(1, NUMBERS + 1))),
        "100",
    ]
    return of_round * ROUNDS


@dataclass(frozen=True)
class Outcome:
    """One guest's work: whether its results are right, its seconds, its processor seconds."""

    right: bool
    seconds: float
    cpu: float


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process."""
    fields = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def busy_seconds() -> float:
    """Return the time during which the host's processors were busy or stolen."""
    user, nice, system, _, _, irq, softirq, steal, *_ = map(
        int, Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    )
    return (user + nice + system + irq + softirq + steal) / _TICKS


def start(cores: set[int]) -> subprocess.Popen[str]:
    """A guest that waits for the start signal."""
    command = [sys.executable, "-m", "ringlet", "run", "busybox", "--memory", "256M", "--",
               "sh", "-c", SCRIPT]  # fmt: skip
    guest = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    os.sched_setaffinity(guest.pid, cores)
    assert guest.stdout is not None
    if guest.stdout.readline() != "ready\n":
        raise RuntimeError("a guest did not start")
    return guest


def work(guest: subprocess.Popen[str], wanted: Sequence[str]) -> Outcome:
    """Send the start signal and wait for the end."""
    assert guest.stdin is not None
    assert guest.stdout is not None
    cpu, started = cpu_seconds(guest.pid), time.monotonic()
    guest.stdin.write("\n")
    guest.stdin.flush()
    watchdog = threading.Timer(PATIENCE, guest.kill)
    watchdog.start()
    lines = []
    while (line := guest.stdout.readline().strip()) not in {"end", ""}:
        lines.append(line)
    seconds = time.monotonic() - started
    cpu = cpu_seconds(guest.pid) - cpu
    watchdog.cancel()
    return Outcome(lines == wanted and line == "end", seconds, cpu)


def race(count: int, cores: set[int], wanted: Sequence[str]) -> tuple[list[Outcome], float]:
    """Run that many guests at once; return also the cores that the host's other work used."""
    with ExitStack() as stack:
        guests = [stack.enter_context(start(cores)) for _ in range(count)]
        busy, began = busy_seconds(), time.monotonic()
        with ThreadPoolExecutor(count) as pool:
            outcomes = list(pool.map(lambda guest: work(guest, wanted), guests))
        others = busy_seconds() - busy - sum(outcome.cpu for outcome in outcomes)
        others = max(0.0, others) / (time.monotonic() - began)
    print(f"{count} at once on {len(cores)} cores; the host's other work took {others:.2f} cores",
          flush=True)  # fmt: skip
    return outcomes, others


def compare(count: int, cores: set[int], wanted: Sequence[str]) -> tuple[int, int]:
    """Run one guest, several, and one; return how many were wrong and how many too slow."""
    (before,), _ = race(1, cores, wanted)
    together, others = race(count, cores, wanted)
    (after,), _ = race(1, cores, wanted)
    for one in (before, after):
        print(f"alone: {one.seconds:.1f} s, {one.cpu:.1f} s of processor time")
    alone = (before.cpu + after.cpu) / 2
    part = min(1.0, (len(cores) - others) / count)
    fair = alone / part
    print(f"fair: {part:.2f} of a core and {fair:.1f} s each")
    total = sum(outcome.cpu for outcome in together)
    for number, outcome in enumerate(together, 1):
        print(f"guest {number}: {'right' if outcome.right else 'WRONG'}, {outcome.seconds:.1f} s, "
              f"{outcome.seconds / alone:.2f} times as long as alone, "
              f"{outcome.seconds / fair - 1:+.0%} of the fair time, "
              f"{outcome.cpu / total:.1%} of the processor time")  # fmt: skip
    wrong = sum(not outcome.right for outcome in (before, *together, after))
    slow = sum(outcome.seconds > (1 + TOLERANCE) * fair for outcome in together)
    print(f"{wrong} wrong, {slow} slower than fair by more than {TOLERANCE:.0%}", flush=True)
    return wrong, slow


def main() -> int:
    """Repeat rounds until one is fair."""
    available = sorted(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cores", type=int, default=min(2, len(available)))
    parser.add_argument("--guests", type=int, help="two for each core")
    parser.add_argument("--rounds", type=int, default=3, help="at most")
    options = parser.parse_args()
    cores = set(available[: options.cores])
    wanted = expected()
    for _ in range(options.rounds):
        wrong, slow = compare(options.guests or 2 * len(cores), cores, wanted)
        if wrong or not slow:
            return bool(wrong)
    return 1


if __name__ == "__main__":
    sys.exit(main())
