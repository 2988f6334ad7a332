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

NATIVE, RINGLET, QEMU = "native", "ringlet", "qemu"
ENGINES = (NATIVE, RINGLET, QEMU)


@dataclass(frozen=True)
class Transcript:
    """One run: its lines, exit status (None: killed after the time limit), end of its stderr."""

    lines: list[Line]
    status: int | None
    stderr: str


def command(engine: str, program: Program, memory: int) -> list[str]:
    """The command line that runs `program`; `memory` is the guest's RAM in MiB."""
    match engine:
        case "native":
            return [str(program.native)]
        case "ringlet":
            return [sys.executable, "-m", "ringlet", "run", "--bare", str(program.guest),
                    "--memory", f"{memory}M"]  # fmt: skip
        case "qemu":
            return ["qemu-system-x86_64", "-nodefaults", "-machine", "pc,accel=tcg",
                    "-cpu", "max", "-m", str(memory), "-display", "none", "-serial", "stdio",
                    "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-no-reboot",
                    "-kernel", str(program.guest)]  # fmt: skip
        case _:
            raise ValueError(engine)


def success(engine: str) -> int:
    """The exit status of a run that went well."""
    return 0 if engine == NATIVE else GUEST_SUCCESS


def available() -> list[str]:
    """The engines this host has."""
    return [e for e in ENGINES if e != QEMU or shutil.which("qemu-system-x86_64")]


def run(argv: list[str], timeout: float) -> Transcript:
    """Runs a command, noting when each line arrives; kills it after `timeout` seconds."""
    deadline = time.monotonic() + timeout
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
    return Transcript(lines, process.returncode if ended else None, stderr)


def _read_lines(descriptor: int, deadline: float) -> tuple[list[Line], bool]:
    """Lines until end of file (True) or the deadline (False)."""
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
