"""The examples, built with gcc and run as a user would run them."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


SPIN = """
    .intel_syntax noprefix
    .globl _start
_start:
    mov dx, 0x3F8
    mov al, '!'
    out dx, al
spin:
    inc rax
    jmp spin
"""

NO_SUCH_MSR = """
    .intel_syntax noprefix
    .globl _start
_start:
    mov ecx, 0x1C
    mov eax, 0x800
    xor edx, edx
    wrmsr
    ud2
"""


def build(source: Path, program: Path) -> None:
    subprocess.run(
        [
            "gcc", "-nostdlib", "-static", "-no-pie", "-Wl,-Ttext-segment=0x100000",
            "-Wl,--build-id=none", "-o", program, source,
        ],
        check=True,
    )  # fmt: skip


def run(folder: Path, source: str) -> list[str]:
    """Build `source` and return the command that runs it."""
    (folder / "program.S").write_text(source)
    build(folder / "program.S", folder / "program.elf")
    return [sys.executable, "-m", "ringlet", "run", "--bare", str(folder / "program.elf")]


def run_example(name: str, folder: Path) -> subprocess.CompletedProcess[bytes]:
    program = folder / f"{name}.elf"
    build(ROOT / f"examples/{name}/{name}.S", program)
    return subprocess.run(
        [sys.executable, "-m", "ringlet", "run", "--bare", program],
        cwd=folder, capture_output=True, timeout=50, check=False,
    )  # fmt: skip


def test_hello_prints_its_line_and_ends_with_its_status(tmp_path: Path) -> None:
    done = run_example("hello", tmp_path)

    assert (done.stdout, done.stderr, done.returncode) == (b"Hello from ring 0\n", b"", 1)


def test_timer_prints_ten_dots(tmp_path: Path) -> None:
    done = run_example("timer", tmp_path)

    assert (done.stdout, done.stderr, done.returncode) == (b"..........\n", b"", 1)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_stops_a_guest_that_never_leaves(
    tmp_path: Path, number: signal.Signals, status: int
) -> None:
    command = run(tmp_path, SPIN)
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        first = process.stdout.read(1)
        process.send_signal(number)
        rest, errors = process.communicate(timeout=20)

    assert (first + rest, errors, process.returncode) == (b"!", b"", status)


def test_an_exception_without_an_idt_is_a_triple_fault_at_its_rip(tmp_path: Path) -> None:
    command = run(tmp_path, "    .globl _start\n_start:\n    nop\n    ud2\n")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=50, check=False)

    assert done.returncode == 3
    assert done.stderr.startswith(b"ringlet: triple fault: ")
    assert b" shut down at RIP 0x101001: #UD; its delivery raised #GP(0033), " in done.stderr


def test_an_msr_that_no_processor_has_is_refused(tmp_path: Path) -> None:
    command = run(tmp_path, NO_SUCH_MSR)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=50, check=False)

    assert done.returncode == 3
    assert b" shut down at RIP 0x10100c: #GP(0000); its delivery raised #GP(006b), " in done.stderr
