"""The agent in a Debian kernel, on a serial port, with nothing else than busybox."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringlet.config import LinuxConfig
from ringlet.control.agent import Agent
from ringlet.devices.backends.backlog import Backlog
from ringlet.errors import CommandError
from ringlet.guest import PROGRAM
from ringlet.images.busybox import applets, find_busybox
from ringlet.images.cpio import CpioWriter
from ringlet.images.debian import CachedKernel
from ringlet.images.store import translations_directory
from ringlet.machine import boot
from ringlet.machine.engine import Engine
from ringlet.machine.outcome import EndKind
from ringlet.machine.pc import Options, Wire
from ringlet.machine.runner import Runner

INIT = b"""#!/bin/sh
export PATH=/bin:/sbin
mount -t devtmpfs devtmpfs /dev
mount -t proc proc /proc
mkdir /dev/pts
mount -t devpts devpts /dev/pts
exec /bin/agent /dev/ttyS1
"""


def initramfs() -> bytes:
    archive = CpioWriter()
    for name in ("bin", "dev", "proc", "root", "tmp", "etc"):
        archive.directory(name)
    archive.character_device("dev/console", 5, 1)
    busybox = find_busybox()
    archive.file("bin/busybox", busybox.read_bytes(), 0o755)
    for name in {Path(name).name for name in applets(busybox)} - {"busybox"}:
        archive.symlink(f"bin/{name}", "busybox")
    archive.file("bin/agent", PROGRAM.read_bytes(), 0o755)
    archive.file("init", INIT, 0o755)
    return archive.contents()


class Guest:
    """A running guest, its agent and what its console has shown."""

    def __init__(self, kernel: Path) -> None:
        ours, its = socket.socketpair()
        self.shown = bytearray()
        backlog = Backlog(lambda: self._pc.machine.post(self._pc.coms[1].poll))
        engine = Engine(
            exact=False, direct="auto", directory=translations_directory(), kernel=kernel
        )
        config = LinuxConfig(kernel, 256 << 20, initramfs(), "console=ttyS0 quiet panic=-1")
        wires = [Wire(self.shown.extend), Wire(its.sendall, backlog.take, handshake=True)]
        self._pc = boot.build(config, engine, Options(wires))
        self.runner = Runner(self._pc.machine, its.close)
        self.agent = Agent(ours)
        self.runner.start()
        threading.Thread(target=self._feed, args=(its, backlog), daemon=True).start()

    def _feed(self, stream: socket.socket, backlog: Backlog) -> None:
        try:
            while data := stream.recv(4096):
                backlog.put(data)
        except OSError:
            return


@pytest.fixture(scope="module")
def guest(kernel: CachedKernel) -> Iterator[Guest]:
    guest = Guest(kernel.vmlinuz)
    yield guest
    # As process 1 the agent turns the machine off itself.
    guest.agent.shutdown()
    assert guest.runner.done.wait(60), bytes(guest.shown)
    assert guest.runner.end is not None
    assert guest.runner.end.kind is EndKind.POWER_OFF
    guest.agent.close()


def test_commands_and_their_streams(guest: Guest) -> None:
    result = guest.agent.run("cat; uname -s; id -u; echo err >&2; exit 7", input="in\n", timeout=60)

    assert (result.stdout, result.stderr, result.exit_code) == ("in\nLinux\n0\n", "err\n", 7)


def test_missing_program_is_told(guest: Guest) -> None:
    with pytest.raises(CommandError, match="'none': no such program in the guest's PATH"):
        guest.agent.run(["none"])


def test_bytes_pass_a_serial_port_unchanged(guest: Guest) -> None:
    data = bytes(range(256)) * 200

    assert guest.agent.run(["cat"], input=data, text=False, timeout=60).stdout == data


def test_terminal(guest: Guest) -> None:
    result = guest.agent.run("tty; stty size", tty=True, size=(31, 77), timeout=60)

    assert result.stdout == "/dev/pts/0\r\n31 77\r\n"


def test_many_commands_at_once(guest: Guest) -> None:
    running = [guest.agent.popen(f"cat; echo {number}") for number in range(20)]
    for process in running:
        assert process.stdin is not None
        process.stdin.close()

    assert [process.stdout.read() for process in running] == [b"%d\n" % n for n in range(20)]


def test_files_and_trees(guest: Guest, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    for number in range(50):
        (source / "sub" / str(number)).write_text(f"{number}\n")
    (source / "link").symlink_to("sub/1")

    guest.agent.files.copy_in(source, "/tmp")
    guest.agent.files.copy_out("/tmp/source", tmp_path / "back")

    assert guest.agent.run("cat /tmp/source/link", timeout=60).stdout == "1\n"
    assert [(tmp_path / "back/sub" / str(n)).read_text() for n in range(50)] == [
        f"{n}\n" for n in range(50)]  # fmt: skip


def test_process_in_the_background_is_not_waited_for(guest: Guest) -> None:
    pid = guest.agent.run("sleep 1000 & echo $!", timeout=60).stdout.strip()

    assert guest.agent.run(["kill", pid], timeout=60).exit_code == 0


def test_guest_tells_what_it_is(guest: Guest, kernel: CachedKernel) -> None:
    info = guest.agent.info()

    assert info.release in str(kernel)
    assert info.agent_pid == 1
    assert 0 < info.uptime < 600
