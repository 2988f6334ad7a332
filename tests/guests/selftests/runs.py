"""Runs the self-tests on each kind of machine and reads their verdicts."""

import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ringlet.bench.engines import QEMU_MACHINE
from ringlet.images.arguments import with_huge_pages
from tests.guests.selftests.build import KERNEL_LOG

MEMORY = 256
QEMU_CPU = "max,la57=off"  # linear addresses as wide as Ringlet's
ARGUMENTS = "console=ttyS0 quiet loglevel=1 panic=-1"
STALL = 60
"""After this many seconds without a verdict a machine counts as hanging; a test has 30."""
_VERDICT = re.compile(r"(\w+\.\w+): (ok|FAIL|skip)\b ?(.*)")
_TICK = 0.05


class Engine(StrEnum):
    """The machines that run the tests; NATIVE is this host with its own kernel."""

    RINGLET = "ringlet"
    EXACT = "exact"
    DIRECT = "direct"
    TRANSLATED = "translated"
    QEMU = "qemu"
    NATIVE = "native"


@dataclass(frozen=True)
class Guest:
    """The inputs of all machines."""

    kernel: Path
    program: Path
    initrd: Path


@dataclass(frozen=True)
class Verdict:
    """The verdict on one test: "ok", "FAIL" or "skip", and the reason."""

    result: str
    reason: str = ""

    @property
    def failed(self) -> bool:
        return self.result == "FAIL"


@dataclass(frozen=True)
class Run:
    """The verdicts by name; `complaint` says why some may be missing."""

    verdicts: dict[str, Verdict]
    complaint: str = ""


def command(engine: Engine, guest: Guest, arguments: str = "") -> list[str]:
    """Return the command line of one machine, with these arguments for its kernel."""
    append = with_huge_pages(f"{ARGUMENTS} {arguments}".strip(), guest.kernel)
    if engine is Engine.QEMU:
        return [*QEMU_MACHINE, "-cpu", QEMU_CPU, "-m", str(MEMORY), "-serial", "stdio",
                "-no-reboot", "-kernel", str(guest.kernel), "-initrd", str(guest.initrd),
                "-append", append]  # fmt: skip
    options = {
        Engine.EXACT: ["--exact"],
        Engine.DIRECT: ["--direct", "always"],
        Engine.TRANSLATED: ["--direct", "never"],
    }
    return [sys.executable, "-m", "ringlet", "run", "--kernel", str(guest.kernel), "--initrd",
            str(guest.initrd), "--append", append, "--memory", f"{MEMORY}M", "--no-reboot",
            *options.get(engine, [])]  # fmt: skip


def run(
    engine: Engine, guest: Guest, wanted: list[str], arguments: str = "", only: str = ""
) -> Run:
    """Run all tests, or those whose names begin with one of the words in `only`.

    A test at which the machine hangs has failed; another machine runs those after it.  `wanted` are
    the tests' names in their order.
    """
    if engine is Engine.NATIVE:
        result, _ = _run_once([str(guest.program), *filter(None, only.split(","))])
        log = {KERNEL_LOG: Verdict("skip", "the log is the host's")}
        return Run(result.verdicts | log, result.complaint)
    verdicts: dict[str, Verdict] = {}
    after = ""
    while True:
        words = [arguments, f"selftests={only}" if only else "", f"after={after}" if after else ""]
        result, hung = _run_once(command(engine, guest, " ".join(filter(None, words))))
        verdicts |= result.verdicts
        left = [name for name in wanted if name not in verdicts]
        if not (hung and left and verdicts):
            return Run(verdicts, result.complaint)
        after = left[0]
        verdicts[after] = Verdict("FAIL", result.complaint)


def _run_once(argv: list[str]) -> tuple[Run, bool]:
    """Run a command; the second value says whether it hung."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        with subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=errors
        ) as process:
            seen, since = 0, time.monotonic()
            while process.poll() is None and time.monotonic() - since < STALL:
                time.sleep(_TICK)
                if (size := output.seek(0, 2)) != seen:
                    seen, since = size, time.monotonic()
            hung = process.poll() is None
            if hung:
                process.kill()
        output.seek(0)
        errors.seek(0)
        text, said = output.read(), errors.read().decode(errors="replace")
    if hung:
        return Run(parse(text), f"the machine hung: nothing for {STALL} s"), True
    ended = f"ended with status {process.returncode} {said[-500:]}"
    return Run(parse(text), "" if b"done" in text.split() else ended), False


def parse(output: bytes) -> dict[str, Verdict]:
    """Return the verdicts in the output of a run."""
    lines = output.decode(errors="replace").replace("\r", "").splitlines()
    found = (match for line in lines if (match := _VERDICT.fullmatch(line)))
    return {match[1]: Verdict(match[2], match[3]) for match in found}
