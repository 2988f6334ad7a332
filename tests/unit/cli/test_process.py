"""The command as a process: signals, closed streams, `python -m ringlet`."""

import fcntl
import os
import signal
import subprocess
import sys
import termios
import time
import tomllib
from pathlib import Path

import pytest

import ringlet
from tests.unit.machine.elf_maker import Elf

PIPE_SIZE = 65536
ROOT = Path(__file__).parents[3]
# Python puts the current directory first: the checkout would hide the installed package.
ELSEWHERE = "/"

# The installed package comes first; the checkout only adds the tests' own modules.
FAKE = f"""
import os, sys, types
import ringlet.cli.main
sys.path.append({str(ROOT)!r})
from tests.unit.machine.fake_cpu import FakeCpu, out
module = types.ModuleType("ringlet.vcpu.processor")
script = [out(0x3F8, ord(c)) for c in os.environ["GUEST_SAYS"]]
module.Processor = lambda ram_size, **options: FakeCpu(script)
sys.modules[module.__name__] = module
sys.exit(ringlet.cli.main.main(sys.argv[1:]))
"""


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """A run of a bare program by a fake processor."""
    program = Elf().write(tmp_path / "program.elf")
    return [sys.executable, "-c", FAKE, "run", "--bare", str(program)]


def start(command: list[str], says: str) -> subprocess.Popen[bytes]:
    environment = {"GUEST_SAYS": says, "PYTHONPATH": str(Path(ringlet.__file__).parents[1])}
    return subprocess.Popen(
        command,
        cwd=ELSEWHERE,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_signal_ends_the_run_quietly(
    command: list[str], number: signal.Signals, status: int
) -> None:
    process = start(command, "!")
    assert process.stdout is not None
    first = process.stdout.read(1)
    process.send_signal(number)
    rest, errors = process.communicate(timeout=20)

    assert first + rest == b"!"
    assert process.returncode == status
    assert errors == b""


def waiting(fd: int) -> int:
    """Return how many bytes a pipe holds."""
    return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)


def test_signal_ends_a_run_that_is_stuck_in_a_full_pipe(command: list[str]) -> None:
    process = start(command, "x" * 100_000)
    assert process.stdout is not None
    process.stdout.read(1)
    while waiting(process.stdout.fileno()) < PIPE_SIZE:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    status = process.wait(20)
    process.communicate()

    assert status == 143


def test_reader_that_goes_away_is_no_word_as_with_cat(command: list[str]) -> None:
    process = start(command, "x" * 1000)
    assert process.stdout is not None
    process.stdout.close()
    _, errors = process.communicate(timeout=20)

    assert (process.returncode, errors) == (141, b"")


def test_closed_standard_output_is_one_line(command: list[str]) -> None:
    shell = ["sh", "-c", 'exec "$@" >&-', "sh", *command]
    process = start(shell, "x")
    _, errors = process.communicate(timeout=20)

    assert process.returncode == 2
    assert errors == b"ringlet: standard output is closed\n"


def test_all_streams_closed(command: list[str]) -> None:
    shell = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command]
    process = start(shell, "x")
    process.communicate(timeout=20)

    assert process.returncode == 2


def words(arguments: list[str], stdout: int) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "ringlet", *arguments],
        cwd=ELSEWHERE, stdout=stdout, stderr=subprocess.PIPE, timeout=20, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("arguments", [["--help"], ["doctor"], ["--version"]])
def test_words_for_a_full_disk(arguments: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = words(arguments, full.fileno())

    assert done.returncode == 2
    assert done.stderr == b"ringlet: cannot write standard output: No space left on device\n"


@pytest.mark.parametrize("arguments", [["--help"], ["doctor"], ["--version"]])
def test_words_for_a_reader_that_went_away(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = words(arguments, writer)
    os.close(writer)

    assert (done.returncode, done.stderr) == (141, b"")


def test_python_m_ringlet() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ringlet", "--version"],
        cwd=ELSEWHERE, capture_output=True, text=True, timeout=20, check=True,
    )  # fmt: skip

    assert done.stdout == f"ringlet {ringlet.__version__}\n"


def test_the_installed_script_is_the_same_command() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, name = scripts["ringlet"].partition(":")
    call = f"import sys; from {module} import {name}; sys.exit({name}())"
    done = subprocess.run(
        [sys.executable, "-c", call, "--version"],
        cwd=ELSEWHERE, capture_output=True, text=True, timeout=20, check=True,
    )  # fmt: skip

    assert done.stdout == f"ringlet {ringlet.__version__}\n"


def test_a_limit_on_the_size_of_files_is_named(tmp_path: Path) -> None:
    program = Elf().write(tmp_path / "program.elf")
    run = [sys.executable, "-m", "ringlet", "run", "--bare", str(program)]
    done = subprocess.run(
        ["sh", "-c", 'ulimit -f 10; exec "$@"', "sh", *run],
        check=False,
        cwd=ELSEWHERE,
        env={"PYTHONPATH": str(Path(ringlet.__file__).parents[1])},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(b"ringlet: this host lacks large files: ")
    assert done.stderr.endswith(b"; raise the limit (ulimit -f unlimited)\n")
