"""Direct execution in a Debian guest: when it is used, and that it changes no result."""

from __future__ import annotations

import base64
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ringlet.direct.support import obstacle
from tests.guests.counters import direct_counters

PATIENCE = 120
BUSY = "i=0; while [ $i -lt 400000 ]; do i=$((i+1)); done; echo $i"

# The first test fetches the kernel, where there is none.
pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("kernel")]


@pytest.fixture(scope="module")
def hindrance() -> str:
    return obstacle()


def command(script: str, *options: str) -> list[str]:
    return [
        sys.executable, "-m", "ringlet", "run", "busybox", "--stats", *options, "--", "sh", "-c",
        script,
    ]  # fmt: skip


def in_guest(script: str, *options: str) -> tuple[str, dict[str, int]]:
    """Run a script with the guest's shell; return its output, and the counters of the run."""
    done = subprocess.run(
        command(script, *options), capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, direct_counters(done.stderr)


def test_a_busy_program_changes_over() -> None:
    output, counters = in_guest(BUSY)

    assert output == "400000\n"
    assert (counters["direct_runs"] >= 1) == (not obstacle())
    assert counters["direct_lost"] == 0


def test_never_means_never() -> None:
    output, counters = in_guest(BUSY, "--direct", "never")

    assert output == "400000\n"
    assert set(counters.values()) == {0}


def test_always_runs_every_program_directly(hindrance: str) -> None:
    if hindrance:
        done = subprocess.run(
            command("true", "--direct", "always"), capture_output=True, text=True, check=False
        )
        assert (done.returncode, hindrance in done.stderr) == (2, True)
        return
    script = "for i in 1 2 3 4 5 6 7 8 9; do sh -c 'echo $$' >/dev/null; done; ls / | wc -l"
    output, counters = in_guest(script, "--direct", "always")

    assert int(output) > 5
    assert counters["direct_calls"] > 500
    assert counters["direct_lost"] == 0


def elf32(code: bytes) -> bytes:
    """A static 32-bit program."""
    base, head = 0x08048000, 0x34 + 0x20
    size = head + len(code)
    header = b"\x7fELF\1\1\1".ljust(16, b"\0") + struct.pack(
        "<HHIIIIIHHHHHH", 2, 3, 1, base + head, 0x34, 0, 0, 0x34, 0x20, 1, 0, 0, 0
    )
    return header + struct.pack("<8I", 1, 0, base, base, size, size, 5, 0x1000) + code


@pytest.mark.parametrize("direct", ["auto", "never"])
def test_32_bit_program_runs_beside_64_bit_ones(direct: str) -> None:
    """It calls exit(7) by INT 80h."""
    program = base64.b64encode(elf32(bytes.fromhex("b801000000bb07000000cd80"))).decode()
    script = f"echo {program} | base64 -d >/p; chmod +x /p; /p 2>/dev/null; echo $?"
    output, _ = in_guest(script, "--direct", direct)

    assert int(output) == 7


def test_more_programs_than_processes(hindrance: str) -> None:
    """Forty programs at once: processes go from one address space to the next."""
    script = (
        "n=0; while [ $n -lt 40 ]; do (i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done;"
        " echo $n:$i) & n=$((n+1)); done; wait"
    )
    output, counters = in_guest(script, "--direct", "never" if hindrance else "always")

    assert sorted(output.split()) == sorted(f"{n}:2000" for n in range(40))
    assert counters["direct_lost"] == 0


def children(pid: int) -> set[int]:
    """The processes that descend from one."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found |= {int(child)} | children(int(child))
    return found


def test_a_killed_process_costs_only_its_speed(hindrance: str) -> None:
    """The host kills direct processes, as when its memory runs out; the programs go on."""
    if hindrance:
        return
    script = "i=0; while [ $i -lt 3000000 ]; do i=$((i+1)); done; echo $i"
    run = subprocess.Popen(
        command(script, "--direct", "always"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    killed = 0
    deadline = time.monotonic() + PATIENCE
    while run.poll() is None and killed < 3 and time.monotonic() < deadline:
        try:
            zygotes = children(run.pid)
            for direct in [c for z in zygotes for c in children(z)]:
                os.kill(direct, signal.SIGKILL)
                killed += 1
        except (FileNotFoundError, ProcessLookupError):
            pass
        time.sleep(0.05)
    output, errors = run.communicate(timeout=PATIENCE)

    assert killed
    assert (run.returncode, output) == (0, "3000000\n"), errors


def test_nothing_is_left_when_the_run_is_killed(hindrance: str) -> None:
    if hindrance:
        return
    run = subprocess.Popen(
        command("while true; do true; done", "--direct", "always"),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + PATIENCE
    left: set[int] = set()
    while len(left) < 2 and time.monotonic() < deadline:
        left = children(run.pid)
        time.sleep(0.05)
    run.kill()
    run.wait()

    assert len(left) >= 2
    while any(Path(f"/proc/{pid}").exists() for pid in left):
        assert time.monotonic() < deadline
        time.sleep(0.05)
