"""The front end of vhost-user-blk, against engines that keep the protocol or break it."""

import contextlib
import errno
import mmap
import os
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest
from tests.unit.devices.disks.driver import Ended, split

from ringlet.devices.backends.disks import vhost
from ringlet.devices.backends.disks.interface import DROPPED, Session
from ringlet.devices.backends.disks.vhost import Client, Command, Export, ProtocolError

FEATURES = 1 << 30 | 1 << 32 | 1 << 9 | 1 << 13 | 1 << 14
CONFIG = struct.pack("<Q28xIIIII", 2048, 128, 1, 8, 64, 1) + bytes(4)
ANSWERS = {1: struct.pack("<Q", FEATURES), 15: struct.pack("<Q", 1 << 9), 24: bytes(12) + CONFIG}


class FakeEngine:
    """Does what an engine does with messages; its ring is moved by the test."""

    def __init__(self, answers: dict[int, bytes] | None = None) -> None:
        self.end, self.theirs = socket.socketpair()
        self.answers = ANSWERS if answers is None else answers
        self.fds: dict[int, int] = {}
        self.rings: tuple[int, ...] = ()
        self.ready = threading.Event()
        self.seen = self.used = 0
        self.thread = threading.Thread(target=self._serve_all)
        self.thread.start()

    def _serve_all(self) -> None:
        with contextlib.suppress(ConnectionError):  # the front end has refused an answer
            self._serve()

    def _serve(self) -> None:
        while len(head := self.end.recv(12, socket.MSG_PEEK)) == 12:
            number, _, size = struct.unpack("<III", head)
            message, fds, _, _ = socket.recv_fds(self.end, 12 + size, 1)
            if fds:
                self.fds[number] = fds[0]
            if number == 5:
                self.memory = mmap.mmap(fds[0], os.fstat(fds[0]).st_size)
            if number == 9:
                used, available = struct.unpack_from("<QQ", message, 12 + 16)
                self.rings = (used - (1 << 32), available - (1 << 32))
            if number in self.answers:
                data = self.answers[number]
                self.end.sendall(struct.pack("<III", number, 5, len(data)) + data)
            if number == 18:
                self.ready.set()

    def take(self) -> tuple[int, list[tuple[int, int, int]]]:
        """Wait for the next request; return its first descriptor, and all of them."""
        assert self.ready.wait(10)
        index = self.rings[1] + 2
        while struct.unpack_from("<H", self.memory, index)[0] == self.seen:
            assert select.select([self.fds[12]], [], [], 10)[0]
            os.eventfd_read(self.fds[12])
        first: int
        (first,) = struct.unpack_from("<H", self.memory, index + 2 + 2 * (self.seen % 128))
        self.seen += 1
        chain, at = [], first
        while True:
            address, length, flags, following = struct.unpack_from("<QIHH", self.memory, 16 * at)
            chain.append((address, length, flags))
            if not flags & 1:
                return first, chain
            at = following

    def answer(self, first: int, *, index: int | None = None) -> None:
        """Put `first` into the used ring and call the front end."""
        struct.pack_into("<II", self.memory, self.rings[0] + 4 + 8 * (self.used % 128), first, 0)
        self.used = self.used + 1 if index is None else index
        struct.pack_into("<H", self.memory, self.rings[0] + 2, self.used % 65536)
        os.eventfd_write(self.fds[13], 1)

    def finish(self, status: int = 0, data: bytes = b"") -> tuple[int, list[tuple[int, int, int]]]:
        """Take a request and answer it with `status` and `data`."""
        first, chain = self.take()
        if data:
            self.memory[chain[1][0] : chain[1][0] + len(data)] = data
        self.memory[chain[-1][0]] = status
        self.answer(first)
        return first, chain

    def announced(self) -> int:
        """Return how many requests the front end has given the engine."""
        return int(struct.unpack_from("<H", self.memory, self.rings[1] + 2)[0])

    def close(self) -> None:
        self.end.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.end.close()
        for fd in self.fds.values():
            os.close(fd)


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    made = FakeEngine()
    yield made
    made.close()


class Front:
    """A client, and what it said of the end of its connection."""

    def __init__(self, engine: FakeEngine) -> None:
        self.lost: list[str] = []
        self.client = Client(engine.theirs, self.lost.append, "test")

    def begin(self, kind: int, offset: int = 0, data: bytearray | None = None,
              length: int = 0, flags: int = 0) -> Ended:  # fmt: skip
        ended = Ended()
        buffers = [] if data is None else split(data, 2)
        size = length if data is None else len(data)
        self.client.submit(Command(kind, offset, size, buffers, ended, flags))
        return ended


@pytest.fixture
def front(engine: FakeEngine) -> Iterator[Front]:
    made = Front(engine)
    yield made
    made.client.close()


def test_disk_is_what_the_engine_says(front: Front) -> None:
    assert front.client.export == Export(1 << 20, FEATURES, 64 << 10, 32 << 10)


def test_data_is_copied_to_and_from_the_engine(engine: FakeEngine, front: Front) -> None:
    read, written = bytearray(1024), bytearray(b"w" * 1024)

    ended = front.begin(vhost.READ, 4096, read)
    _, chain = engine.finish(data=b"r" * 1024)
    assert (ended.wait(), bytes(read)) == (0, b"r" * 1024)
    assert struct.unpack_from("<IIQ", engine.memory, chain[0][0]) == (0, 0, 8)
    assert [length for _, length, _ in chain] == [16, 1024, 1]

    ended = front.begin(vhost.WRITE, 512, written)
    _, chain = engine.finish()
    assert ended.wait() == 0
    assert engine.memory[chain[1][0] : chain[1][0] + 1024] == b"w" * 1024
    assert [flags & 2 for _, _, flags in chain] == [0, 0, 2]


