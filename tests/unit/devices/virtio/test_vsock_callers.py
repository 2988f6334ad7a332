"""The socket device with sockets of the host: calls of both sides."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.devices.virtio.conftest import MakeRig
from tests.unit.devices.virtio.driver import PATIENCE, eventually
from tests.unit.devices.virtio.test_vsock import HOST, Guest, too_many_files

from ringlet.devices.backends.host_sockets import WAITING, HostSockets
from ringlet.devices.virtio import vsock, vsock_connection
from ringlet.devices.virtio.vsock import Vsock
from ringlet.devices.virtio.vsock_packets import Op
from ringlet.devices.virtio.worker import Worker


@pytest.fixture
def host(tmp_path: Path) -> Iterator[HostSockets]:
    sockets = HostSockets(tmp_path / "s", "--vsock")
    yield sockets
    sockets.close()


@pytest.fixture
def guest(make_rig: MakeRig, host: HostSockets) -> Iterator[Guest]:
    guest = Guest(make_rig, lambda failed: Vsock(failed, host=host))
    yield guest
    for stream in guest.streams:
        stream.close()


def caller(path: Path, line: bytes) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(PATIENCE)
    sock.connect(str(path / "s"))
    sock.sendall(line)
    return sock


def turns(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list that gets an item whenever the device's thread wakes up."""
    woken: list[float] = []
    turn = Worker._turn

    def counted(worker: Worker) -> None:
        turn(worker)
        woken.append(time.monotonic())

    monkeypatch.setattr(Worker, "_turn", counted)
    return woken


def test_host_calls_the_guest(guest: Guest, tmp_path: Path) -> None:
    guest.offer(8)
    with caller(tmp_path, b"CONNECT 77\n") as sock:
        ((request, _),) = guest.heard()
        assert (request.op, request.source_cid, request.target_port) == (Op.REQUEST, HOST, 77)
        guest.send(Op.RESPONSE, port=77, host_port=request.source_port)
        assert sock.recv(100) == b"OK %d\n" % request.source_port

        sock.sendall(b"to the guest")
        ((packet, data),) = guest.heard()
        assert (packet.op, data) == (Op.RW, b"to the guest")
        guest.send(Op.RW, b"to the host", port=77, host_port=request.source_port)
        assert sock.recv(100) == b"to the host"


def test_guest_refuses(guest: Guest, tmp_path: Path) -> None:
    guest.offer(8)
    with caller(tmp_path, b"CONNECT 77\n") as sock:
        ((request, _),) = guest.heard()
        guest.send(Op.RST, port=77, host_port=request.source_port)

        assert sock.recv(100) == b""


@pytest.mark.parametrize("line", [b"GET / HTTP/1.1\r\n\r\n", b"CONNECT x\n", b"\0" * 40])
def test_who_says_something_else_is_left(guest: Guest, tmp_path: Path, line: bytes) -> None:
    # Who has not read all resets the connection.
    with caller(tmp_path, line) as sock, contextlib.suppress(ConnectionResetError):
        assert sock.recv(100) == b""


def test_caller_that_leaves_before_the_answer(guest: Guest, tmp_path: Path) -> None:
    guest.offer(8)
    with caller(tmp_path, b"CONNECT 77\n"):
        assert guest.ops() == [Op.REQUEST]

    assert guest.ops() == [Op.RST]
    assert eventually(lambda: not guest.vsock._connections)


def test_caller_that_sends_and_leaves_before_the_answer(guest: Guest, tmp_path: Path) -> None:
    guest.offer(8)
    with caller(tmp_path, b"CONNECT 77\nearly"):
        assert guest.ops() == [Op.REQUEST]

    assert guest.ops() == [Op.RST]
    assert eventually(lambda: not guest.vsock._connections)


