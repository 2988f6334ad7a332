"""Errors before and around a guest's run give one line and a status, and leave nothing behind."""

import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringlet.cli.main import main
from tests.guests.mirror import (
    HALTS,
    STATUS_HALTED,
    Mirror,
    command,
    session,
    wait_until_stoppable,
)
from tests.guests.terminal import PATIENCE, Terminal
from tests.unit.images.packages import NEEDS_APT
from tests.unit.machine.elf_maker import Elf, Part, note
from tests.unit.machine.kernel_maker import BzImage

SPINS = BzImage(code=bytes(0x200) + b"\xeb\xfe".ljust(64))
Capture = pytest.CaptureFixture[str]
PVH = note(b"Xen\0", 18, (0x100_0000).to_bytes(8, "little"))
KERNELS = {
    "text": b"#!/bin/sh\n" * 100,
    "empty": b"",
    "aarch64": Elf(machine=183).bytes(),
    "zimage": BzImage(loadflags=0).bytes(),
    "pvh": Elf((Part(0x200_0000), Part(0, PVH, kind=4)), entry=0).bytes(),
    "multiboot": struct.pack("<III", 0x1BADB002, 0, -0x1BADB002 & 0xFFFF_FFFF),
    "cut": BzImage().bytes()[:-16],
    "halts": HALTS.bytes(),
    # mov dx, 3F8h; mov al, "y"; out dx, al; jmp to the out
    "prints": BzImage(code=bytes(0x200) + bytes.fromhex("66BAF803 B079 EE EBFD").ljust(64)).bytes(),
    "spins": SPINS.bytes(),
}
UNSHARE = ("unshare", "--map-root-user", "--mount")
NEEDS_NAMESPACES = pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode != 0,
    reason="this host lets nobody mount in a namespace of his own",
)


def run(
    arguments: list[str], environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        arguments, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, check=False,
        env=environment,
    )  # fmt: skip


def a_line(errors: bytes) -> str:
    """Return standard error, which must be one line of Ringlet's."""
    text = errors.decode()
    assert text.startswith("ringlet: ")
    assert text.count("\n") == 1
    return text


