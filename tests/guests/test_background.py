"""Machines in the background, and those with names: the documented behaviour of the commands."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.guests.terminal import Terminal

PATIENCE = 120
RINGLET = [sys.executable, "-m", "ringlet"]

# The first test fetches the kernel, where there is none.
pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("kernel")]
Call = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    directory = tmp_path_factory.mktemp("runtime")
    directory.chmod(0o700)
    return {**os.environ, "XDG_RUNTIME_DIR": str(directory)}


@pytest.fixture(scope="module")
def call(environment: dict[str, str]) -> Call:
    """Calls ringlet with words, in a directory for machines of these tests alone."""

    def call(*words: str, stdin: bytes = b"", **options: Any) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [*RINGLET, *words], input=stdin, capture_output=True, check=False, timeout=PATIENCE,
            env=environment, **options,
        )  # fmt: skip

    return call


def listed(call: Call) -> dict[str, dict[str, Any]]:
    """What ps says of each machine."""
    return {one["name"]: one for one in json.loads(call("ps", "-a", "--json").stdout)}


@pytest.fixture(scope="module")
def box(call: Call) -> Iterator[int]:
    """The process of a machine called box, started with a file open that it must not keep."""
    reads, writes = os.pipe()
    done = call("run", "-d", "-m", "256M", "-e", "COLOUR=red", "--name", "box", "busybox",
                pass_fds=[writes])  # fmt: skip
    os.close(writes)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"box\n", b"")
    os.set_blocking(reads, False)
    assert os.read(reads, 1) == b""  # the end: nobody has the other end open
    os.close(reads)
    pid: int = listed(call)["box"]["pid"]
    yield pid
    assert call("stop", "-t", "20s", "box").stdout == b"box\n"
    assert (listed(call)["box"]["state"], listed(call)["box"]["status"]) == ("ended", 0)
    assert b"reboot: Power down" in call("logs", "box").stdout
    assert call("rm", "box").returncode == 0
    assert "box" not in listed(call)


def test_it_has_left_its_caller(box: int, call: Call) -> None:
    assert os.getsid(box) == box
    assert Path(f"/proc/{box}/fd/0").readlink() == Path("/dev/null")
    assert {Path(f"/proc/{box}/fd/{fd}").readlink().name for fd in (1, 2)} == {"errors.log"}

    os.kill(box, signal.SIGHUP)

    assert call("exec", "box", "true").returncode == 0


def test_ps_shows_it(box: int, call: Call) -> None:
    head, line = call("ps").stdout.decode().splitlines()

    assert head.split() == ["NAME", "GUEST", "MEMORY", "STATE", "AGE", "PORTS", "PID"]
    name, guest, size, unit, state, _, pid = line.split()
    assert (name, guest, size, unit, state) == ("box", "busybox", "256", "MiB", "running")
    assert int(pid) == box


def test_command_has_streams_and_a_status(box: int, call: Call) -> None:
    done = call("exec", "-i", "-e", "B=2", "-w", "/tmp", "box", "sh", "-c",
                "cat; echo $COLOUR$B $PWD >&2; exit 7", stdin=b"in")  # fmt: skip

    assert (done.returncode, done.stdout, done.stderr) == (7, b"in", b"red2 /tmp\n")


def test_without_i_a_command_has_no_input(box: int, call: Call) -> None:
    assert call("exec", "box", "cat", stdin=b"in").stdout == b""


def test_command_that_is_not_there_is_told(box: int, call: Call) -> None:
    done = call("exec", "box", "nosuch")

    assert done.returncode == 127
    assert done.stderr == b"ringlet: 'nosuch': no such program in the guest's PATH\n"


def test_status_of_a_signal_is_a_shells(box: int, call: Call) -> None:
    assert call("exec", "box", "sh", "-c", "kill -9 $$").returncode == 137


def test_much_comes_and_goes_whole(box: int, call: Call) -> None:
    data = random.Random(1).randbytes(8 << 20)

    done = call("exec", "-i", "box", "tee", "/tmp/data", stdin=data)

    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()
    assert hashlib.sha256(data).hexdigest().encode() in call(
        "exec", "box", "sha256sum", "/tmp/data").stdout


def test_shell_on_a_terminal(box: int, environment: dict[str, str]) -> None:
    terminal = Terminal([*RINGLET, "shell", "box"], {**environment, "TERM": "vt220"})
    try:
        os.write(terminal.user, b"tty; echo =$TERM=; exit 5\n")
        terminal.until(b"/dev/pts/")
        terminal.until(b"=vt220=")

        assert terminal.ended() == 5
    finally:
        terminal.close()


def test_keys_leave_a_command_that_hangs(
    box: int, call: Call, environment: dict[str, str]
) -> None:
    terminal = Terminal([*RINGLET, "exec", "-it", "box", "sh", "-c", "echo up; sleep 999"],
                        environment)  # fmt: skip
    try:
        terminal.until(b"up")
        os.write(terminal.user, b"\x01x")

        assert terminal.ended() == 129
    finally:
        terminal.close()
    end = time.monotonic() + PATIENCE
    while b"sleep 999" in call("exec", "box", "ps").stdout and time.monotonic() < end:
        """It gets SIGHUP."""
    assert time.monotonic() < end


def test_trees_are_copied(box: int, call: Call, tmp_path: Path) -> None:
    (tmp_path / "tree" / "deep").mkdir(parents=True)
    (tmp_path / "tree" / "deep" / "file").write_text("text")

    assert call("cp", str(tmp_path / "tree"), "box:/tmp/copy").returncode == 0
    assert call("exec", "box", "cat", "/tmp/copy/deep/file").stdout == b"text"
    assert call("cp", "box:/tmp/copy", str(tmp_path / "back")).returncode == 0

    assert (tmp_path / "back" / "deep" / "file").read_text() == "text"
    missing = call("cp", "box:/nosuch", str(tmp_path))
    assert (missing.returncode, missing.stderr) == (
        2, b"ringlet: /nosuch: No such file or directory (in the guest)\n")


def test_name_is_one_machines(box: int, call: Call) -> None:
    done = call("run", "-d", "--name", "box", "busybox")

    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == (
        b"ringlet: box: a machine with this name runs; give another --name, or ringlet rm -f box\n"
    )


def test_command_in_the_background_has_a_log_and_a_status(call: Call) -> None:
    name = call("run", "-d", "-m", "256M", "busybox", "sh", "-c", "echo out; echo err >&2; exit 5")
    machine = name.stdout.decode().strip()

    log = call("logs", "-f", machine).stdout

    assert {b"out", b"err"} <= set(log.splitlines())
    assert listed(call)[machine]["status"] == 5
    assert call("rm", machine).returncode == 0


def test_command_that_cannot_start_is_told(call: Call) -> None:
    done = call("run", "-d", "--rm", "-m", "256M", "--name", "no", "busybox", "nosuch")

    assert (done.returncode, done.stdout) == (127, b"")
    assert done.stderr == b"ringlet: 'nosuch': no such program in the guest's PATH\n"


def test_guest_that_panics_before_it_is_ready_is_told(call: Call) -> None:
    done = call("run", "-d", "-m", "256M", "--append", "rdinit=/no", "--name", "bad",
                "busybox")  # fmt: skip

    assert (done.returncode, done.stdout) == (3, b"")
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("ringlet: the guest's kernel panicked: ")
    assert line.endswith("; ringlet logs bad shows what it has printed")
    assert b"Kernel panic" in call("logs", "bad").stdout
    assert call("rm", "bad").returncode == 0


def test_user_who_cannot_enter_the_machines_directory_is_at_home(call: Call) -> None:
    assert call("run", "-d", "-m", "256M", "-w", "/proc/1/fd", "--name", "closed",
                "busybox").returncode == 0  # fmt: skip

    done = call("exec", "closed", "pwd")
    by_nobody = call("exec", "-u", "nobody", "closed", "pwd")
    refused = call("exec", "-u", "nobody", "-w", "/proc/1/fd", "closed", "pwd")

    assert call("rm", "-f", "closed").returncode == 0
    assert (done.stdout, by_nobody.stdout, by_nobody.stderr) == (b"/proc/1/fd\n", b"/\n", b"")
    assert refused.returncode == 126
    assert b"cannot be the working directory" in refused.stderr


def test_killed_machine_leaves_no_process(call: Call) -> None:
    assert call("run", "-d", "-m", "256M", "--name", "dead", "busybox").returncode == 0
    pid = listed(call)["dead"]["pid"]
    session = {int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()
               and _session(path) == pid}  # fmt: skip

    os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + PATIENCE
    while any(_session(Path(f"/proc/{one}")) == pid for one in session):
        assert time.monotonic() < end
        time.sleep(0.05)

    assert listed(call)["dead"]["state"] == "killed"
    assert call("exec", "dead", "true").stderr == (
        b"ringlet: dead is not running; ringlet ps -a shows how it ended\n"
    )
    assert call("rm", "-f", "dead").returncode == 0


def _session(process: Path) -> int:
    """The session of a process that runs; 0: it has ended."""
    try:
        fields = (process / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] == "Z" else int(fields[3])


def test_machine_in_the_foreground_is_reached_by_its_name(
    call: Call, environment: dict[str, str]
) -> None:
    front = subprocess.Popen(
        [*RINGLET, "run", "--rm", "-m", "256M", "--name", "front", "busybox", "cat"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment,
    )  # fmt: skip
    with front:
        end = time.monotonic() + PATIENCE
        while listed(call).get("front", {}).get("state") != "running":
            assert time.monotonic() < end
            time.sleep(0.1)
        reached = call("exec", "front", "cat", "/proc/sys/kernel/ostype")
        said, _ = front.communicate(b"whole", timeout=PATIENCE)

    assert reached.stdout == b"Linux\n"
    assert (front.returncode, said) == (0, b"whole")
    assert "front" not in listed(call)


def test_debian_is_shut_down_by_its_init(call: Call) -> None:
    assert call("run", "-d", "-m", "512M", "--name", "deb", "debian").returncode == 0
    assert call("exec", "deb", "cat", "/proc/1/comm").stdout == b"systemd\n"

    assert call("stop", "-t", "60s", "deb").returncode == 0

    assert listed(call)["deb"]["status"] == 0
    assert b"systemd-shutdown" in call("logs", "deb").stdout
    assert call("rm", "deb").returncode == 0
