"""Virtio devices with the drivers of Debian's kernels."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ringlet.devices.backends.disks.opening import open_disk
from ringlet.devices.virtio.balloon import Balloon
from ringlet.devices.virtio.block import Block
from ringlet.devices.virtio.console import Console, Port
from ringlet.devices.virtio.rng import Rng
from ringlet.devices.virtio.vsock import Vsock
from ringlet.disk_spec import parse_disk
from ringlet.machine.pci_slots import MakeDevice
from tests.guests.virtio.guest import Guest

Failed = Callable[[Exception], None]
PATIENCE = 60.0
MUCH = 32 << 20

pytestmark = pytest.mark.timeout(300)


def in_background(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


# --- block


def disk_of(path: Path, options: str = "") -> MakeDevice:
    disk = open_disk(parse_disk(f"{path}{options}"), pytest.fail)
    return lambda failed: Block(disk, failed, f"disk of {path.name}")


def test_disk(guest: Guest, tmp_path: Path) -> None:
    content = os.urandom(4 << 20)
    image = tmp_path / "disk.img"
    image.write_bytes(content)
    fixed = tmp_path / "fixed.img"
    fixed.write_bytes(content[: 1 << 20])
    text = guest.run(
        "sha256sum /dev/vda\n"
        "tr '\\0' w </dev/zero | dd of=/dev/vda bs=4k seek=10 count=20 conv=fsync 2>/dev/null\n"
        "sha256sum /dev/vda\n"
        "dd if=/dev/zero of=/dev/vdb count=1 2>/dev/null || echo refused\n"
        "cat /sys/block/vda/queue/write_cache /sys/block/vdb/ro\n",
        [disk_of(image), disk_of(fixed, ",format=raw,ro")],
    )
    changed = bytearray(content)
    changed[40960 : 40960 + 81920] = b"w" * 81920
    assert hashlib.sha256(content).hexdigest() in text
    assert hashlib.sha256(changed).hexdigest() in text
    assert image.read_bytes() == changed
    assert "refused\nwrite back\n1\n" in text


def test_disk_without_messages(guest: Guest, tmp_path: Path) -> None:
    """By the pin of the function, the PIIX3's lines and the I/O APIC."""
    image = tmp_path / "disk.img"
    image.write_bytes(os.urandom(1 << 20))
    text = guest.run(
        "sha256sum /dev/vda; grep virtio0 /proc/interrupts", [disk_of(image)], append="pci=nomsi"
    )
    assert hashlib.sha256(image.read_bytes()).hexdigest() in text
    assert "IO-APIC" in text


# --- entropy


def test_entropy(guest: Guest) -> None:
    text = guest.run(
        "cat /sys/class/misc/hw_random/rng_current\n"
        "dd if=/dev/hwrng of=/tmp/r bs=4k count=16 iflag=fullblock 2>/dev/null\n"
        "echo packed $(gzip -c /tmp/r | wc -c)\n",
        [Rng],
    )
    assert "virtio_rng.0\n" in text
    packed = re.search(r"packed (\d+)", text)
    assert packed is not None
    assert int(packed[1]) > 65536


# --- console


def test_ports(guest: Guest) -> None:
    agent, theirs = socket.socketpair()
    opened: list[bool] = []
    port = Port("org.ringlet.agent", theirs.detach(), opened=opened.append)
    there = os.urandom(MUCH)
    back = bytearray()

    def serve() -> None:
        agent.sendall(there)
        while len(back) < MUCH and (piece := agent.recv(1 << 20)):
            back.extend(piece)
        agent.sendall(b"thanks\n")

    server = in_background(serve)
    text = guest.run(
        "cat /sys/class/virtio-ports/vport*p1/name\n"
        "exec 3<>/dev/$(basename /sys/class/virtio-ports/vport*p1)\n"
        f"head -c {MUCH} <&3 >/tmp/data; sha256sum /tmp/data; cat /tmp/data >&3\n"
        "read answer <&3; echo $answer; exec 3>&-\n"
        "echo on the console >/dev/hvc0\n",
        [lambda failed: Console([Port("hvc", console=True, stream=console_end()), port], failed)],
    )
    server.join(PATIENCE)
    assert "org.ringlet.agent\n" in text
    assert hashlib.sha256(there).hexdigest() in text
    assert back == there
    assert "thanks\n" in text
    assert opened[:2] == [True, False]
    assert console_output() == b"on the console\r\n"
    agent.close()


_consoles: list[int] = []


def console_end() -> int:
    """Return the writing end of a new pipe for a console."""
    read, write = os.pipe()
    _consoles.append(read)
    return write


def console_output() -> bytes:
    """Return what the latest console has had, whose end is closed."""
    with open(_consoles.pop(), "rb") as file:  # noqa: PTH123 - a descriptor
        return file.read()


