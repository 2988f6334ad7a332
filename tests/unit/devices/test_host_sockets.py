"""The sockets of the host that lead to a guest's AF_VSOCK sockets."""

import errno
import fcntl
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from ringlet.devices.backends import host_sockets
from ringlet.devices.backends.host_sockets import HostSockets, wanted_port
from ringlet.errors import ConfigError


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    yield ours, theirs
    ours.close()
    theirs.close()


def listening(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen(1)
    return sock


def too_many_files(*args: object) -> NoReturn:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


# --- the line of a caller


@pytest.mark.parametrize(
    ("line", "port"),
    [(b"CONNECT 1\n", 1), (b"CONNECT 4294967294\n", 0xFFFF_FFFE), (b"CONNECT 52\r\n", 52)],
)
def test_port_that_a_caller_wants(
    pair: tuple[socket.socket, socket.socket], line: bytes, port: int
) -> None:
    ours, theirs = pair
    theirs.sendall(line + b"CONNECT 7\nand data")

    assert wanted_port(ours, bytearray()) == port
    assert ours.recv(100) == b"CONNECT 7\nand data"


@pytest.mark.parametrize("line", [b"", b"C", b"CONNECT", b"CONNECT 5"])
def test_line_that_is_not_complete(
    pair: tuple[socket.socket, socket.socket], line: bytes
) -> None:
    ours, theirs = pair
    said = bytearray()
    theirs.sendall(line)

    assert wanted_port(ours, said) is None
    with pytest.raises(BlockingIOError):  # it does not stay readable
        ours.recv(1)
    theirs.sendall(b"CONNECT 52\n"[len(line) :] + b"more")
    assert wanted_port(ours, said) == 52
    assert ours.recv(100) == b"more"


@pytest.mark.parametrize(
    "line",
    [b"\n", b"CONNECT \n", b"CONNECT -1\n", b"CONNECT 4294967295\n", b"connect 1\n", b"x" * 32,
     b"CONNECT 1 2\n", b"CONNECT \xb2\n", b"CONNECT 11111111111\n", b"CONNECT 1" + b" " * 40],
)  # fmt: skip
def test_lines_that_are_refused(
    pair: tuple[socket.socket, socket.socket], line: bytes
) -> None:
    ours, theirs = pair
    theirs.sendall(line)

    with pytest.raises(ValueError, match="no"):
        wanted_port(ours, bytearray())


def test_line_without_an_end(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    said = bytearray()
    for _ in range(31):
        theirs.sendall(b"x")
        assert wanted_port(ours, said) is None
    theirs.sendall(b"x")

    with pytest.raises(ValueError, match="no line"):
        wanted_port(ours, said)


def test_caller_that_leaves_without_a_word(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.sendall(b"CONNECT")
    theirs.shutdown(socket.SHUT_WR)
    ours.recv(7)

    with pytest.raises(ValueError, match="no line"):
        wanted_port(ours, bytearray())


# --- the sockets


def test_only_the_user_can_connect_and_nothing_is_left(tmp_path: Path) -> None:
    path = tmp_path / "guest"
    host = HostSockets(path, "--vsock")
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(path))
        accepted = host.accept()

    assert (path.stat().st_mode & 0o777, host.accept()) == (0o600, None)
    assert accepted is not None
    assert not accepted.getblocking()
    accepted.close()
    host.close()
    assert not path.exists()


def test_caller_waits_while_the_process_has_too_many_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = HostSockets(tmp_path / "guest", "--vsock")
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(tmp_path / "guest"))
        with monkeypatch.context() as full:
            full.setattr(socket.socket, "accept", too_many_files)
            with pytest.raises(OSError, match="Too many open files"):
                host.accept()
        accepted = host.accept()

    assert accepted is not None
    accepted.close()
    host.close()


def test_call_of_the_guest_reaches_who_listens(tmp_path: Path) -> None:
    host = HostSockets(tmp_path / "guest", "--vsock")
    with listening(tmp_path / "guest_5") as there:
        ours = host.dial(5)
        theirs, _ = there.accept()
        assert ours is not None
        ours.send(b"hello")
        assert theirs.recv(10) == b"hello"
        ours.close()
        theirs.close()
    host.close()


def test_calls_that_nobody_takes(tmp_path: Path) -> None:
    host = HostSockets(tmp_path / "guest", "--vsock")
    (tmp_path / "guest_1").touch()
    listening(tmp_path / "guest_2").close()

    assert [host.dial(port) for port in (1, 2, 3)] == [None, None, None]
    host.close()


def test_call_follows_no_link(tmp_path: Path) -> None:
    host = HostSockets(tmp_path / "guest", "--vsock")
    with listening(tmp_path / "private"):
        (tmp_path / "guest_5").symlink_to("private")

        assert host.dial(5) is None
    host.close()


def test_call_reaches_no_other_users_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = HostSockets(tmp_path / "guest", "--vsock")
    with listening(tmp_path / "guest_5"):
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)

        assert host.dial(5) is None
    host.close()


