"""`ringlet.Machine`, without a guest."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ringlet
from ringlet import Console
from ringlet.control.machine import Machine
from ringlet.errors import ConfigError, ProgramError, RingletError
from tests.unit.machine.kernel_maker import BzImage

HALTS = BzImage(code=bytes(0x200) + b"\xfa\xf4" * 64)


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    """A kernel that consists of CLI and HLT."""
    return HALTS.write(tmp_path / "vmlinuz")


@pytest.mark.parametrize(
    "use",
    [Machine.wait, Machine.stop, Machine.kill, Machine.pause, Machine.resume, Machine.counters,
     Machine.vm],
)  # fmt: skip
def test_a_machine_that_was_not_started(kernel: Path, use: Callable[[Machine], object]) -> None:
    with ringlet.Machine(kernel) as machine:
        with pytest.raises(ConfigError, match=r"was not started; call start\(\)"):
            use(machine)
        assert machine.state == "new"


def test_the_memory_and_registers_of_a_machine_that_was_not_started(kernel: Path) -> None:
    machine = ringlet.Machine(kernel)

    with pytest.raises(ConfigError, match=r"was not started; call start\(\)"):
        machine.memory.read(0, 1)
    with pytest.raises(ConfigError, match=r"was not started; call start\(\)"):
        machine.cpu["rip"]


@pytest.mark.parametrize("use", [Console.expect, Console.send])
def test_the_console_of_a_machine_that_was_not_started(
    kernel: Path, use: Callable[[Console, str], object]
) -> None:
    machine = ringlet.Machine(kernel)

    with pytest.raises(ConfigError, match="this machine was not started; call start"):
        use(machine.console, "# ")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"kernel": "/nonexistent"}, ProgramError, "/nonexistent: no such file"),
        ({"guest": "/nonexistent"}, ConfigError, "/nonexistent: no such file"),
        ({"kernel": "/bin/sh"}, ProgramError, "is a program for Linux, not a kernel"),
        ({"guest": None}, ConfigError, "nothing to run"),
        ({"guest": None, "initrd": b"x"}, ConfigError, "initrd needs a kernel"),
        ({"initrd": b"x"}, ConfigError, "leave out initrd"),
        ({"memory": "much"}, ConfigError, "^memory 'much': not a size"),
        ({"memory": 64}, ConfigError, "^memory 64: too small; give at least "),
        ({"direct": "often"}, ConfigError, "^direct often: "),
        ({"cpus": 2}, ConfigError, "^cpus 2: guests have one processor"),
        ({"cpus": 0}, ConfigError, "^cpus 0: give 1"),
        ({"net": "host"}, ConfigError, "^net host: give none"),
        ({"mounts": "/tmp"}, ConfigError, "^mounts /tmp: not a directory and its place"),
        ({"ports": {8080: 0}}, ConfigError, "^ports 8080:0: "),
        ({"disks": "/nowhere"}, ConfigError, "^disks /nowhere: no such file"),
        ({"timeout": "soon"}, ConfigError, "^timeout 'soon': not a time"),
        ({"env": ["="]}, ConfigError, "^env '': not the name"),
        ({"root": "/nowhere"}, ConfigError, "^root /nowhere: no such directory"),
    ],
)
def test_wrong_values_are_refused_at_once_by_the_parameters_name(
    options: dict[str, Any], error: type[RingletError], message: str
) -> None:
    with pytest.raises(error, match=message):
        ringlet.Machine(**options)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("wrong", [{"append": "x" * 5000}, {"initrd": b""}])
def test_refused_machines_take_no_memory(kernel: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(RingletError):
        ringlet.Machine(kernel, **wrong)
    before = descriptors()
    for _ in range(3):
        with pytest.raises(RingletError):
            ringlet.Machine(kernel, **wrong)

    assert descriptors() == before


def test_machines_show_what_they_are(kernel: Path) -> None:
    machine = ringlet.Machine(kernel, memory="1.5G", name="box")

    assert repr(machine) == f"<ringlet.Machine box: {kernel}, 1.5 GiB, new>"
    assert repr(ringlet.AsyncMachine(kernel, memory=64)).startswith("<ringlet.AsyncMachine ")
    assert "0 bytes" in repr(machine.console)


def test_a_machine_of_a_description(kernel: Path) -> None:
    spec = ringlet.Machine(kernel, memory=64).spec
    machine = ringlet.Machine.of(spec)

    assert machine.spec is spec
    assert machine.spec.memory == 64 << 20


def test_methods_of_both_machines_are_the_same() -> None:
    public = {name for name in dir(Machine) if not name.startswith("_")} - {"of", "vm"}

    assert public - set(dir(ringlet.AsyncMachine)) == set()


def test_the_package_has_no_more_than_it_says() -> None:
    assert set(ringlet.__all__) <= set(dir(ringlet))
    assert {"Machine", "AsyncMachine", "GuestPanic", "BootError", "CommandError"} <= set(
        ringlet.__all__
    )
    for name in ringlet.__all__:
        assert getattr(ringlet, name).__doc__
    with pytest.raises(AttributeError):
        _ = ringlet.Nothing


def test_importing_the_package_is_cheap() -> None:
    """It must not load the engine, or what is slow to import."""
    code = (
        "import sys; before = set(sys.modules); import ringlet; dir(ringlet); ringlet.__version__\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert done.stdout.split() == ["ringlet"]
