"""The serial port of a bare program: standard input, and keys of a terminal."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.cli.test_examples import build
from tests.unit.cli.test_terminal import Pty

pytestmark = pytest.mark.timeout(60)

ECHO = """
    .intel_syntax noprefix
    .globl _start
_start:
    mov dx, 0x3F8
    mov al, '>'
    out dx, al
    mov al, 10
    out dx, al
next:
    mov dx, 0x3FD
wait:
    in al, dx
    test al, 1
    jz wait
    mov dx, 0x3F8
    in al, dx
    out dx, al
    cmp al, 'q'
    jne next
    mov al, 0
    out 0xF4, al
"""
"""Says that it runs, then polls and echoes up to a q; it never asserts RTS."""
BY_INTERRUPT = """
    .intel_syntax noprefix
    .globl _start
_start:
    mov al, 0x11
    out 0x20, al
    mov al, 0x20
    out 0x21, al
    mov al, 4
    out 0x21, al
    mov al, 1
    out 0x21, al
    mov al, 0xEF
    out 0x21, al
    lea rax, [rip + handler]
    lea rdi, [rip + gate]
    mov word ptr [rdi], ax
    shr rax, 16
    mov word ptr [rdi + 6], ax
    mov word ptr [rdi + 2], cs
    lidt [rip + idtr]
    mov dx, 0x3FC
    mov al, 8
    out dx, al
    mov dx, 0x3F9
    mov al, 1
    out dx, al
    sti
    jmp .
handler:
    mov dx, 0x3F8
    in al, dx
    out dx, al
    mov al, 0x20
    out 0x20, al
    mov al, 0
    out 0xF4, al
    .data
    .balign 16
idt:
    .fill 0x24 * 16, 1, 0
gate:
    .word 0, 0, 0x8E00, 0
    .quad 0
idtr:
    .word 0x25 * 16 - 1
    .quad idt
"""
"""Echoes one byte, in the handler of IRQ 4."""


@pytest.fixture
def pty() -> Iterator[Pty]:
    pty = Pty()
    try:
        yield pty
    finally:
        pty.close()


def made(folder: Path, source: str) -> Path:
    (folder / "program.S").write_text(source)
    build(folder / "program.S", folder / "program.elf")
    return folder / "program.elf"


def ran(
    folder: Path, source: str, typed: bytes, *options: str
) -> subprocess.CompletedProcess[bytes]:
    program = made(folder, source)
    return subprocess.run(
        [sys.executable, "-m", "ringlet", "run", "--bare", "--timeout", "20s", *options, program],
        input=typed, capture_output=True, check=False,
    )  # fmt: skip


def job(program: Path) -> str:
    words = ["run", "--bare", str(program)]
    return (
        "say(f'pid {os.getpid()}')\n"
        "from ringlet.cli.main import main\n"
        f"sys.exit(main({words}))"
    )


def test_a_polling_program_reads_standard_input(tmp_path: Path) -> None:
    done = ran(tmp_path, ECHO, b"hello q and more")

    assert (done.stdout, done.stderr, done.returncode) == (b">\nhello q", b"", 1)


def test_a_program_is_interrupted_for_input(tmp_path: Path) -> None:
    done = ran(tmp_path, BY_INTERRUPT, b"xyz")

    assert (done.stdout, done.stderr, done.returncode) == (b"x", b"", 1)


def test_without_a_console_there_is_no_input(tmp_path: Path) -> None:
    done = ran(tmp_path, ECHO, b"q", "--console", "none", "--timeout", "1s")

    assert (done.stdout, done.returncode) == (b"", 124)


def test_keys_arrive_at_once_and_lines_end_as_usual(tmp_path: Path, pty: Pty) -> None:
    pty.start_job(job(made(tmp_path, ECHO)))
    shown = pty.read_until(b">\r\n")
    with_keys = pty.write_and_read(b"aq", b"[status 1]")

    assert b">\r\n" in shown
    assert with_keys == b"aq\r\n[status 1]"


@pytest.mark.parametrize(("keys", "status"), [(b"\x01x", 0), (b"\x03", 130)])
def test_keys_that_end_the_run(tmp_path: Path, pty: Pty, keys: bytes, status: int) -> None:
    before = pty.attributes()
    pty.start_job(job(made(tmp_path, ECHO)))
    pty.read_until(b">\r\n")
    said = pty.write_and_read(keys, b"[status ", b"]")

    assert said.endswith(f"[status {status}]".encode())
    assert pty.attributes() == before


def test_in_the_background_a_program_runs_without_input(tmp_path: Path, pty: Pty) -> None:
    before = pty.attributes()
    pid = pty.start_job(job(made(tmp_path, ECHO)), foreground=False)
    shown = pty.read_until(b">\r\n")
    os.kill(pid, signal.SIGKILL)

    assert b">\r\n" in shown
    assert pty.attributes() == before
