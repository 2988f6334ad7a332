"""`Machine(vsock=...)`: streams between programs of the host and of a guest."""

from __future__ import annotations

import random
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import ringlet

PATIENCE = 90
MUCH = 8 << 20
SOURCE = Path(__file__).parent / "virtio" / "vsock.c"
pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("kernel")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sockets")


@pytest.fixture(scope="module")
def machine(place: Path) -> Iterator[ringlet.Machine]:
    if shutil.which("gcc") is None:
        pytest.skip("no gcc on this host")
    program = place / "program"
    subprocess.run(["gcc", "-static", "-O1", "-o", program, SOURCE], check=True, timeout=60)
    with ringlet.Machine("busybox", memory="256M", vsock=place / "s") as machine:
        machine.start()
        machine.files.copy_in(program, "/tmp/vsock")
        yield machine


def test_program_of_the_guest_calls_the_host(machine: ringlet.Machine, place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place / "s_5000"))
        listener.listen()
        listener.settimeout(PATIENCE)
        process = machine.popen(["/tmp/vsock", "out", "5000", str(MUCH)])
        stream, _ = listener.accept()
        stream.settimeout(PATIENCE)
        got = bytearray()
        while piece := stream.recv(1 << 18):
            got += piece
        stream.sendall(b"thanks")
        stream.close()

    assert process.wait(PATIENCE) == 0
    assert got == bytes(i % 251 for i in range(1 << 18)) * (MUCH >> 18)
    assert process.stdout.read() == b"read 6 sum %d\n" % sum(b"thanks")


def test_program_of_the_host_calls_the_guest(machine: ringlet.Machine, place: Path) -> None:
    data = random.Random(7).randbytes(MUCH)
    process = machine.popen(["/tmp/vsock", "echo", "77"])
    assert process.stdout.readline() == b"listening\n"
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(PATIENCE)
        stream.connect(str(place / "s"))
        stream.sendall(b"CONNECT 77\n")
        answer = stream.makefile("rb", buffering=0).readline()
        assert answer.startswith(b"OK ")
        got = bytearray()
        for at in range(0, MUCH, 1 << 16):
            stream.sendall(data[at : at + (1 << 16)])
            while len(got) < at:
                got += stream.recv(1 << 18)
        stream.shutdown(socket.SHUT_WR)
        while piece := stream.recv(1 << 18):
            got += piece

    assert got == data
    assert process.wait(PATIENCE) == 0


def test_nobody_listens_on_either_side(machine: ringlet.Machine, place: Path) -> None:
    refused = machine.run(["/tmp/vsock", "in", "5001"])
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(PATIENCE)
        stream.connect(str(place / "s"))
        stream.sendall(b"CONNECT 5001\n")
        answer = stream.recv(100)

    assert (refused.exit_code, refused.stderr) == (1, "connect: Connection reset by peer\n")
    assert answer == b""


def test_socket_goes_with_the_machine(place: Path) -> None:
    with ringlet.Machine("busybox", memory="256M", vsock=place / "other") as machine:
        machine.start()
        assert (place / "other").is_socket()
        with pytest.raises(ringlet.ConfigError, match="another process listens there"):
            ringlet.Machine("busybox", memory="256M", vsock=place / "other").start()

    assert not (place / "other").exists()
