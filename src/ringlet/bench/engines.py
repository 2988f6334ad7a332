"""The three ways to run a benchmark program: natively, under Ringlet, under QEMU's TCG."""

import os
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass

from ringlet.bench.output import Line
from ringlet.bench.toolchain import Program

# isa-debug-exit ends a run that wrote 0 with this status; Ringlet's bare machine does the same.
GUEST_SUCCESS = 1

QEMU_MACHINE = ("qemu-system-x86_64", "-nodefaults", "-machine", "pc,accel=tcg", "-cpu", "max",
                "-display", "none")  # fmt: skip
# After a panic the kernel resets the machine, and the reset ends the run.
KERNEL_ARGUMENTS = "console=ttyS0 quiet panic=-1"

NATIVE, RINGLET, QEMU = "native", "ringlet", "qemu"
ENGINES = (NATIVE, RINGLET, QEMU)


@dataclass(frozen=True)
class Transcript:
    """One run: its lines, exit status (None: killed after the time limit), end of its stderr.

    `started` is the run's start in ns of CLOCK_MONOTONIC.
    """

    lines: list[Line]
    status: int | None
    stderr: str
    started: int = 0


def command(engine: str, program: Program, memory: int) -> list[str]:
    """Return the command line that runs `program`; `memory` is the guest's RAM in MiB."""
    match engine:
        case "native":
            return [str(program.native)]
        case "ringlet" if program.kernel is not None:
            # The counters include the time of the kernel's entry.
            return [sys.executable, "-m", "ringlet", "run", "--kernel", str(program.kernel),
                    "--initrd", str(program.guest), "--append", KERNEL_ARGUMENTS,
                    "--memory", f"{memory}M", "--no-reboot", "--stats"]  # fmt: skip
        case "qemu" if program.kernel is not None:
            # The firmware's log, on the same stream, ends when the kernel is entered.
            return [*QEMU_MACHINE, "-m", str(memory),
                    "-chardev", "stdio,id=out,mux=on,signal=off", "-serial", "chardev:out",
                    "-device", "isa-debugcon,iobase=0x402,chardev=out", "-no-reboot",
                    "-kernel", str(program.kernel), "-initrd", str(program.guest),
                    "-append", KERNEL_ARGUMENTS]  # fmt: skip
        case "ringlet":
            return [sys.executable, "-m", "ringlet", "run", "--bare", str(program.guest),
                    "--memory", f"{memory}M"]  # fmt: skip
        case "qemu":
            return [*QEMU_MACHINE, "-m", str(memory), "-serial", "stdio",
                    "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-no-reboot",
                    "-kernel", str(program.guest)]  # fmt: skip
        case _:
            raise ValueError(engine)


def success(engine: str, program: Program) -> int:
    """Return the exit status of a successful run; a Linux that powers off gives 0."""
    return 0 if engine == NATIVE or program.kernel is not None else GUEST_SUCCESS


def available() -> list[str]:
    """Return the engines that this host has."""
    return [e for e in ENGINES if e != QEMU or shutil.which("qemu-system-x86_64")]


def run(argv: list[str], timeout: float) -> Transcript:
    """Run a command and note when each line arrives; kill the command after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    started = time.monotonic_ns()
    with tempfile.TemporaryFile() as errors:
        with subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
        ) as process:
            assert process.stdout is not None
            lines, ended = _read_lines(process.stdout.fileno(), deadline)
            if not ended:
                process.kill()
            process.wait()
        errors.seek(0)
        stderr = errors.read().decode(errors="replace").strip()
    return Transcript(lines, process.returncode if ended else None, stderr, started)


def _read_lines(descriptor: int, deadline: float) -> tuple[list[Line], bool]:
    """Return the lines up to the end of file (with True) or the deadline (with False)."""
    lines: list[Line] = []
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            if not selector.select(left):
                continue
            data = os.read(descriptor, 65536)
            if not data:
                return lines, True
            arrived = time.monotonic_ns()
            *complete, rest = (rest + data).split(b"\n")
            lines += [Line(arrived, text.decode(errors="replace")) for text in complete]
    return lines, False