@pytest.mark.parametrize("early", [b"", b"early"])
def test_caller_that_only_listens_gets_the_answer(
    guest: Guest, tmp_path: Path, early: bytes
) -> None:
    guest.offer(8)
    with caller(tmp_path, b"CONNECT 77\n" + early) as sock:
        sock.shutdown(socket.SHUT_WR)
        ((request, _),) = guest.heard()
        assert guest.silent()
        guest.send(Op.RESPONSE, port=77, host_port=request.source_port)

        assert sock.recv(3) == b"OK "


def test_call_without_an_answer_gives_way_when_there_are_too_many(
    guest: Guest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vsock, "CONNECTIONS", 1)
    guest.offer(8)
    with caller(tmp_path, b"CONNECT 77\n") as first:
        assert guest.ops() == [Op.REQUEST]
        with caller(tmp_path, b"CONNECT 78\n") as refused:
            assert refused.recv(10) == b""

        monkeypatch.setattr(vsock_connection, "LONGEST_CALL_S", 0.0)
        with caller(tmp_path, b"CONNECT 79\n"):
            assert first.recv(10) == b""
            ((reset, _), (request, _)) = guest.heard(2)

    assert (reset.op, reset.target_port) == (Op.RST, 77)
    assert (request.op, request.target_port) == (Op.REQUEST, 79)


def test_caller_that_sends_before_the_answer(guest: Guest, tmp_path: Path) -> None:
    guest.offer(8)
    with caller(tmp_path, b"CONNECT 77\nearly") as sock:
        ((request, _),) = guest.heard()
        guest.send(Op.RESPONSE, port=77, host_port=request.source_port)
        ((_, data),) = guest.heard()

        assert data == b"early"
        assert sock.recv(3) == b"OK "


def test_thread_rests_while_a_line_is_not_complete(
    guest: Guest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    woken = turns(monkeypatch)
    guest.offer(8)
    with caller(tmp_path, b"CONN") as sock:
        time.sleep(0.1)
        assert len(woken) < 10

        sock.sendall(b"ECT 77\n")
        assert guest.ops() == [Op.REQUEST]


def test_thread_rests_while_the_process_has_too_many_files(
    guest: Guest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    woken = turns(monkeypatch)
    guest.offer(8)
    with monkeypatch.context() as full:
        full.setattr(socket.socket, "accept", too_many_files)
        sock = caller(tmp_path, b"CONNECT 77\n")
        time.sleep(0.15)
        assert len(woken) < 10

    assert guest.ops() == [Op.REQUEST]
    sock.close()


def test_callers_that_say_nothing_give_way(guest: Guest, tmp_path: Path) -> None:
    silent = [caller(tmp_path, b"") for _ in range(WAITING)]
    with caller(tmp_path, b"CONNECT 77\n"):
        assert silent[0].recv(1) == b""
        guest.offer(8)
        assert guest.ops() == [Op.REQUEST]
    for sock in silent:
        sock.close()


def test_guest_calls_the_host(guest: Guest, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as there:
        there.bind(str(tmp_path / "s_9"))
        there.listen()
        there.settimeout(PATIENCE)
        guest.offer(8)
        guest.send(Op.REQUEST, host_port=9)
        sock, _ = there.accept()
        assert guest.ops() == [Op.RESPONSE]

        guest.send(Op.RW, b"hello", host_port=9)
        assert sock.recv(10) == b"hello"
        sock.close()


def test_nobody_listens_at_the_hosts_port(guest: Guest) -> None:
    guest.offer()
    guest.send(Op.REQUEST, host_port=9)

    assert guest.ops() == [Op.RST]


def test_sockets_outlive_a_reset(guest: Guest, make_rig: MakeRig, host: HostSockets,
                                 tmp_path: Path) -> None:  # fmt: skip
    waiting = caller(tmp_path, b"")
    callers = guest.vsock._callers
    assert callers is not None
    eventually(lambda: len(callers._waiting) == 1)
    guest.rig.pci.close()
    assert waiting.recv(10) == b""
    waiting.close()

    again = Guest(make_rig, lambda failed: Vsock(failed, host=host))
    again.offer(8)
    with caller(tmp_path, b"CONNECT 77\n"):
        assert again.ops() == [Op.REQUEST]
