"""Boots Debian's kernels again and again: `python -m tests.guests.matrix --times 20`.

They are both kernels of Debian 13 and of Debian 12, one of Debian 11, and those for 32-bit
processors, with and without PAE.

Each boot runs a script that looks for what must not be: kernel warnings, an unstable clock, lost
ticks, a vulnerable processor.  Prints a line for each combination; the exit status is the number of
boots that went wrong, at most 100.
"""

import argparse
import itertools
import subprocess
import sys
import time

from tests.guests.arguments import positive

KERNELS = (
    "linux-image-cloud-amd64", "linux-image-amd64", "linux-image-cloud-amd64/bookworm",
    "linux-image-amd64/bookworm", "linux-image-amd64/bullseye",
    "linux-image-686-pae:i386/bookworm", "linux-image-686:i386/bookworm",
)  # fmt: skip
MEMORIES = ("256M", "512M", "2G")
ARGUMENTS = ("", "nokaslr")
PATIENCE = 120
SCRIPT = """
dmesg | grep -E 'WARNING|BUG:|Oops|Call Trace|unstable|soft lockup|lost .* tick'
grep Vulnerable /sys/devices/system/cpu/vulnerabilities/* | grep -v "$ACCEPTED"
test "$(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)" = tsc || echo clock
echo well
"""


def boot(package: str, memory: str, append: str) -> str:
    """Boot once; return what went wrong, or ""."""
    # Linux has no remedy for branch history injection in 32-bit kernels.
    accepted = "BHI: Vulnerable" if ":i386" in package else "none"
    script = SCRIPT.replace("$ACCEPTED", accepted)
    command = [sys.executable, "-m", "ringlet", "run", "busybox", "--package", package,
               "--memory", memory, "--append", append, "--", "sh", "-c", script]  # fmt: skip
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        return f"nothing after {PATIENCE} s"
    if done.returncode or done.stderr or done.stdout != b"well\n":
        return f"status {done.returncode}, {done.stdout!r}, {done.stderr!r}"
    return ""


def main() -> int:
    """Boot every combination `--times` times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=positive, default=20)
    times = parser.parse_args().times
    wrong = 0
    for package, memory, append in itertools.product(KERNELS, MEMORIES, ARGUMENTS):
        started = time.monotonic()
        complaints = [text for _ in range(times) if (text := boot(package, memory, append))]
        wrong += len(complaints)
        seconds = (time.monotonic() - started) / times
        name = f"{package} {memory} {append or 'kaslr'}"
        print(f"{name:<45} {times - len(complaints)} of {times} well, {seconds:.1f} s", flush=True)
        for complaint in complaints:
            print(f"    {complaint}", flush=True)
    return min(wrong, 100)


if __name__ == "__main__":
    sys.exit(main())