def test_zeros_are_a_segment_and_a_flush_is_nothing(engine: FakeEngine, front: Front) -> None:
    ended = front.begin(vhost.WRITE_ZEROES, 1024, length=2048, flags=vhost.UNMAP)
    _, chain = engine.finish()
    assert ended.wait() == 0
    assert struct.unpack_from("<QII", engine.memory, chain[1][0]) == (2, 4, 1)

    ended = front.begin(vhost.FLUSH)
    _, chain = engine.finish()
    assert (ended.wait(), len(chain)) == (0, 2)


@pytest.mark.parametrize("status", [1, 2, 77])
def test_a_failure_leaves_the_guests_memory(
    engine: FakeEngine, front: Front, status: int
) -> None:
    data = bytearray(512)
    ended = front.begin(vhost.READ, 0, data)

    engine.finish(status, b"x" * 512)

    assert (ended.wait(), bytes(data)) == (errno.EIO, bytes(512))


def test_requests_beyond_the_slots_wait(engine: FakeEngine, front: Front) -> None:
    count = 3 * vhost.SLOTS
    ended = [front.begin(vhost.WRITE, 0, bytearray([n]) * 512) for n in range(count)]
    first, _ = engine.take()
    for _ in range(vhost.SLOTS - 1):
        engine.take()
    assert engine.seen == struct.unpack_from("<H", engine.memory, engine.rings[1] + 2)[0]
    engine.memory[0x3000 : 0x3000 + 64 * vhost.SLOTS] = bytes(64 * vhost.SLOTS)

    for slot in range(vhost.SLOTS):
        engine.answer(3 * slot)
    for _ in range(count - vhost.SLOTS):
        engine.finish()

    assert first == 0
    assert {one.wait() for one in ended} == {0}


def test_requests_that_wait_are_dropped_when_their_session_is_over(
    engine: FakeEngine, front: Front
) -> None:
    session = Session()
    ended = [Ended() for _ in range(vhost.SLOTS + 5)]
    for one in ended:
        front.client.submit(Command(vhost.FLUSH, 0, 0, [], one, session=session))
    session.over = True

    for _ in range(vhost.SLOTS):
        engine.finish()

    codes = [one.wait() for one in ended]
    assert (codes[: vhost.SLOTS], codes[vhost.SLOTS :]) == ([0] * vhost.SLOTS, [DROPPED] * 5)
    assert engine.announced() == vhost.SLOTS


def test_the_ring_goes_round(engine: FakeEngine, front: Front) -> None:
    for _ in range(300):  # both rings have 128 entries
        ended = front.begin(vhost.FLUSH)
        engine.finish()
        assert ended.wait() == 0


Break = Callable[[FakeEngine, int], None]


@pytest.mark.parametrize(
    "break_",
    [
        lambda engine, first: engine.answer(first + 1),
        lambda engine, first: engine.answer(3 * vhost.SLOTS),
        lambda engine, first: engine.answer(0xFFFFFFFF),
        lambda engine, first: engine.answer(first, index=60000),
        lambda engine, first: engine.end.sendall(b"x"),
        lambda engine, first: engine.end.shutdown(socket.SHUT_WR),
    ],
)
def test_an_engine_that_breaks_the_protocol_fails_all_requests_once(
    engine: FakeEngine, front: Front, break_: Break
) -> None:
    ended = [front.begin(vhost.READ, 0, bytearray(512)) for _ in range(vhost.SLOTS + 5)]
    first, chain = engine.take()
    engine.memory[chain[-1][0]] = 0

    break_(engine, first)

    assert {one.wait() for one in ended} == {errno.EIO}
    assert front.begin(vhost.FLUSH).codes == [errno.EIO]
    assert {tuple(one.codes) for one in ended} == {(errno.EIO,)}
    assert len(front.lost) == 1


def test_an_answer_that_comes_twice_fails_the_connection(
    engine: FakeEngine, front: Front
) -> None:
    one, other = front.begin(vhost.FLUSH), front.begin(vhost.FLUSH)
    first, _ = engine.finish()
    assert one.wait() == 0

    engine.answer(first)

    assert other.wait() == errno.EIO


def test_the_engine_cannot_take_the_pages_away(engine: FakeEngine, front: Front) -> None:
    """Otherwise an access of Ringlet to them would end it."""
    assert engine.ready.wait(10)

    with pytest.raises(PermissionError):
        os.ftruncate(engine.fds[5], 0)


@pytest.mark.parametrize(
    "change",
    [
        {1: struct.pack("<Q", 1 << 9)},
        {1: bytes(4)},
        {15: bytes(8)},
        {24: bytes(12) + bytes(8) + CONFIG[8:]},
        {24: bytes(12) + b"\xff" * 60},
        {24: bytes(16)},
    ],
)
def test_an_engine_that_breaks_the_negotiation(change: dict[int, bytes]) -> None:
    engine = FakeEngine({**ANSWERS, **change})

    with pytest.raises(ProtocolError):
        Front(engine)

    engine.thread.join()
    engine.end.close()
    for fd in engine.fds.values():
        os.close(fd)