def test_link_in_the_place_of_the_socket_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody may put it there as soon as the socket has its name."""
    path, file = tmp_path / "guest", tmp_path / "file"
    file.touch(0o644)
    bind = socket.socket.bind

    def swapped(sock: socket.socket, address: str) -> None:
        bind(sock, address)
        path.unlink()
        path.symlink_to(file)

    monkeypatch.setattr(socket.socket, "bind", swapped)
    HostSockets(path, "--vsock").close()

    assert file.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(("module", "name"), [(socket, "socket"), (os, "open")])
def test_call_while_the_process_has_too_many_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: object, name: str
) -> None:
    host = HostSockets(tmp_path / "guest", "--vsock")
    with listening(tmp_path / "guest_5"), monkeypatch.context() as patch:
        patch.setattr(module, name, too_many_files)

        assert host.dial(5) is None
    host.close()


def test_listener_that_is_overrun_does_not_block(tmp_path: Path) -> None:
    host = HostSockets(tmp_path / "guest", "--vsock")
    with listening(tmp_path / "guest_5"):
        calls = [host.dial(5) for _ in range(5)]

    assert calls[-1] is None
    for sock in calls:
        if sock is not None:
            sock.close()
    host.close()


def test_what_a_killed_machine_has_left_is_replaced(tmp_path: Path) -> None:
    listening(tmp_path / "guest").close()

    HostSockets(tmp_path / "guest", "--vsock").close()

    assert not (tmp_path / "guest").exists()


def test_socket_of_another_machine_is_not_taken(tmp_path: Path) -> None:
    first = HostSockets(tmp_path / "guest", "--vsock")

    with pytest.raises(ConfigError, match=r"--vsock .*/guest: another process listens there"):
        HostSockets(tmp_path / "guest", "--vsock")

    first.close()


def test_socket_that_does_not_listen_yet_is_not_taken_for_one_that_was_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two machines start with the same path: the second begins before the first listens."""
    path = tmp_path / "guest"
    listen = socket.socket.listen
    refusals: list[str] = []

    def start() -> None:
        try:
            HostSockets(path, "--vsock").close()
        except ConfigError as error:
            refusals.append(str(error))

    second = threading.Thread(target=start)

    def late(sock: socket.socket, backlog: int) -> None:
        monkeypatch.setattr(socket.socket, "listen", listen)
        second.start()
        second.join(0.2)
        listen(sock, backlog)

    monkeypatch.setattr(socket.socket, "listen", late)
    first = HostSockets(path, "--vsock")
    second.join()

    assert refusals == [f"--vsock {path}: another process listens there; give another path"]
    assert path.is_socket()
    first.close()


def test_directory_that_others_have_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any user of the host may lock a directory that he can read, such as /tmp."""
    monkeypatch.setattr(host_sockets, "_LOCK_PATIENCE_S", 0.01)
    fd = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)

    host = HostSockets(tmp_path / "guest", "--vsock")

    assert (tmp_path / "guest").is_socket()
    host.close()
    os.close(fd)


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.EBADF, errno.ENOLCK])
def test_directory_that_cannot_be_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def without(fd: int, operation: int) -> NoReturn:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", without)
    host = HostSockets(tmp_path / "guest", "--vsock")

    assert (tmp_path / "guest").is_socket()
    host.close()


def test_file_of_the_user_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "guest").write_text("mine")

    with pytest.raises(ConfigError, match="there is a file of this name"):
        HostSockets(tmp_path / "guest", "--vsock")

    assert (tmp_path / "guest").read_text() == "mine"


@pytest.mark.parametrize("name", ["none/guest", "x" * 150])
def test_places_where_there_can_be_no_socket(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="give"):
        HostSockets(tmp_path / name, "--vsock")


def test_socket_that_took_the_place_stays(tmp_path: Path) -> None:
    host = HostSockets(tmp_path / "guest", "--vsock")
    (tmp_path / "guest").unlink()
    with listening(tmp_path / "guest"):
        host.close()

        assert (tmp_path / "guest").exists()
