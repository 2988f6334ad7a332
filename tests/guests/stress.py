"""Runs the host's stress-ng in Debian as a guest: `python -m tests.guests.stress --total 600`.

Nine stressors, one after the other, each of which verifies what it does: `--seconds` is for each,
`--total` for all together.  stress-ng and its libraries are taken from this host (Debian's package
stress-ng).  The exit status is the number of complaints, at most 100: stressors that failed or
found something wrong, what the kernel's log complains of, and a run that did not come to its end.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from ringlet.images.arguments import with_huge_pages
from ringlet.images.busybox import find_busybox
from ringlet.images.cpio import CpioWriter
from ringlet.images.debian import fetch_kernel
from ringlet.images.initramfs import Shell, make_initramfs

STRESSORS = ("cpu", "vm", "fork", "switch", "mmap", "signal", "timer", "futex", "memcpy")
_LIBRARY = re.compile(r"(/\S+) \(0x")
_INIT = """#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp; cd /tmp
for stressor in {stressors}; do
    if stress-ng --$stressor 2 --verify -t {seconds} --temp-path /tmp >/tmp/log 2>&1 \\
        && ! grep -qE 'fail(ed)?:|error:|unsuccessful' /tmp/log; then
        echo "$stressor passed"
    else
        echo "$stressor failed"
        cat /tmp/log
    fi
done
dmesg | grep -E '{complaints}' | sed 's/^/kernel log: /'
echo end of all
poweroff -f
"""
_COMPLAINTS = (
    "WARNING|BUG:|Oops|Call Trace|bad frame|segfault|general protection|soft lockup|"
    "blocked for more than|rcu:.*(stall|detected)|Out of memory|unchecked MSR"
)


def libraries(program: str) -> list[Path]:
    """Return the files that a dynamically linked program needs."""
    done = subprocess.run(["ldd", program], capture_output=True, text=True, check=True)
    return [Path(path) for path in _LIBRARY.findall(done.stdout)]


def archive(program: str, init: str, seconds: int) -> bytes:
    """Return an initial RAM disk with stress-ng and a script that runs it as init."""
    files = CpioWriter()
    names = [path.relative_to("/") for path in libraries(program)]
    parents = {parent for name in names for parent in name.parents} - {Path()}
    for parent in sorted(parents - {Path("bin"), Path("usr"), Path("usr/bin")}):
        files.directory(str(parent))
    for name in names:
        files.file(str(name), Path("/", name).read_bytes(), 0o755)
    files.file("bin/stress-ng", Path(program).read_bytes(), 0o755)
    script = init.format(seconds=seconds, complaints=_COMPLAINTS)
    files.file("stress-init", script.encode(), 0o755)
    return make_initramfs(find_busybox(), Shell()) + files.contents()


def complaints(output: str) -> list[str]:
    """Return a line for each error in the guest's output."""
    lines = output.replace("\r", "").splitlines()
    missing = [f"{name} did not pass" for name in STRESSORS if f"{name} passed" not in lines]
    return [*missing, *kernel_complaints(output)]


def kernel_complaints(output: str) -> list[str]:
    """Return what the kernel complains of, and whether the guest did not come to its end."""
    lines = output.replace("\r", "").splitlines()
    said = [line for line in lines if line.startswith("kernel log: ")]
    return said if "end of all" in lines else [*said, "the guest did not come to its end"]


def run(initrd: str, timeout: float, *options: str) -> str:
    """Boot the guest, with more options of `ringlet run`, and return what it printed."""
    kernel = fetch_kernel().vmlinuz
    arguments = with_huge_pages("console=ttyS0 quiet panic=-1 rdinit=/stress-init", kernel)
    command = [sys.executable, "-m", "ringlet", "run", "--kernel", str(kernel), "--initrd", initrd,
               "--append", arguments, "--no-reboot", *options]  # fmt: skip
    lines = []
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace"
    ) as guest:
        # The output shows the progress, and remains even if the guest hangs.
        watchdog = threading.Timer(timeout, guest.kill)
        watchdog.start()
        assert guest.stdout is not None
        for line in guest.stdout:
            print(line, end="", flush=True)
            lines.append(line)
        watchdog.cancel()
    return "".join(lines)


def main() -> int:
    """Run all stressors, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=int, help="for each stressor")
    length.add_argument("--total", type=int, default=600, help="seconds for all together")
    options = parser.parse_args()
    seconds = options.seconds or max(1, round(options.total / len(STRESSORS)))
    program = shutil.which("stress-ng")
    if program is None:
        sys.exit("there is no stress-ng; on Debian: apt-get install stress-ng")
    started = time.monotonic()
    with tempfile.NamedTemporaryFile(suffix=".cpio") as initrd:
        init = _INIT.replace("{stressors}", " ".join(STRESSORS))
        initrd.write(archive(program, init, seconds))
        initrd.flush()
        output = run(initrd.name, len(STRESSORS) * (seconds + 60))
    wrong = complaints(output)
    took = time.monotonic() - started
    print(f"{len(STRESSORS)} stressors, {seconds} s each, {took:.0f} s in all, "
          f"{len(wrong)} complaints")  # fmt: skip
    print("".join(f"    {line}\n" for line in wrong), end="")
    return min(len(wrong), 100)


if __name__ == "__main__":
    sys.exit(main())
