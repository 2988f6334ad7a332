"""The client's side of NBD, against servers that keep the protocol or break it."""

import errno
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest
from tests.unit.devices.disks.driver import Ended

from ringlet.devices.backends.disks import nbd
from ringlet.devices.backends.disks.nbd import Client, Command, ProtocolError

GREETING = b"NBDMAGICIHAVEOPT\0\3"


def option(kind: int, data: bytes = b"", magic: int = 0x3E889045565A9, length: int = -1) -> bytes:
    return struct.pack(">QIII", magic, 7, kind, len(data) if length < 0 else length) + data


EXPORT = option(3, struct.pack(">HQH", 0, 1 << 20, 0x6D))


class Server:
    """The other end of a client's connection, and what the client said of its end."""

    def __init__(self) -> None:
        self.end, theirs = socket.socketpair()
        self.end.settimeout(10)
        self.lost: list[str] = []
        self.client = Client(theirs, self.lost.append, "test")

    def take(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            data += self.end.recv(length - len(data))
        return data

    def request(self) -> tuple[int, int]:
        """Return kind and cookie of the next request, without its data."""
        head = self.take(28)
        magic, _, kind, cookie, _, _ = struct.unpack(">IHHQQI", head)
        assert magic == 0x25609513
        return kind, cookie

    def reply(self, cookie: int, code: int = 0, data: bytes = b"", magic: int = 0x67446698) -> None:
        self.end.sendall(struct.pack(">IIQ", magic, code, cookie) + data)

    def begin(self, kind: int, length: int = 0, data: bytearray | None = None) -> Ended:
        ended = Ended()
        buffers = [] if data is None else [memoryview(data)]
        self.client.submit(Command(kind, 0, 0, length, buffers, ended))
        return ended


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.end.close()
    made.client.close()


def negotiate(data: bytes) -> nbd.Export:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        ours.settimeout(10)
        return nbd.negotiate(ours)


def test_export_is_chosen() -> None:
    said = GREETING + option(3, b"\0\3" + bytes(12)) + EXPORT + option(1)

    assert negotiate(said) == nbd.Export(1 << 20, 0x6D)


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"SSH-2.0-x",
        b"x" * 4096,
        b"NBDMAGICIHAVEOPT\0\0",
        GREETING,
        GREETING + EXPORT,
        GREETING + option(1),
        GREETING + option(0x80000006, b"no such export"),
        GREETING + option(3, magic=1),
        GREETING + option(3, length=1 << 31),
        GREETING + EXPORT * 1000,
        GREETING + option(3, b"\0\0short") + option(1),
    ],
)
def test_a_server_that_breaks_the_negotiation(said: bytes) -> None:
    with pytest.raises((ProtocolError, OSError)):
        negotiate(said)


def test_replies_in_any_order_reach_their_requests(server: Server) -> None:
    first, second = bytearray(4), bytearray(4)
    one = server.begin(nbd.READ, 4, first)
    two = server.begin(nbd.READ, 4, second)
    (_, a), (_, b) = server.request(), server.request()

    server.reply(b, data=b"2222")
    server.reply(a, data=b"1111")

    assert (one.wait(), two.wait()) == (0, 0)
    assert (bytes(first), bytes(second)) == (b"1111", b"2222")


def test_errors_are_those_of_this_system(server: Server) -> None:
    for code, expected in ((28, errno.ENOSPC), (5, errno.EIO), (77777, errno.EIO)):
        ended = server.begin(nbd.READ, 4, bytearray(4))
        server.reply(server.request()[1], code)  # without data, as the protocol says
        assert ended.wait() == expected


Break = Callable[[Server, int], None]


@pytest.mark.parametrize(
    "break_",
    [
        lambda server, cookie: server.reply(cookie + 1),
        lambda server, cookie: server.reply(cookie, magic=0x668E33EF),
        lambda server, cookie: server.reply(cookie, data=b"12"),
        lambda server, cookie: server.end.sendall(b"\0" * 7),
        lambda server, cookie: None,
    ],
)
def test_a_server_that_breaks_the_protocol_fails_all_requests_once(
    server: Server, break_: Break
) -> None:
    ended = [server.begin(nbd.READ, 4, bytearray(4)) for _ in range(nbd.WINDOW + 5)]

    break_(server, server.request()[1])
    server.end.shutdown(socket.SHUT_RDWR)

    assert {one.wait() for one in ended} == {errno.EIO}
    assert server.begin(nbd.FLUSH).codes == [errno.EIO]
    assert len(server.lost) == 1
    assert {tuple(one.codes) for one in ended} == {(errno.EIO,)}


def test_a_reply_that_comes_twice_fails_the_connection(server: Server) -> None:
    one = server.begin(nbd.FLUSH)
    other = server.begin(nbd.FLUSH)
    _, cookie = server.request()

    server.reply(cookie)
    server.reply(cookie)

    assert (one.wait(), other.wait()) == (0, errno.EIO)


def test_a_server_gets_no_more_than_it_can_take(server: Server) -> None:
    ended = [server.begin(nbd.FLUSH) for _ in range(nbd.WINDOW + 1)]
    cookies = [server.request()[1] for _ in range(nbd.WINDOW)]
    server.end.settimeout(0.1)
    with pytest.raises(TimeoutError):
        server.request()

    server.reply(cookies[0])

    for cookie in (*cookies[1:], server.request()[1]):
        server.reply(cookie)
    assert {one.wait() for one in ended} == {0}


def test_submit_does_not_wait_for_a_server_that_reads_nothing(server: Server) -> None:
    """The socket is full after some of these; the sender's thread waits, and this one does not."""
    size = 4 << 20
    ended = [server.begin(nbd.WRITE, size, bytearray(bytes([n]) * size)) for n in range(4)]
    got = []

    def serve() -> None:
        for _ in range(4):
            cookie = server.request()[1]
            got.append(server.take(size))
            server.reply(cookie)

    serving = threading.Thread(target=serve)
    serving.start()
    assert {one.wait() for one in ended} == {0}
    serving.join()

    assert got == [bytes([n]) * size for n in range(4)]
