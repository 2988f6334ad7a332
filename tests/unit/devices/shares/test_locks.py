"""Locks that the guest shares with programs of the host."""

import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from struct import pack

import pytest

from ringlet.devices.backends.shares import FileServer, locks, record_locks
from ringlet.devices.backends.shares import protocol as fuse
from ringlet.devices.backends.shares.messages import Request
from ringlet.devices.backends.shares.share import Share
from tests.unit.devices.shares.kernel import Kernel, refused, regular, scattered

END = (1 << 63) - 1


@pytest.fixture
def guest(root: Path) -> Iterator[Kernel]:
    server = FileServer(root, read_only=False, trouble=print, locks=True)
    yield Kernel(server)
    server.close()


class Locker:
    """A process of the guest that has a file open."""

    def __init__(self, guest: Kernel, owner: int, number: int) -> None:
        self.guest = guest
        self.owner = owner
        self.number = number

    def lock(
        self, kind: int, start: int = 0, end: int = END, *, opcode: int = fuse.SETLK, flags: int = 0
    ) -> bytes:
        body = pack("<QQQQIIII", self.number, self.owner, start, end, kind, 7, flags, 0)
        return self.guest.call(opcode, 1, body)

    def test(self, kind: int, start: int = 0, end: int = END) -> tuple[int, int, int]:
        return fuse.LK_OUT.unpack(self.lock(kind, start, end, opcode=fuse.GETLK))[:3]

    def close(self) -> None:
        self.guest.call(fuse.FLUSH, 1, pack("<QIIQ", self.number, 0, 0, self.owner))


@pytest.fixture
def file(guest: Kernel, root: Path) -> Path:
    return regular(root / "f", b"x" * 100)


@pytest.fixture
def two(guest: Kernel, file: Path) -> tuple[Locker, Locker]:
    number = guest.open(guest.lookup("f").node, os.O_RDWR)
    return Locker(guest, 0xA, number), Locker(guest, 0xB, number)


def test_locks_are_negotiated(guest: Kernel) -> None:
    assert guest.flags & fuse.POSIX_LOCKS
    assert guest.flags & fuse.FLOCK_LOCKS


def test_lock_of_one_process_excludes_another_with_the_same_open_file(
    two: tuple[Locker, Locker],
) -> None:
    one, other = two
    one.lock(fcntl.F_WRLCK, 10, 19)

    assert refused(lambda: other.lock(fcntl.F_RDLCK, 15, 15)) == errno.EAGAIN
    assert other.test(fcntl.F_WRLCK) == (10, 19, fcntl.F_WRLCK)
    assert refused(lambda: other.lock(fcntl.F_WRLCK, 20)) == 0
    assert one.test(fcntl.F_RDLCK, 25, 30) == (20, END, fcntl.F_WRLCK)


def test_lock_of_a_process_does_not_exclude_its_other_open_file(
    guest: Kernel, two: tuple[Locker, Locker]
) -> None:
    again = Locker(guest, 0xA, guest.open(guest.lookup("f").node, os.O_RDWR))
    two[0].lock(fcntl.F_WRLCK)

    again.lock(fcntl.F_WRLCK)
    again.close()

    assert two[1].test(fcntl.F_WRLCK)[2] == fcntl.F_UNLCK


def test_programs_of_the_host_see_the_lock(two: tuple[Locker, Locker], file: Path) -> None:
    two[0].lock(fcntl.F_WRLCK)
    with file.open("r+b") as host:
        with pytest.raises(BlockingIOError):
            fcntl.lockf(host, fcntl.LOCK_EX | fcntl.LOCK_NB)
        two[0].lock(fcntl.F_UNLCK)
        fcntl.lockf(host, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert refused(lambda: two[0].lock(fcntl.F_RDLCK)) == errno.EAGAIN


def test_lock_of_an_open_file_ends_with_it(guest: Kernel, file: Path) -> None:
    node = guest.lookup("f").node
    first, second = (Locker(guest, 0, guest.open(node)) for _ in range(2))
    first.lock(fcntl.F_WRLCK, flags=fuse.LK_FLOCK)

    assert refused(lambda: second.lock(fcntl.F_RDLCK, flags=fuse.LK_FLOCK)) == errno.EAGAIN
    guest.release(first.number)
    assert second.lock(fcntl.F_RDLCK, flags=fuse.LK_FLOCK) == b""


def waiting(locker: Locker) -> tuple[threading.Thread, list[int]]:
    results: list[int] = []
    kernel = Kernel.__new__(Kernel)
    kernel.__dict__.update(locker.guest.__dict__)
    kernel._unique = 1000
    waiter = Locker(kernel, locker.owner, locker.number)

    def wait() -> None:
        results.append(refused(lambda: waiter.lock(fcntl.F_WRLCK, opcode=fuse.SETLKW)))

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.05)
    assert thread.is_alive()
    return thread, results


