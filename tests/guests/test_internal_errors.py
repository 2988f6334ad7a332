"""A defect of Ringlet, in whichever thread, ends the run with status 70 and one line about it.

The processes here are Ringlet with one function replaced by one that raises an exception.
"""

import contextlib
import os
import re
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guests.terminal import PATIENCE, Terminal
from tests.unit.machine.kernel_maker import BzImage

STATUS = 70
BROKEN = """
import pkgutil
import sys

def broken(*arguments, **options):
    raise LookupError("broken by the test")

place, name, *arguments = sys.argv[1:]
setattr(pkgutil.resolve_name(place), name, broken)
from ringlet.cli.main import command
sys.argv[1:] = arguments
sys.exit(command())
"""
REPORT = b"ringlet: internal error, please report it: LookupError: broken by the test (at="
# mov dx, 3F8h; mov al, "y"; out dx, al; then a jump to itself
KERNEL = BzImage(code=bytes(0x200) + bytes.fromhex("66BAF803 B079 EE EBFE").ljust(64)).bytes()

OF_THE_GUEST = {
    "device": ("ringlet.devices.uart16550:Uart16550", "write"),
    "output": ("ringlet.devices.backends.fd_sink:FdSink", "__call__"),
    "translator": ("ringlet.translate.learn", "learn_key"),
    "loader": ("ringlet.machine.boot", "build"),
}
OF_THE_CONSOLE = {
    "keyboard": ("ringlet.cli.terminal:EscapeParser", "feed"),
    "backlog": ("ringlet.devices.backends.backlog:Backlog", "put"),
    "input of a device": ("ringlet.devices.uart16550:Uart16550", "poll"),
    "run loop": ("ringlet.machine.vm:Vm", "_interrupted"),
}
OF_GDB = {
    "packets": ("ringlet.debug.protocol:Parser", "feed"),
    "commands": ("ringlet.debug.commands:Commands", "answer"),
    "interrupt": ("ringlet.debug.server:GdbServer", "_interrupted"),
}
GDB_IS_AWAITED = b"ringlet: listening for gdb; in gdb, enter: target remote "


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    path = tmp_path / "kernel"
    path.write_bytes(KERNEL)
    return path


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    started: list[Terminal] = []
    yield started
    for terminal in started:
        terminal.close()


def broken(place: tuple[str, str], kernel: Path) -> list[str]:
    return [sys.executable, "-c", BROKEN, *place, "run", "--cold", "--kernel", str(kernel)]


def assert_reported(terminal: Terminal) -> None:
    status = terminal.ended()
    assert status == STATUS, terminal.shown
    assert terminal.shown.count(REPORT) == terminal.shown.count(b"ringlet: ") == 1
    assert b"Traceback" not in terminal.shown
    assert termios.tcgetattr(terminal.fd) == terminal.before
    assert b"\x1b[?25l" not in terminal.shown.rpartition(b"\x1b[?25h")[2], "the cursor"


@pytest.mark.parametrize("place", OF_THE_GUEST.values(), ids=OF_THE_GUEST)
def test_defect_on_the_guests_way(
    terminals: list[Terminal], kernel: Path, place: tuple[str, str]
) -> None:
    terminals.append(Terminal(broken(place, kernel), dict(os.environ)))

    assert_reported(terminals[0])


@pytest.mark.parametrize("place", OF_THE_CONSOLE.values(), ids=OF_THE_CONSOLE)
def test_defect_at_the_users_key(
    terminals: list[Terminal], kernel: Path, place: tuple[str, str]
) -> None:
    terminals.append(Terminal(broken(place, kernel), dict(os.environ)))
    terminals[0].until(b"y")  # the guest runs
    os.write(terminals[0].user, b"k")

    assert_reported(terminals[0])


@pytest.mark.parametrize("place", OF_GDB.values(), ids=OF_GDB)
def test_defect_at_a_packet_of_gdb(kernel: Path, tmp_path: Path, place: tuple[str, str]) -> None:
    path = tmp_path / "gdb"
    command = [*broken(place, kernel), "--gdb", str(path)]
    with (
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                         stderr=subprocess.PIPE) as run,
        socket.socket(socket.AF_UNIX) as gdb,
    ):  # fmt: skip
        assert run.stderr is not None
        assert run.stderr.readline().startswith(GDB_IS_AWAITED)
        gdb.connect(str(path))
        gdb.sendall(b"$?#3f$c#63")
        with contextlib.suppress(ConnectionError):
            for _ in range(10 * PATIENCE):  # an interrupt before the guest goes on is ignored
                gdb.sendall(b"\x03")
                time.sleep(0.1)
        _, said = run.communicate(timeout=PATIENCE)

    assert run.returncode == STATUS, said
    assert said.startswith(REPORT)
    assert said.count(b"\n") == 1


@pytest.mark.parametrize("place", OF_THE_GUEST.values(), ids=OF_THE_GUEST)
def test_report_of_a_defect_is_all_that_is_said(kernel: Path, place: tuple[str, str]) -> None:
    done = subprocess.run(
        broken(place, kernel), stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE,
        check=False,
    )  # fmt: skip

    assert done.returncode == STATUS, done.stderr
    assert done.stderr.startswith(REPORT)
    assert done.stderr.count(b"\n") == 1
    assert re.search(rb"\(at=<string>:6\b", done.stderr), "where it was raised"
