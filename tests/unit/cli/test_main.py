"""The command line in this process, over a fake processor."""

import json
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

import ringlet
from ringlet.cli.main import main
from ringlet.control.spec import NO_NETWORK, MachineSpec
from ringlet.core.state import Exit
from ringlet.network_config import net_config
from tests.unit.machine.elf_maker import Elf
from tests.unit.machine.fake_cpu import FakeCpu, FakeExit, out

Capture = pytest.CaptureFixture[str]
Script = Callable[..., None]


@pytest.fixture
def program(tmp_path: Path) -> str:
    return str(Elf().write(tmp_path / "program.elf"))


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Script:
    """Replace the engine by a fake; call it with the exits that it must make."""

    def play(*exits: FakeExit) -> None:
        module = types.ModuleType("ringlet.vcpu.processor")
        vars(module)["Processor"] = lambda ram_size, **options: FakeCpu(list(exits))
        monkeypatch.setitem(sys.modules, module.__name__, module)

    return play


def test_output_and_status_are_the_guests(program: str, processor: Script, capfd: Capture) -> None:
    processor(out(0x3F8, ord("h")), out(0x3F8, ord("i")), out(0xF4, 2))
    status = main(["run", "--bare", program])

    assert status == 5
    assert capfd.readouterr() == ("hi", "")


def test_options_may_come_in_any_order(program: str, processor: Script, capfd: Capture) -> None:
    processor(out(0xF4, 0))

    assert main(["run", program, "--memory", "2M", "--bare"]) == 1


def test_triple_fault_is_a_line_and_status_3(
    program: str, processor: Script, capfd: Capture
) -> None:
    processor(FakeExit(Exit.EXIT_SHUTDOWN))
    status = main(["run", "--bare", program])
    captured = capfd.readouterr()

    assert status == 3
    assert captured.err == (
        "ringlet: triple fault: the guest's processor shut down at RIP 0x0; --trace FILE shows "
        "what came before\n"
    )


def test_last_halt_is_a_line_and_status_4(program: str, processor: Script, capfd: Capture) -> None:
    processor(FakeExit(Exit.EXIT_HLT))
    status = main(["run", "--bare", program])

    assert status == 4
    assert "nothing can wake it" in capfd.readouterr().err


def test_what_nobody_expected_is_a_line_and_status_70(
    program: str, processor: Script, capfd: Capture
) -> None:
    def broken() -> None:
        raise ZeroDivisionError("oh")

    processor(FakeExit(Exit.EXIT_MMIO_WRITE, effect=broken))
    status = main(["run", "--bare", program])
    captured = capfd.readouterr()

    assert status == 70
    assert captured.err.startswith("ringlet: internal error, please report it: ZeroDivisionError")
    assert captured.err.count("\n") == 1


