"""Command lines, and running one with a time limit."""

import sys
import time
from pathlib import Path

import pytest

from ringlet.bench import engines
from ringlet.bench.toolchain import Program

PROGRAM = Program("nano", Path("/p/nano"), Path("/p/nano.elf"))

LINUX = Program("linux", Path("/p/linux"), Path("/p/linux.cpio"), Path("/k/vmlinuz"))


def option(argv: list[str], name: str) -> str:
    return argv[argv.index(name) + 1]


def test_the_native_program_is_run_as_it_is() -> None:
    assert engines.command("native", PROGRAM, 128) == ["/p/nano"]


def test_ringlet_is_run_by_this_interpreter_on_the_guest() -> None:
    argv = engines.command("ringlet", PROGRAM, 256)

    assert argv == [sys.executable, "-m", "ringlet", "run", "--bare", "/p/nano.elf",
                    "--memory", "256M"]  # fmt: skip


def test_qemu_is_run_without_hardware_help_and_with_the_exit_device() -> None:
    argv = engines.command("qemu", PROGRAM, 128)

    assert "pc,accel=tcg" in argv
    assert "isa-debug-exit,iobase=0xf4,iosize=4" in argv
    assert argv[-2:] == ["-kernel", "/p/nano.elf"]


def test_a_linux_guest_is_the_same_for_both_engines() -> None:
    ringlet, qemu = engines.command("ringlet", LINUX, 512), engines.command("qemu", LINUX, 512)

    assert (option(ringlet, "--kernel"), option(qemu, "-kernel")) == ("/k/vmlinuz", "/k/vmlinuz")
    assert option(ringlet, "--initrd") == option(qemu, "-initrd") == "/p/linux.cpio"
    assert option(ringlet, "--append") == option(qemu, "-append")
    assert (option(ringlet, "--memory"), option(qemu, "-m")) == ("512M", "512")


def test_the_native_side_of_a_linux_guest_is_its_init() -> None:
    assert engines.command("native", LINUX, 512) == ["/p/linux"]


def test_a_linux_guest_ends_well_by_turning_its_machine_off() -> None:
    assert [engines.success(engine, LINUX) for engine in engines.ENGINES] == [0, 0, 0]
    assert [engines.success(engine, PROGRAM) for engine in engines.ENGINES] == [0, 1, 1]


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(ValueError, match="bochs"):
        engines.command("bochs", PROGRAM, 128)


def test_lines_come_with_the_time_of_their_arrival() -> None:
    script = "import time; print('one', flush=True); time.sleep(0.2); print('two')"

    begin = time.monotonic_ns()
    transcript = engines.run([sys.executable, "-c", script], 30)

    assert begin <= transcript.started <= transcript.lines[0].arrived
    first, second = transcript.lines
    assert (first.text, second.text, transcript.status) == ("one", "two", 0)
    assert second.arrived - first.arrived > 100_000_000


def test_the_end_of_stderr_and_the_status_are_kept() -> None:
    transcript = engines.run([sys.executable, "-c", "import sys; sys.exit('no guest')"], 30)

    assert (transcript.status, transcript.stderr) == (1, "no guest")


def test_a_command_over_its_time_is_killed() -> None:
    begin = time.monotonic()

    transcript = engines.run([sys.executable, "-c", "import time; time.sleep(60)"], 0.5)

    assert transcript.status is None
    assert time.monotonic() - begin < 20