def test_unread_port_holds_the_guest_up_and_no_more(guest: Guest) -> None:
    """Nobody reads: the program waits, the guest goes on."""
    host, theirs = socket.socketpair()
    text = guest.run(
        "yes >/dev/vport0p0 & sleep 1; echo went on; kill %1; wait; echo ended",
        [lambda failed: Console([Port("x", theirs.detach())], failed)],
    )
    assert "went on\nended\n" in text
    host.close()


# --- sockets


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    if shutil.which("gcc") is None:
        pytest.skip("no gcc on this host")
    target = tmp_path_factory.mktemp("vsock") / "vsock"
    source = Path(__file__).with_name("vsock.c")
    subprocess.run(
        ["gcc", "-static", "-O1", "-Wall", "-Wextra", "-Werror", "-o", target, source],
        check=True, timeout=60,
    )  # fmt: skip
    return target.read_bytes()


def test_sockets(guest: Guest, program: bytes) -> None:
    got = bytearray()
    data = bytes(i % 199 for i in range(1 << 20))
    echoed = bytearray()
    devices: list[Vsock] = []

    def make(failed: Failed) -> Vsock:
        devices.append(Vsock(failed))
        return devices[0]

    def take() -> None:
        with devices[0].listen(1000).accept(PATIENCE) as stream:
            while piece := stream.recv(1 << 20):
                got.extend(piece)

    def give() -> None:
        with devices[0].listen(1001).accept(PATIENCE) as stream:
            for _ in range(MUCH >> 20):
                stream.sendall(data)

    def echo() -> None:
        while b"listening" not in guest.output:
            time.sleep(0.01)
        with devices[0].connect_guest(77, PATIENCE) as stream:
            stream.settimeout(PATIENCE)
            sender = in_background(lambda: _send(stream, data))
            while piece := stream.recv(1 << 20):
                echoed.extend(piece)
            sender.join(PATIENCE)

    threads: list[threading.Thread] = []
    text = guest.run(
        f"/vsock out 1000 {MUCH}\n/vsock in 1001\n/vsock in 9999\n/vsock echo 77\n",
        [make],
        files={"vsock": program},
        started=lambda pc: threads.extend(map(in_background, (take, give, echo))),
    )
    for thread in threads:
        thread.join(PATIENCE)
    pattern = bytes(i % 251 for i in range(1 << 18))
    assert got == pattern * (MUCH >> 18)
    assert f"read {MUCH} sum {sum(data) * (MUCH >> 20)}\n" in text
    assert "connect: Connection reset by peer\n" in text
    assert echoed == data


def _send(stream: socket.socket, data: bytes) -> None:
    stream.sendall(data)
    stream.shutdown(socket.SHUT_WR)


# --- balloon


def blocks(inode: int) -> int:
    """Return how many bytes of the host the guest RAM with this inode takes."""
    return next(512 * file.st_blocks for file in map(Path.stat, _ram()) if file.st_ino == inode)


def _ram() -> list[Path]:
    """Return this process's descriptors of guest RAM."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            if "ringlet-ram" in str(link.readlink()):
                found.append(link)
        except FileNotFoundError:
            continue  # that of the directory itself
    return found


def test_memory_returns_to_the_host(guest: Guest) -> None:
    """The guest fills 250 MB, frees them, and reports them; then the balloon takes 100 MB."""
    devices: list[Balloon] = []
    sizes: dict[str, int] = {}
    before = {file.stat().st_ino for file in _ram()}
    inode: list[int] = []

    def make(failed: Failed) -> Balloon:
        devices.append(Balloon(failed))
        return devices[0]

    def watch() -> None:
        """Measure when the guest says so, and answer on the serial port's next word."""
        while b"filled" not in guest.output:
            time.sleep(0.01)
        sizes["filled"] = blocks(inode[0])
        while b"reported" not in guest.output:
            time.sleep(0.01)
        sizes["reported"] = blocks(inode[0])
        devices[0].resize(100 << 20)
        end = time.monotonic() + PATIENCE
        while devices[0].size < 100 << 20 and time.monotonic() < end:
            time.sleep(0.01)
        sizes["balloon"] = devices[0].size
        devices[0].ask()

    def started(pc: object) -> None:
        del pc
        inode.extend({file.stat().st_ino for file in _ram()} - before)
        threads.append(in_background(watch))

    threads: list[threading.Thread] = []
    text = guest.run(
        "mount -t tmpfs -o size=300m tmpfs /tmp\n"
        "dd if=/dev/zero of=/tmp/much bs=1M count=250 2>/dev/null; echo filled; sleep 1\n"
        "rm /tmp/much; sleep 6; echo reported; sleep 3\n"
        "grep MemAvailable /proc/meminfo\n",
        [make],
        started=started,
    )
    threads[0].join(PATIENCE)
    assert sizes["filled"] > 300 << 20
    assert sizes["reported"] < sizes["filled"] - (200 << 20)
    assert sizes["balloon"] == 100 << 20
    available = re.search(r"MemAvailable: +(\d+) kB", text)
    assert available is not None
    assert int(available[1]) < 400 << 10
    assert devices[0].statistics["total"] > 400 << 20
