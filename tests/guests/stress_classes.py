"""Compares the verdicts of stress-ng's classes under each choice of --direct.

`python -m tests.guests.stress_classes --class interrupt --class pipe`: every stressor of a class
runs for a second in a guest under `never`, `always` and `auto`.  Its verdict is stress-ng's exit
status, which says whether it passed, failed, or found that it cannot run there.  The exit status is
the number of stressors whose verdicts differ, and of complaints of the kernels, at most 100.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile

from ringlet.config import DIRECT_CHOICES
from tests.guests.stress import archive, kernel_complaints, run

# Each wants more than an initial RAM disk in 1 GiB of RAM has, and then the verdict is chance.
LEFT_OUT = {"bad-altstack", "brk", "oom-pipe", "swap", "bigheap", "ramfs", "resources"}
_INIT = """#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp; cd /tmp
for stressor in {stressors}; do
    stress-ng --$stressor 1 --verify -t {seconds} --temp-path /tmp >/tmp/log 2>&1
    status=$?
    echo "verdict $stressor $status"
    [ $status = 2 ] && cat /tmp/log
done
dmesg | grep -E '{complaints}' | sed 's/^/kernel log: /'
echo end of all
poweroff -f
"""
_VERDICT = re.compile(r"^verdict (\S+) (\d+)", re.MULTILINE)


def stressors(program: str, classes: list[str]) -> list[str]:
    """Return the stressors of the classes, in the order in which stress-ng names them."""
    found: dict[str, None] = {}
    for name in classes:
        command = [program, "--class", f"{name}?"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        _, known, names = (done.stdout + done.stderr).partition("stressors:")
        if not known:
            sys.exit(f"{name}: stress-ng has no such class")
        found |= dict.fromkeys(names.split())
    return [name for name in found if name not in LEFT_OUT]


def verdicts(initrd: str, direct: str, timeout: float) -> tuple[dict[str, str], list[str]]:
    """Run the guest, and return each stressor's exit status, and what else went wrong."""
    print(f"--direct {direct}", flush=True)
    output = run(initrd, timeout, "--direct", direct)
    complaints = [f"{direct}: {line}" for line in kernel_complaints(output)]
    return dict(_VERDICT.findall(output)), complaints


def main() -> int:
    """Run the classes under each choice, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--class", dest="classes", action="append", required=True)
    parser.add_argument("--seconds", type=int, default=1, help="for each stressor")
    options = parser.parse_args()
    program = shutil.which("stress-ng")
    if program is None:
        sys.exit("there is no stress-ng; on Debian: apt-get install stress-ng")
    names = stressors(program, options.classes)
    init = _INIT.replace("{stressors}", " ".join(names))
    wrong = []
    found = {}
    with tempfile.NamedTemporaryFile(suffix=".cpio") as initrd:
        initrd.write(archive(program, init, options.seconds))
        initrd.flush()
        for direct in DIRECT_CHOICES:
            limit = len(names) * (options.seconds + 30)
            found[direct], complaints = verdicts(initrd.name, direct, limit)
            wrong += complaints
    for name in names:
        of_each = {direct: found[direct].get(name, "none") for direct in DIRECT_CHOICES}
        if len(set(of_each.values())) > 1 or "2" in of_each.values():
            wrong.append(f"{name}: " + ", ".join(f"{one} {got}" for one, got in of_each.items()))
    print(f"{len(names)} stressors, {len(wrong)} complaints")
    print("".join(f"    {line}\n" for line in wrong), end="")
    return min(len(wrong), 100)


if __name__ == "__main__":
    sys.exit(main())