def test_a_defect_before_there_is_a_machine_is_a_line_and_status_70(
    program: str, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    def broken(*arguments: object) -> None:
        raise KeyError("oh")

    monkeypatch.setattr("ringlet.cli.launch.check_program", broken)
    status = main(["run", "--bare", program])
    captured = capfd.readouterr()

    assert status == 70
    assert captured.err.startswith("ringlet: internal error, please report it: KeyError: 'oh' (at=")
    assert captured.err.count("\n") == 1


def test_a_file_that_the_host_refuses_is_named(
    program: str, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    def refused(*arguments: object) -> None:
        raise PermissionError(13, "Permission denied", "/var/\n.cache")

    monkeypatch.setattr("ringlet.cli.launch.check_program", refused)
    status = main(["run", "--bare", program])

    assert status == 2
    assert capfd.readouterr().err == "ringlet: /var/\\n.cache: Permission denied\n"


def test_internal_error_is_a_line_and_status_70(
    program: str, processor: Script, capfd: Capture
) -> None:
    processor(FakeExit(Exit.EXIT_EOI))
    status = main(["run", "--bare", program])
    captured = capfd.readouterr()

    assert status == 70
    assert captured.err.startswith("ringlet: internal error, please report it: ")
    assert captured.err.count("\n") == 1


def test_stats_go_to_standard_error(program: str, processor: Script, capfd: Capture) -> None:
    processor(out(0x3F8, 65), out(0xF4, 0))
    main(["run", "--bare", program, "--stats"])
    captured = capfd.readouterr()

    assert captured.out == "A"
    assert "machine_wall_ns" in captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "nothing to run; for example: ringlet run debian"),
        (["run", "ubuntu"], "ubuntu: Ringlet has no guest of this name; give busybox, debian"),
        (["run", "debiam"], "debiam: no guest or image has this name, and there is no such file"),
        (["run", "disk.qcow2"], "disk.qcow2: no such file"),
        (["run", "DISK"], "starting from a disk's own boot loader is not supported yet"),
        (["run", "--disk", "SECTORS"], "or run its boot sector, without a BIOS, by ringlet run --"),
        (["run", "SECTOR"], "is a boot sector; run its boot sector, without a BIOS, by ringl"),
        (["run", "--cdrom", "os.iso"], "--cdrom: give --disk FILE,ro"),
        (["run", "-device", "isa-debug-exit"], "--debug-exit for isa-debug-exit"),
        (["run", "DISK", "true"], "--name NAME, and then ringlet run NAME"),
        (["run", "/tmp"], "/tmp: is a directory; to use it as a guest's root, give --root /tmp"),
        (["run", "--disk", "/nowhere", "debian"], "--disk /nowhere: no such file"),
        (["run", "--disk", "/tmp", "debian"], "--disk /tmp: is a directory; share it with -v"),
        (["run", "-v", "/nowhere:/mnt", "debian"], "-v /nowhere:/mnt: /nowhere: no such directory"),
        (["run", "-p", "80", "--net", "none", "debian"], "-p 80: a guest with --net none has no"),
        (["run", "--net", "host", "debian"], "--net host: give none, user"),
        (["run", "--net", "user", "--net", "none", "debian"], "--net: given 2 times; a machine"),
        (["run", "--net", "", "debian"], "--net '': the value is empty"),
        (["run", "--root", "/nowhere"], "--root /nowhere: no such directory"),
        (["run", "--root", "/tmp", "debian", "sh"], "--root /tmp: is the guest; leave out debian"),
        (["run", "-c", "2", "debian"], "-c 2: guests have one processor so far; leave out -c"),
        (["run", "--cpus", "2", "debian"], "--cpus 2: guests have one processor so far; leave"),
        (["run", "--cpus=0", "debian"], "--cpus 0: give 1"),
        (["run", "-m", "1", "debian"], "-m 1: too small; give at least 96M"),
        (["run", "--volume", "x", "debian"], "--volume x: not a directory and its place"),
        (["run", "--workdir", "tmp", "debian"], "--workdir tmp: give an absolute path"),
        (["run", "--env", "1=2", "debian"], "--env '1': not the name of a variable"),
        (["run", "--publish", "x", "debian"], "--publish x: not a forwarded port"),
        (["run", "--network", "host", "debian"], "--network host: give none, user"),
        (["run", "--publish=80", "--network=none", "debian"], "a guest with --network none has"),
        (["run", "--network", "", "debian"], "--network '': the value is empty"),
        (["exec", "--workdir", "tmp", "box", "ls"], "--workdir tmp: give an absolute path"),
        (["stop", "--time", "soon", "box"], "--time 'soon': not a time"),
        (["ps", "--json", "--quiet"], "--json and --quiet: give one of them"),
        (["run", "-v", "/:/a", "-v", "/tmp:/a/", "debian"], "-v /tmp:/a/: the guest has / at /a"),
        (["run", "-v", "/etc/passwd:/x", "debian"], "/etc/passwd: is no directory, and files are"),
        (["run", "-d", "--stats", "debian"], "--stats has no effect with -d; leave it out"),
        (["run", "--detach", "--stats", "debian"], "--stats has no effect with --detach; leave"),
        (["run", "-t", "debian"], "-t: standard input is not a terminal"),
        (["run", "-w", "tmp", "debian"], "-w tmp: give an absolute path of the guest"),
        (["run", "-e", "1=2", "debian"], "-e '1': not the name of a variable; give NAME=VALUE"),
        (["run", "--env-file", "/nonexistent", "debian"], "/nonexistent: No such file"),
        (["run", "--timeout", "soon", "debian"], "--timeout 'soon': not a time; give seconds"),
        (["run", "-smp", "4", "debian"], "-smp: guests have one processor so far; leave it out"),
        (["run", "--cap-add=ALL", "debian"], "--cap-add: a guest has a kernel of its own"),
        (["run", "debian", "-nographic"], "-nographic: a guest has no screen"),
        (["run", "-s", "--gdb", "1", "debian"], "-s is --gdb :1234; give one of them"),
        (["run", "-S", "debian"], "-S needs --gdb; for example"),
        (["logs", "../x"], "'../x' cannot be a machine's name; give up to 64 letters"),
        (["cp", "a", "b"], "a b: no machine is named; give NAME:PATH for the guest's file"),
        (["cp", "no:", "b"], "no:: no path in the guest; for example: no:/tmp"),
        (["inspect", "x"], "inspect: give ringlet ps -a --json"),
        (["compose", "up"], "compose: start each with ringlet run -d"),
        (["help"], "help: give ringlet --help, or ringlet COMMAND --help"),
        (["ls"], "ls: give ringlet ps -a for machines, ringlet image ls for images"),
        (["image", "list"], "list: give ringlet image ls"),
        (["image", "inspect", "x"], "inspect: give ringlet image ls"),
        (["image", "prune"], "prune: give ringlet image rm NAME, or ringlet cache prune"),
        (["image", "ls", "-q"], "-q: each image is a line, with its name first"),
        (["image", "build", "-t", "x", "."], "-t: no Dockerfile is built"),
        (["cache", "clean"], "clean: give ringlet cache prune"),
        (["cache", "prune", "--force"], "--force: nothing is asked; leave it out"),
        (["--debug", "run", "debian"], "--debug: there is no such setting"),
        (["-d", "debian"], "-d: it belongs to a command; give it after ringlet run"),
        (["run", "--kimg", "x", "debian"], "--kimg: give --kernel FILE"),
        (["run", "-l", "a=b", "debian"], "-l: give --name NAME"),
        (["run", "-virtiofs", "x", "debian"], "-virtiofs: give -v HOST:GUEST"),
        (["run", "-vv", "debian"], "-vv: -v takes HOST:GUEST"),
        (["run", "-no-reboot", "-kernel", "/nonexistent"], "/nonexistent: no such file"),
        (["run", "--kernel", "/nonexistent"], "/nonexistent: no such file"),
        (["run", "--kernel", "/bin/sh"], "/bin/sh: is a program for Linux, not a kernel"),
        (["run", "--kernel", "/bin/sh", "debian"], "/bin/sh: is a program for Linux, not a kernel"),
        (["run", "/bin/sh"], "/bin/sh: is a program for Linux, not a kernel"),
        (["run", "--kernel", "PROGRAM", "PROGRAM"], "a machine starts one kernel; leave out one"),
        (["run", "--initrd", "x", "--kernel", "PROGRAM", "debian"], "leave out --initrd"),
        (["run", "--kernel", "PROGRAM", "--verbose"], "--verbose has no effect with a kernel of"),
        (["run", "--bare", "PROGRAM", "--append", "x"], "--append has no effect with --bare"),
        (["run", "--bare", "PROGRAM", "--cold"], "--cold has no effect with --bare"),
        (["run", "--bare", "P", "--direct", "often"], "--direct often: give auto, never or always"),
        (["run", "debian", "--direct", "often"], "--direct often: give auto, never or always"),
        (
            ["run", "debian", "--direct", "always", "--trace", "FILE"],
            "--direct has no effect with --trace and --compare",
        ),
        (["run", "debian", "--compare", "-1"], "-1 is not in the range x>=0; see ringlet run"),
        (["run", "debian", "--package", "../../x"], "'../../x' is not the name of a package"),
        (["run", "debian", "--initrd", "x"], "has its own initial RAM disk"),
        (["run", "debian", "--memory", "1M"], "too small; give at least 96M"),
        (["run", "debian", "--package", "-x", "--", "ls"], "not the name of a package"),
        (["run", "--bare"], "no program given"),
        (["run", "--bare", "PROGRAM", "--flat", ""], "--flat '': the value is empty"),
        (["run", "--bare", "PROGRAM", "--flat", "32"], "--flat '32': not a mode and an address"),
        (["run", "--bare", "PROGRAM", "--flat", "32@4096"], "is below 1 MiB"),
        (["run", "--flat", "32@0x100000", "PROGRAM"], "--flat needs --bare"),
        (["run", "--bare", "/nonexistent"], "/nonexistent: no such file"),
        (["run", "--bare", "/"], "/: is a directory"),
        (["run", "--bare", "PROGRAM", "--memory", "0"], "a machine needs RAM"),
        (["run", "--bare", "PROGRAM", "--memory", "-1"], "a machine needs RAM"),
        (["run", "--bare", "PROGRAM", "--memory", "3000001"], "multiple of 4 KiB"),
        (["run", "--bare", "PROGRAM", "--memory", "1"], "too small; give at least 2M"),
        (["run", "--bare", "PROGRAM", "--memory", "900T"], "this host has"),
        (["run", "--bare", "PROGRAM", "--memory", "big"], "not a size"),
        (["run", "--bare", "PROGRAM", "--memory"], "requires an argument"),
        (["run", "--bare", "PROGRAM", "--memory", ""], "--memory '': the value is empty"),
        (["run", "--bare", "PROGRAM", "-m", ""], "-m '': the value is empty"),
        (["run", "--bare", "PROGRAM", "--trace", ""], "--trace '': the value is empty"),
        (["run", "--bare", "PROGRAM", "--gdb", "", "--gdb-wait"], "--gdb '': the value is empty"),
        (["run", "--kernel", "", "debian"], "--kernel '': the value is empty"),
        (["run", "debian", "--initrd="], "--initrd '': the value is empty"),
        (["run", "--bare", "PROGRAM", "extra"], "extra"),
        (["run", "--bare", "PROGRAM", "--gdb-wait"], "--gdb-wait needs --gdb"),
        (["run", "--bare", "PROGRAM", "--gdb", "65536"], "give a port up to 65535"),
        (["run", "--bare", "PROGRAM", "--gdb", "/nowhere/gdb"], "cannot listen: "),
        (["run", "debian", "--gdb-wait"], "--gdb-wait needs --gdb"),
        (["run", "--fast"], "No such option: --fast"),
        (["fly"], "No such command 'fly'"),
        (["--fly"], "No such option: --fly"),
    ],
)
def test_mistakes_are_one_line_and_status_2(
    program: str, tmp_path: Path, capfd: Capture, arguments: list[str], message: str
) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(512))
    sectors = tmp_path / "floppy.img"
    sectors.write_bytes(bytes(510) + b"\x55\xaa" + bytes(512))
    sector = tmp_path / "boot.bin"
    sector.write_bytes(sectors.read_bytes()[:512])
    files = {
        "PROGRAM": program, "DISK": str(disk), "SECTORS": str(sectors), "SECTOR": str(sector)
    }  # fmt: skip
    status = main([files.get(argument, argument) for argument in arguments])
    captured = capfd.readouterr()

    assert status == 2
    assert captured.out == ""
    assert captured.err.startswith("ringlet: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "field", "value"),
    [
        (["--network", "none"], "net", NO_NETWORK),
        (["--net", "none"], "net", NO_NETWORK),
        (["--network=user"], "net", net_config("user")),
        (["-no-reboot"], "reboot", False),
        (["-name", "box"], "name", "box"),
        (["-append", "quiet"], "append", "quiet"),
        (["-memory=256M"], "memory", 256 << 20),
    ],
)
def test_options_may_be_written_as_for_docker_and_qemu(
    monkeypatch: pytest.MonkeyPatch, options: list[str], field: str, value: object
) -> None:
    specs: list[MachineSpec] = []

    def run_guest(spec: MachineSpec, *arguments: object, **named: object) -> int:
        specs.append(spec)
        return 0

    monkeypatch.setattr("ringlet.cli.launch.run_guest", run_guest)

    assert main(["run", *options, "debian"]) == 0
    assert getattr(specs[0], field) == value


