"""Measures the start of a kernel that need not unpack itself: `python -m tests.guests.unpacked`.

Starts Debian's kernel as it comes, a bzImage, and the vmlinux that is packed in it, in turns; the
least times of each count.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Final

from ringlet.bench.kernel import decompress, payload
from ringlet.config import LinuxConfig
from ringlet.images.busybox import find_busybox
from ringlet.images.channel import StatusPort
from ringlet.images.debian import fetch_kernel
from ringlet.images.initramfs import Command, make_initramfs
from ringlet.machine import boot
from ringlet.machine.engine import Engine
from ringlet.machine.pc import Options, Wire
from tests.guests.arguments import positive

APPEND: Final = "console=ttyS0 quiet panic=-1"
MEMORY: Final = 512 << 20


def unpack(kernel: Path, directory: Path) -> Path:
    """Write the vmlinux that a bzImage contains.  Raises HostError if a tool is missing."""
    vmlinux = directory / "vmlinux"
    vmlinux.write_bytes(decompress(payload(kernel.read_bytes())))
    return vmlinux


def start(kernel: Path, initrd: bytes) -> tuple[float, float]:
    """Run a guest; return the seconds to build its machine, and from kernel entry to init."""

    def ignore(data: bytes) -> None: ...

    inits: list[int] = []
    control = StatusPort(
        on_next=lambda: None,
        on_init=lambda: inits.append(time.monotonic_ns()),
        on_ready=lambda: None,
        on_exit=lambda status: None,
    )
    began = time.monotonic_ns()
    config = LinuxConfig(kernel, MEMORY, initrd, APPEND)
    wires = [Wire(ignore), Wire(ignore), Wire(ignore), Wire(control)]
    machine = boot.build(config, Engine(), Options(wires)).machine
    machine.run()
    entry = machine.counters()["machine_entry_ns"]
    return (entry - began) / 1e9, (inits[0] - entry) / 1e9


def main() -> None:
    """Compare, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=positive, default=8)
    rounds = parser.parse_args().rounds
    bzimage = fetch_kernel().vmlinuz
    initrd = make_initramfs(find_busybox(), Command((b"true",)))
    with tempfile.TemporaryDirectory() as name:
        kernels = (bzimage, unpack(bzimage, Path(name)))
        times = [[start(kernel, initrd) for kernel in kernels] for _ in range(rounds)]
    for i, what in enumerate(("bzImage", "vmlinux")):
        build, init = (min(row[i][j] for row in times) for j in range(2))
        print(f"{what}: {build:.2f} s to build the machine, {init:.2f} s from its entry to init")


if __name__ == "__main__":
    main()
