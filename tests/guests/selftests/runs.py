"""The ways to run the self-tests, and the verdicts they came to."""

import re
import subprocess
import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ringlet.bench.engines import QEMU_MACHINE

MEMORY = 256
ARGUMENTS = "console=ttyS0 quiet loglevel=1 panic=-1"
_VERDICT = re.compile(r"(\w+\.\w+): (ok|FAIL|skip)\b ?(.*)")


class Engine(StrEnum):
    """What runs the tests; NATIVE is this host, with its own kernel."""

    RINGLET = "ringlet"
    EXACT = "exact"
    QEMU = "qemu"
    NATIVE = "native"


@dataclass(frozen=True)
class Verdict:
    """One test's: "ok", "FAIL" or "skip", and why."""

    result: str
    reason: str = ""

    @property
    def failed(self) -> bool:
        return self.result == "FAIL"


@dataclass(frozen=True)
class Run:
    """The verdicts by name; `complaint` says why there may be too few."""

    verdicts: dict[str, Verdict]
    complaint: str


def command(
    engine: Engine, kernel: Path, program: Path, initrd: Path, arguments: str = "", only: str = ""
) -> list[str]:
    """The command line: all tests, or those whose names begin with one of the words in `only`."""
    append = f"{ARGUMENTS} {arguments} {f'selftests={only}' if only else ''}".strip()
    if engine is Engine.NATIVE:
        return [str(program), *filter(None, only.split(","))]
    if engine is Engine.QEMU:
        return [*QEMU_MACHINE, "-cpu", "max", "-m", str(MEMORY), "-serial", "stdio", "-no-reboot",
                "-kernel", str(kernel), "-initrd", str(initrd), "-append", append]  # fmt: skip
    exact = ["--exact"] if engine is Engine.EXACT else []
    return [sys.executable, "-m", "ringlet", "run", "--kernel", str(kernel), "--initrd",
            str(initrd), "--append", append, "--memory", f"{MEMORY}M", "--no-reboot",
            *exact]  # fmt: skip


def run(argv: list[str], timeout: float) -> Run:
    """Run a command and read its verdicts."""
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=timeout
        )
    except subprocess.TimeoutExpired as late:
        return Run(parse(late.stdout or b""), f"not done after {timeout:g} s")
    ended = f"ended with status {done.returncode} {done.stderr.decode(errors='replace')[-500:]}"
    return Run(parse(done.stdout), "" if b"done" in done.stdout.split() else ended)


def parse(output: bytes) -> dict[str, Verdict]:
    """The verdicts in what a run printed."""
    lines = output.decode(errors="replace").replace("\r", "").splitlines()
    found = (match for line in lines if (match := _VERDICT.fullmatch(line)))
    return {match[1]: Verdict(match[2], match[3]) for match in found}
