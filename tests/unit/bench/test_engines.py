"""Command lines, and running one with a time limit."""

import shutil
import sys
import time
from dataclasses import replace
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


@pytest.mark.parametrize("program", [PROGRAM, LINUX])
def test_kvm_is_qemu_with_the_hosts_processor(program: Program) -> None:
    qemu, kvm = engines.command("qemu", program, 512), engines.command("kvm", program, 512)

    assert (option(kvm, "-machine"), option(kvm, "-cpu")) == ("pc,accel=kvm", "host")
    replaced = {"pc,accel=tcg": "pc,accel=kvm", "max": "host"}
    assert [replaced.get(word, word) for word in qemu] == kvm


def test_more_options_go_to_ringlet_alone() -> None:
    ringlet = engines.command("ringlet", LINUX, 512, ["--exact"])

    assert ringlet == [*engines.command("ringlet", LINUX, 512), "--exact"]
    assert engines.command("ringlet", PROGRAM, 512, ["--exact"])[-1] == "--exact"
    assert "--exact" not in engines.command("qemu", LINUX, 512, ["--exact"])


def test_a_program_may_have_arguments_natively_and_in_its_guest() -> None:
    program = replace(LINUX, native_arguments=("a", "b"), kernel_arguments="-- c")

    assert engines.command("native", program, 512) == ["/p/linux", "a", "b"]
    appended = option(engines.command("ringlet", program, 512), "--append")
    assert appended == f"{engines.KERNEL_ARGUMENTS} -- c"


@pytest.mark.parametrize(
    ("found", "usable", "flag", "expected"),
    [
        ("/bin/qemu", True, "vmx", ["native", "ringlet", "qemu", "kvm"]),
        ("/bin/qemu", True, "svm", ["native", "ringlet", "qemu", "kvm"]),
        ("/bin/qemu", True, "avx", ["native", "ringlet", "qemu"]),
        ("/bin/qemu", False, "vmx", ["native", "ringlet", "qemu"]),
        (None, True, "vmx", ["native", "ringlet"]),
    ],
)
def test_engines_are_what_the_host_has(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    found: str | None,
    usable: bool,
    flag: str,
    expected: list[str],
) -> None:
    device = tmp_path / "kvm"
    if usable:
        device.touch()
    monkeypatch.setattr(engines, "KVM_DEVICE", device)
    monkeypatch.setattr(engines, "cpu_flags", lambda: frozenset({"fpu", flag}))
    monkeypatch.setattr(shutil, "which", lambda name: found)

    assert engines.available() == expected


def test_the_native_side_of_a_linux_guest_is_its_init() -> None:
    assert engines.command("native", LINUX, 512) == ["/p/linux"]


def test_a_linux_guest_ends_well_by_turning_its_machine_off() -> None:
    assert [engines.success(engine, LINUX) for engine in engines.ENGINES] == [0, 0, 0, 0]
    assert [engines.success(engine, PROGRAM) for engine in engines.ENGINES] == [0, 1, 1, 1]


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


def test_lines_come_with_the_processor_time_of_the_command_and_its_children() -> None:
    work = "import time\nwhile time.process_time() < 0.3: pass\nprint('done', flush=True)"
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {work!r}])"

    transcript = engines.run([sys.executable, "-c", script], 60)

    assert transcript.lines[0].cpu >= 250_000_000
    assert engines.cpu_time(2**22 + 1) == 0


def test_a_command_is_asked_for_its_counters_at_certain_lines() -> None:
    script = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGUSR1, lambda *_: print('asked', flush=True))\n"
        "for text in ('log', 'row a begin'):\n"
        "    print(text, flush=True)\n"
        "    time.sleep(0.5)\n"
    )

    transcript = engines.run([sys.executable, "-c", script], 60, "row ")

    assert [line.text for line in transcript.lines] == ["log", "row a begin", "asked"]


def test_the_end_of_stderr_and_the_status_are_kept() -> None:
    transcript = engines.run([sys.executable, "-c", "import sys; sys.exit('no guest')"], 30)

    assert (transcript.status, transcript.stderr) == (1, "no guest")


def test_a_command_over_its_time_is_killed() -> None:
    begin = time.monotonic()

    transcript = engines.run([sys.executable, "-c", "import time; time.sleep(60)"], 0.5)

    assert transcript.status is None
    assert time.monotonic() - begin < 20


def test_a_command_is_killed_when_the_wait_for_it_is_interrupted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(engines, "_read_lines", interrupted)
    begin = time.monotonic()

    with pytest.raises(KeyboardInterrupt):
        engines.run([sys.executable, "-c", "import time; time.sleep(60)"], 300)

    assert time.monotonic() - begin < 20