def test_waiting_ends_when_the_lock_is_given_back(two: tuple[Locker, Locker]) -> None:
    two[0].lock(fcntl.F_WRLCK)
    thread, results = waiting(two[1])

    two[0].lock(fcntl.F_UNLCK)
    thread.join(5)

    assert results == [0]
    assert refused(lambda: two[0].lock(fcntl.F_RDLCK)) == errno.EAGAIN


def test_waiting_ends_by_interrupt_and_with_the_server(two: tuple[Locker, Locker]) -> None:
    two[0].lock(fcntl.F_WRLCK)
    thread, results = waiting(two[1])
    assert two[0].guest.send(fuse.INTERRUPT, 0, pack("<Q", 1001)) == b""
    thread.join(5)

    second, more = waiting(two[1])
    two[0].guest.server.close()
    second.join(5)

    assert (results, more) == ([errno.EINTR], [errno.EINTR])


def test_waiting_that_begins_during_a_reset_ends(
    two: tuple[Locker, Locker], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, server, results = locks._attempt, two[0].guest.server, []

    def attempt(share: Share, request: Request) -> Callable[[], None]:
        made = plain(share, request)
        server.reset()
        return made

    def wait() -> None:
        results.append(refused(lambda: two[0].lock(fcntl.F_WRLCK, opcode=fuse.SETLKW)))

    monkeypatch.setattr(locks, "_attempt", attempt)
    thread = threading.Thread(target=wait, daemon=True)
    with file.open("r+b") as of_the_host:
        fcntl.lockf(of_the_host, fcntl.LOCK_EX)
        thread.start()
        thread.join(5)

    assert results == [errno.EINTR]


def test_waits_and_owners_have_bounds(
    two: tuple[Locker, Locker], monkeypatch: pytest.MonkeyPatch
) -> None:
    two[0].lock(fcntl.F_WRLCK)
    monkeypatch.setattr(record_locks, "WAITING", 0)
    assert refused(lambda: two[1].lock(fcntl.F_WRLCK, opcode=fuse.SETLKW)) == errno.ENOLCK

    monkeypatch.setattr(record_locks, "OWNERS", 2)
    third = Locker(two[0].guest, 0xC, two[0].number)
    assert refused(lambda: third.lock(fcntl.F_RDLCK)) == errno.ENOLCK


@pytest.mark.parametrize(
    ("kind", "start", "end"), [(3, 0, 1), (0, 5, 4), (1, 0, 1 << 63), (1, 1 << 63, (1 << 64) - 1)]
)
def test_wrong_ranges_are_refused(
    two: tuple[Locker, Locker], kind: int, start: int, end: int
) -> None:
    assert refused(lambda: two[0].lock(kind, start, end)) == errno.EINVAL


def test_only_requests_that_wait_need_a_thread(guest: Kernel) -> None:
    def waits(opcode: int) -> bool:
        header = fuse.IN_HEADER.pack(40, opcode, 1, 1, 0, 0, 0, 0)
        return guest.server.waits(scattered(header, 3, 2, 30))

    assert waits(fuse.SETLKW)
    assert not any(waits(opcode) for opcode in range(64) if opcode != fuse.SETLKW)
    assert not guest.server.waits([])


def test_read_only_share_gives_shared_locks(root: Path) -> None:
    regular(root / "f")
    guest = Kernel(FileServer(root, read_only=True, trouble=print, locks=True))
    locker = Locker(guest, 1, guest.open(guest.lookup("f").node))

    assert locker.lock(fcntl.F_RDLCK) == b""
    assert refused(lambda: locker.lock(fcntl.F_WRLCK)) == errno.EBADF
    guest.server.close()