def test_a_wrong_value_gets_no_advice_on_commands(capfd: Capture) -> None:
    main(["run", "debian", "--compare", "-1"])

    assert capfd.readouterr().err.endswith("; see ringlet run --help\n")


def test_a_trace_to_a_fifo_that_nothing_reads(
    program: str, processor: Script, tmp_path: Path, capfd: Capture
) -> None:
    processor(out(0xF4, 0))
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    status = main(["run", "--bare", program, "--trace", str(fifo)])

    assert status == 2
    assert capfd.readouterr().err == (
        f"ringlet: --trace {fifo}: nothing reads this FIFO; give another file\n"
    )


def test_a_newline_in_a_file_name_does_not_break_the_line(capfd: Capture) -> None:
    main(["run", "--bare", "/no\nwhere\x1b[2J"])
    captured = capfd.readouterr()

    assert captured.err == "ringlet: /no\\nwhere\\x1b[2J: no such file\n"


def test_a_host_without_bmi2_is_one_line_and_status_2(
    program: str, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RINGLET_HIDE_CPU", "bmi2")
    status = main(["run", "--bare", program])
    captured = capfd.readouterr()

    assert status == 2
    assert captured.err.startswith("ringlet: this host lacks BMI2: ")
    assert captured.err.count("\n") == 1


def test_doctor_on_this_host(capfd: Capture) -> None:
    status = main(["doctor"])
    captured = capfd.readouterr()

    assert status == 0
    assert "guests can run on this host" in captured.out
    assert captured.err == ""


def test_doctor_on_a_lesser_host(capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGLET_HIDE_CPU", "bmi2")
    status = main(["doctor"])
    captured = capfd.readouterr()

    assert status == 2
    assert "missing  BMI2" in captured.out
    assert captured.err == "ringlet: no guest can run on this host: it lacks BMI2\n"


def test_doctor_for_other_programs(capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["doctor", "--json"]) == 0
    here = json.loads(capfd.readouterr().out)
    monkeypatch.setenv("RINGLET_HIDE_CPU", "bmi2")
    assert main(["doctor", "--json"]) == 2
    lesser = json.loads(capfd.readouterr().out)

    assert (here["ok"], here["version"]) == (True, ringlet.__version__)
    assert lesser["ok"] is False
    bmi2 = next(check for check in lesser["checks"] if check["name"] == "BMI2")
    assert bmi2["verdict"] == "missing"
    assert bmi2["remedy"]


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_version(capfd: Capture, option: str) -> None:
    assert main([option]) == 0
    assert capfd.readouterr().out == f"ringlet {ringlet.__version__}\n"


@pytest.mark.parametrize("command", ["run", "doctor", "cache", "bench", "explain"])
def test_help_of_a_command(capfd: Capture, command: str) -> None:
    assert main([command, "-h"]) == 0
    assert f"ringlet {command} " in capfd.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_names_the_commands(capfd: Capture, arguments: list[str]) -> None:
    assert main(arguments) == 0
    captured = capfd.readouterr()

    assert all(word in captured.out for word in ("run", "doctor", "--version"))
