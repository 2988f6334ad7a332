"""The ways to run a benchmark program: natively, under Ringlet, under QEMU's TCG and KVM."""

import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ringlet.bench.output import Line
from ringlet.bench.toolchain import Program
from ringlet.images.arguments import with_huge_pages
from ringlet.machine.host import cpu_flags

# isa-debug-exit ends a run that wrote 0 with this status; Ringlet's bare machine does the same.
GUEST_SUCCESS = 1

# As clock_getcpuclockid(3) makes it: a process's inverted number, shifted, and this is its clock.
_CPUCLOCK_SCHED = 2

QEMU_MACHINE = ("qemu-system-x86_64", "-nodefaults", "-display", "none")
KVM_DEVICE = Path("/dev/kvm")
# After a panic the kernel resets the machine, and the reset ends the run.
KERNEL_ARGUMENTS = "console=ttyS0 quiet panic=-1"

NATIVE, RINGLET, QEMU, KVM = "native", "ringlet", "qemu", "kvm"
ENGINES = (NATIVE, RINGLET, QEMU, KVM)
_PROCESSORS = {
    QEMU: ("-machine", "pc,accel=tcg", "-cpu", "max"),
    KVM: ("-machine", "pc,accel=kvm", "-cpu", "host"),
}


@dataclass(frozen=True)
class Transcript:
    """One run: its lines, exit status (None: killed after the time limit), end of its stderr.

    `started` is the run's start in ns of CLOCK_MONOTONIC.
    """

    lines: list[Line]
    status: int | None
    stderr: str
    started: int = 0


def command(engine: str, program: Program, memory: int, options: Sequence[str] = ()) -> list[str]:
    """Return the command line that runs `program`; `memory` is the guest's RAM in MiB.

    `options` are more options of `ringlet run`.
    """
    arguments = f"{KERNEL_ARGUMENTS} {program.kernel_arguments}".strip()
    if program.kernel is not None:
        arguments = with_huge_pages(arguments, program.kernel)
    match engine:
        case "native":
            return [str(program.native), *program.native_arguments]
        case "ringlet" if program.kernel is not None:
            # The counters include the time of the kernel's entry.
            return [sys.executable, "-m", "ringlet", "run", "--kernel", str(program.kernel),
                    "--initrd", str(program.guest), "--append", arguments,
                    "--memory", f"{memory}M", "--no-reboot", "--stats", *options]  # fmt: skip
        case "qemu" | "kvm" if program.kernel is not None:
            # The firmware's log, on the same stream, ends when the kernel is entered.
            return [*QEMU_MACHINE, *_PROCESSORS[engine], "-m", str(memory),
                    "-chardev", "stdio,id=out,mux=on,signal=off", "-serial", "chardev:out",
                    "-device", "isa-debugcon,iobase=0x402,chardev=out", "-no-reboot",
                    "-kernel", str(program.kernel), "-initrd", str(program.guest),
                    "-append", arguments]  # fmt: skip
        case "ringlet":
            return [sys.executable, "-m", "ringlet", "run", "--bare", str(program.guest),
                    "--memory", f"{memory}M", *options]  # fmt: skip
        case "qemu" | "kvm":
            return [*QEMU_MACHINE, *_PROCESSORS[engine], "-m", str(memory), "-serial", "stdio",
                    "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-no-reboot",
                    "-kernel", str(program.guest)]  # fmt: skip
        case _:
            raise ValueError(engine)


def success(engine: str, program: Program) -> int:
    """Return the exit status of a successful run; a Linux that powers off gives 0."""
    return 0 if engine == NATIVE or program.kernel is not None else GUEST_SUCCESS


def available() -> list[str]:
    """Return the engines that this host has."""
    missing = set()
    if shutil.which("qemu-system-x86_64") is None:
        missing = {QEMU, KVM}
    elif not has_kvm():
        missing = {KVM}
    return [engine for engine in ENGINES if engine not in missing]


def has_kvm() -> bool:
    """Return whether KVM can run a guest here.

    Without virtualization by hardware there may be a KVM that only runs kernels made for it.
    """
    return bool({"vmx", "svm"} & cpu_flags()) and os.access(KVM_DEVICE, os.R_OK | os.W_OK)


def run(argv: list[str], timeout: float, ask: str = "") -> Transcript:
    """Run a command and note when each line arrives; kill the command after `timeout` seconds.

    If `ask` is given, the command is sent SIGUSR1 when a line that begins so arrives: Ringlet
    then prints its counters.
    """
    deadline = time.monotonic() + timeout
    started = time.monotonic_ns()
    with tempfile.TemporaryFile() as errors:
        with subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
        ) as process:
            ended = False
            try:
                lines, ended = _read_lines(process, deadline, ask)
            finally:
                if not ended:
                    process.kill()
            process.wait()
        errors.seek(0)
        stderr = errors.read().decode(errors="replace").strip()
    return Transcript(lines, process.returncode if ended else None, stderr, started)


def cpu_time(process: int) -> int:
    """Return the ns of processor time of a process and its descendants; 0 if it is not known.

    Linux counts the time of children that have ended in ticks, that of the others in ns.
    """
    try:
        own = time.clock_gettime_ns(~process << 3 | _CPUCLOCK_SCHED)
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        ended = sum(map(int, fields[13:15])) * 10**9 // os.sysconf("SC_CLK_TCK")
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return 0
    return own + ended + sum(cpu_time(int(child)) for child in children)


def _read_lines(
    process: subprocess.Popen[bytes], deadline: float, ask: str
) -> tuple[list[Line], bool]:
    """Return the lines up to the end of file (with True) or the deadline (with False)."""
    assert process.stdout is not None
    descriptor = process.stdout.fileno()
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
            cpu = cpu_time(process.pid)
            new = [Line(arrived, text.decode(errors="replace"), cpu) for text in complete]
            if ask and any(line.text.startswith(ask) for line in new):
                process.send_signal(signal.SIGUSR1)
            lines += new
    return lines, False
