"""Runs the host's stress-ng in Debian as a guest: `python -m tests.guests.stress --seconds 600`.

Each stressor verifies what it does.  stress-ng and its libraries are taken from this host (Debian's
package stress-ng).  The exit status is the number of stressors that failed.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

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
    stress-ng --$stressor 2 --verify -t {seconds} --temp-path /tmp >/tmp/log 2>&1 \\
        && echo "$stressor passed" || {{ echo "$stressor failed"; cat /tmp/log; }}
done
dmesg | grep -E 'WARNING|BUG:|Oops|Call Trace|bad frame|segfault'
poweroff -f
"""


def libraries(program: str) -> list[Path]:
    """The files that a dynamically linked program needs."""
    done = subprocess.run(["ldd", program], capture_output=True, text=True, check=True)
    return [Path(path) for path in _LIBRARY.findall(done.stdout)]


def archive(program: str, seconds: int) -> bytes:
    """An initial RAM disk whose init runs the stressors."""
    files = CpioWriter()
    names = [path.relative_to("/") for path in libraries(program)]
    parents = {parent for name in names for parent in name.parents} - {Path()}
    for parent in sorted(parents - {Path("bin"), Path("usr"), Path("usr/bin")}):
        files.directory(str(parent))
    for name in names:
        files.file(str(name), Path("/", name).read_bytes(), 0o755)
    files.file("bin/stress-ng", Path(program).read_bytes(), 0o755)
    init = _INIT.format(stressors=" ".join(STRESSORS), seconds=seconds)
    files.file("stress-init", init.encode(), 0o755)
    return make_initramfs(find_busybox(), Shell()) + files.contents()


def main() -> int:
    """Run all stressors, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=600, help="for each stressor")
    seconds = parser.parse_args().seconds
    program = shutil.which("stress-ng")
    if program is None:
        sys.exit("there is no stress-ng; on Debian: apt-get install stress-ng")
    with tempfile.NamedTemporaryFile(suffix=".cpio") as initrd:
        initrd.write(archive(program, seconds))
        initrd.flush()
        done = subprocess.run(
            [sys.executable, "-m", "ringlet", "run", "--kernel", str(fetch_kernel().vmlinuz),
             "--initrd", initrd.name, "--append", "console=ttyS0 quiet rdinit=/stress-init",
             "--no-reboot"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=False,
            timeout=len(STRESSORS) * (seconds + 60),
        )  # fmt: skip
    print(done.stdout)
    passed = sum(f"{stressor} passed" in done.stdout for stressor in STRESSORS)
    return len(STRESSORS) - passed


if __name__ == "__main__":
    sys.exit(main())