# --- kernels, RAM disks, memory


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels, right and wrong, and RAM disks in the current directory."""
    for name, content in KERNELS.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "disk").write_bytes(b"disk")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 30)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("missing", "missing: no such file"),
        (".", ".: is a directory; give a kernel for x86"),
        ("text", "text: is not a kernel; give a kernel for x86"),
        ("empty", "empty: is empty; give a kernel for x86"),
        ("aarch64", "aarch64: is an ELF64 file for AArch64; give a kernel"),
        ("zimage", "zimage: is a zImage, which runs below 1 MiB; give a kernel for x86"),
        ("pvh", "pvh: is damaged: its PVH entry 0x1000000 is not in its segments"),
        ("multiboot", "multiboot: has a Multiboot header without addresses, but is no ELF file"),
        ("cut", "cut: is truncated: "),
        ("/bin/sh", "/bin/sh: is a program for Linux, not a kernel"),
        ("halts --initrd missing", "missing: no such file"),
        ("halts --initrd .", ".: is a directory; give an initial RAM disk"),
        ("halts --initrd empty", "empty: is empty; give an initial RAM disk"),
        ("halts --initrd large", "of 1 GiB does not fit in 1 GiB of RAM; give at least"),
        ("halts --memory 16M", "does not fit in 16 MiB of RAM; give at least --memory "),
        ("halts --memory 900T", "this host has"),
        ("halts --memory lots", "'lots': not a size"),
        ("halts --memory -1", "a machine needs RAM"),
        ("halts --append " + "x" * 3000, "command line has 3000 bytes"),
        ("halts --console tcp:1", "--console tcp:1: give stdio, file:PATH or none"),
        ("halts --console file:/no/where", "--console file:/no/where: cannot write the file"),
        ("halts --console file:.", "--console file:.: cannot write the file: Is a directory"),
    ],
)
def test_mistakes_are_a_line_and_status_2(capfd: Capture, arguments: str, message: str) -> None:
    status = main(["run", "--kernel", *arguments.split()])
    said = capfd.readouterr()

    assert (status, said.out) == (2, "")
    assert message in a_line(said.err.encode())


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("mistake", ["--initrd missing", "--initrd large", "--memory 16M"])
def test_a_log_of_before_is_not_lost_to_a_mistake(capfd: Capture, mistake: str) -> None:
    log = Path("log")
    log.write_text("before")
    status = main(["run", "--kernel", "halts", "--console", "file:log", *mistake.split()])

    assert (status, log.read_text()) == (2, "before")
    a_line(capfd.readouterr().err.encode())


# --- the fetch


@pytest.fixture
def mirror(tmp_path: Path) -> Mirror:
    return Mirror(tmp_path)


DEBIAN = command("busybox", "--", "true")


@NEEDS_APT
def test_a_kernel_that_was_damaged_in_the_cache_is_fetched_again(mirror: Mirror) -> None:
    first = run(DEBIAN, mirror.environment)
    entries = mirror.entries()
    vmlinuz = next(mirror.cache.rglob("vmlinuz"))
    vmlinuz.write_bytes(vmlinuz.read_bytes()[:-1] + b"?")
    second = run(DEBIAN, mirror.environment)
    mirror.lose()
    third = run(DEBIAN, mirror.environment)

    assert [done.returncode for done in (first, second, third)] == [STATUS_HALTED] * 3
    assert vmlinuz.read_bytes() == HALTS.bytes()
    assert mirror.entries() == entries


@NEEDS_APT
def test_without_a_network(mirror: Mirror) -> None:
    mirror.use("http://127.0.0.1:1/debian")
    done = run(DEBIAN, mirror.environment)

    assert (done.returncode, done.stdout) == (2, b"")
    assert "the network does not reach Debian" in a_line(done.stderr)
    assert mirror.entries() == ["lock"]


@NEEDS_APT
def test_a_server_without_the_package(mirror: Mirror) -> None:
    mirror.lose()
    done = run(DEBIAN, mirror.environment)

    assert (done.returncode, done.stdout) == (2, b"")
    assert "cannot fetch " in a_line(done.stderr)
    assert mirror.entries() == ["lock"]


@NEEDS_APT
@pytest.mark.parametrize("tool", ["apt-get", "apt-cache", "apt-config"])
def test_without_a_tool_of_debians_ringlet_fetches_itself(
    mirror: Mirror, tmp_path: Path, tool: str
) -> None:
    path = tmp_path / "bin"
    path.mkdir()
    for name in {"apt-get", "apt-cache", "apt-config"} - {tool}:
        (path / name).symlink_to(shutil.which(name) or name)
    done = run(DEBIAN, {**mirror.environment, "PATH": str(path)})

    assert done.returncode == STATUS_HALTED
    assert (mirror.cache / "ringlet/lists/trixie/lists/updated").exists()
    assert any(name.startswith("kernels/") for name in mirror.entries())


# The command checks the free space first; here the needed space is set to 0.
SMALL = (
    "import sys\n"
    "from ringlet.images import debian\n"
    "debian._KERNEL_ROOM = debian._TOOL_ROOM = 0\n"
    "from ringlet.cli.main import command\n"
    "sys.exit(command())\n"
)
# Runs a command with a file system mounted over the cache, then lists the files left there.
MOUNTED = """
mount -t tmpfs -o "$1" tmpfs "$2" || exit 99
cache=$2
shift 2
"$@"
status=$?
find "$cache" -path "$cache/ringlet/apt" -prune -o -type f -printf '%P\\n' -o -name '.u*' -print
exit $status
"""


def mounted(mirror: Mirror, options: str, program: list[str]) -> subprocess.CompletedProcess[bytes]:
    """Run `ringlet` with a cache directory on a file system of its own."""
    script = [*UNSHARE, "sh", "-c", MOUNTED, "sh", options, str(mirror.cache)]
    return run([*script, sys.executable, *program, "run", "busybox", "--", "true"],
               mirror.environment)  # fmt: skip


@NEEDS_APT
@NEEDS_NAMESPACES
@pytest.mark.parametrize(
    "options",
    ["size=100k", "size=3500k", "size=6000k", "nr_inodes=5", "nr_inodes=17", "nr_inodes=20",
     "nr_inodes=21", "nr_inodes=22", "nr_inodes=23"],
)  # fmt: skip
def test_a_disk_that_becomes_full_on_the_way(tmp_path: Path, options: str) -> None:
    mirror = Mirror(tmp_path, kernel=HALTS.bytes() + random.Random(1).randbytes(3 << 20))
    done = mounted(mirror, options, ["-c", SMALL])

    assert (done.returncode, done.stdout) == (2, b"ringlet/lock\n")
    assert "No space left on device; free 200 MiB there, or set" in a_line(done.stderr)


@NEEDS_APT
@NEEDS_NAMESPACES
def test_a_disk_that_is_too_small_from_the_beginning(mirror: Mirror) -> None:
    done = mounted(mirror, "size=20m", ["-m", "ringlet"])

    assert (done.returncode, done.stdout) == (2, b"ringlet/lock\n")
    assert "No space left on device; free 200 MiB there, or set" in a_line(done.stderr)


@NEEDS_NAMESPACES
def test_a_cache_that_cannot_be_written(mirror: Mirror) -> None:
    done = mounted(mirror, "ro", ["-m", "ringlet"])

    assert (done.returncode, done.stdout) == (2, b"")
    assert "Read-only file system; make it writable, or set" in a_line(done.stderr)


@NEEDS_APT
@NEEDS_NAMESPACES
def test_a_cache_that_is_complete_need_not_be_writable(mirror: Mirror) -> None:
    fetched = run(DEBIAN, mirror.environment)
    script = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && shift && exec "$@"'
    done = run([*UNSHARE, "sh", "-c", script, "sh", str(mirror.cache), *DEBIAN],
               mirror.environment)  # fmt: skip

    assert (fetched.returncode, done.returncode) == (STATUS_HALTED, STATUS_HALTED)


# --- streams


@pytest.mark.usefixtures("files")
def test_a_log_on_a_full_disk() -> None:
    done = run(command("--kernel", "prints", "--console", "file:/dev/full"))

    assert (done.returncode, done.stdout) == (2, b"")
    assert "cannot write /dev/full: No space left on device" in a_line(done.stderr)


@pytest.mark.usefixtures("files")
def test_a_reader_that_has_seen_enough() -> None:
    with subprocess.Popen(
        command("--kernel", "prints"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        seen = process.stdout.read(1000)
        process.stdout.close()
        errors = process.stderr.read()

    assert (process.returncode, seen, errors) == (141, b"y" * 1000, b"")


@pytest.mark.usefixtures("files")
def test_time_is_over_though_nobody_reads_the_output() -> None:
    with subprocess.Popen(
        command("--timeout", "1s", "--kernel", "prints"), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        status = process.wait(PATIENCE)
        errors = process.stderr.read()

    assert status == 124
    assert a_line(errors) == "ringlet: the guest was still running after 1 s\n"


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("closed", "status"), [("2>&-", STATUS_HALTED), ("<&- 2>&-", STATUS_HALTED), ("0>&1", 4)]
)
def test_streams_that_are_closed(closed: str, status: int) -> None:
    done = run(["sh", "-c", f'exec "$@" {closed}', "sh", *command("--kernel", "halts")])

    assert (done.returncode, done.stdout) == (status, b"")


# --- signals, at any moment


MOMENTS = [
    (signum, random.Random(signum * 10 + turn).uniform(0, 3))
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for turn in range(3)
]


@NEEDS_APT
@pytest.mark.parametrize(
    ("number", "delay"), MOMENTS, ids=[f"{n.name}-{d:.2f}" for n, d in MOMENTS]
)
def test_a_signal_at_any_moment(tmp_path: Path, number: signal.Signals, delay: float) -> None:
    """The fetch takes most of three seconds; the RAM disk is made, and then the guest spins."""
    mirror = Mirror(tmp_path, kernel=SPINS.bytes() + bytes(2 << 20))
    with mirror.slow(1 << 20), subprocess.Popen(
        DEBIAN, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=mirror.environment, start_new_session=True,
    ) as process:  # fmt: skip
        wait_until_stoppable(process.pid)
        time.sleep(delay)
        process.send_signal(number)
        told = process.communicate(timeout=PATIENCE)
        left = session(process.pid)

    assert (process.returncode, *told) == (128 + number, b"", b"")
    assert [name for name in mirror.entries() if "unfinished" in name] == []
    assert left == []


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    started: list[Terminal] = []
    yield started
    for terminal in started:
        terminal.close()


# The moments of signals from a terminal: while the guest spins, and while packages are fetched.
SHELL = [(b"starting", "spins"), (b"fetching linux", "busybox")]


def on_terminal(terminals: list[Terminal], tmp_path: Path, kind: str, mirror: Mirror) -> Terminal:
    (tmp_path / "spins").write_bytes(SPINS.bytes())
    arguments = ["busybox"] if kind == "busybox" else ["--kernel", str(tmp_path / "spins")]
    terminals.append(Terminal(command(*arguments), mirror.environment))
    return terminals[-1]


@NEEDS_APT
@pytest.mark.parametrize(("moment", "kind"), SHELL, ids=["spins", "fetches"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_gives_the_terminal_back(
    terminals: list[Terminal], tmp_path: Path, moment: bytes, kind: str, number: signal.Signals
) -> None:
    mirror = Mirror(tmp_path, kernel=SPINS.bytes() + bytes(8 << 20))
    with mirror.slow(1 << 20):
        terminal = on_terminal(terminals, tmp_path, kind, mirror)
        terminal.until(moment)
        time.sleep(0.3)
        terminal.process.send_signal(number)
        status = terminal.ended()

    assert status == 128 + number
    assert termios.tcgetattr(terminal.fd) == terminal.before
    assert terminal.shown.rfind(b"\x1b[?25h") > terminal.shown.rfind(b"\x1b[?25l"), "the cursor"
    assert b"Traceback" not in terminal.shown


@NEEDS_APT
def test_control_c_ends_a_fetch(terminals: list[Terminal], tmp_path: Path) -> None:
    mirror = Mirror(tmp_path, kernel=SPINS.bytes() + bytes(8 << 20))
    with mirror.slow(1 << 20):
        terminal = on_terminal(terminals, tmp_path, "busybox", mirror)
        terminal.until(b"fetching linux")
        os.write(terminal.user, b"\x03")
        status = terminal.ended()

    assert status == 128 + signal.SIGINT
    assert b"Traceback" not in terminal.shown
    assert mirror.entries() == ["lock"]


@NEEDS_APT
@pytest.mark.parametrize(("moment", "kind"), SHELL, ids=["spins", "fetches"])
def test_a_terminal_that_is_closed_ends_everything(
    terminals: list[Terminal], tmp_path: Path, moment: bytes, kind: str
) -> None:
    mirror = Mirror(tmp_path, kernel=SPINS.bytes() + bytes(8 << 20))
    with mirror.slow(1 << 20):
        terminal = on_terminal(terminals, tmp_path, kind, mirror)
        terminal.until(moment)
        terminal.hang_up()
        status = terminal.process.wait(PATIENCE)
        left = session(terminal.process.pid)

    assert status in (128 + signal.SIGHUP, 0), "by the signal, or as standard input ended"
    assert left == []
    assert [name for name in mirror.entries() if "unfinished" in name] == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this host has no /dev/full")
def test_trace_that_cannot_be_written(tmp_path: Path) -> None:
    kernel = tmp_path / "kernel"
    kernel.write_bytes(HALTS.bytes())

    done = run(command("--kernel", str(kernel), "--cold", "--trace", "/dev/full"))

    assert done.returncode == 2
    assert "cannot write /dev/full: No space left on device" in done.stderr.decode()
