"""Ends `ringlet run debian` at random moments: `python -m tests.guests.interrupted --times 100`.

Each run fetches Debian's kernel from a slow server of its own, makes the initial RAM disk, starts
the guest and a command in it, and gets SIGINT, SIGTERM or SIGHUP on the way.  It must end within
two seconds with 128 and the signal's number, say nothing, and leave no process and nothing
unfinished in the cache.  Prints a line for each that does not; the exit status is their number, at
most 100.
"""

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from ringlet.images.busybox import find_busybox
from ringlet.images.debian import fetch_kernel
from tests.guests.arguments import positive
from tests.guests.mirror import Mirror, command, session, wait_until_stoppable

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
RATE: Final = 14 << 20
LATEST: Final = 4.0
"""The longest delay of a signal, in seconds after the command has installed its handlers."""
LIMIT: Final = 2.0


def interrupt(mirror: Mirror, number: signal.Signals, delay: float) -> str:
    """Run once; return what went wrong, or ""."""
    shutil.rmtree(mirror.cache / "ringlet", ignore_errors=True)
    with subprocess.Popen(
        command("busybox", "--", "sleep", "100"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env=mirror.environment, start_new_session=True,
    ) as process:  # fmt: skip
        wait_until_stoppable(process.pid)
        time.sleep(delay)
        process.send_signal(number)
        sent = time.monotonic()
        told = process.communicate(timeout=60)
        took = time.monotonic() - sent
        orphans = session(process.pid)
    unfinished = [name for name in mirror.entries() if "unfinished" in name]
    if process.returncode != 128 + number or any(told) or took > LIMIT or orphans or unfinished:
        return f"status {process.returncode} after {took:.1f} s, {told}, {orphans}, {unfinished}"
    return ""


def main() -> int:
    """Run and interrupt the command `--times` times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=positive, default=100)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    # A shell's background job ignores SIGINT, and its children would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    chance = random.Random(options.seed)
    bad = 0
    with tempfile.TemporaryDirectory() as name:
        kernel, busybox = fetch_kernel().vmlinuz.read_bytes(), find_busybox().read_bytes()
        mirror = Mirror(Path(name), kernel, busybox)
        with mirror.slow(RATE):
            for _ in range(options.times):
                number, delay = chance.choice(SIGNALS), chance.uniform(0, LATEST)
                if trouble := interrupt(mirror, number, delay):
                    bad += 1
                    print(f"{number.name} after {delay:.3f} s: {trouble}", flush=True)
    print(f"{options.times - bad} of {options.times} ended well")
    return min(bad, 100)


if __name__ == "__main__":
    sys.exit(main())
