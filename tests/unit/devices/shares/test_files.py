"""The data of shared files."""

import errno
import os
import stat
from pathlib import Path
from struct import pack

import pytest

from ringlet.devices.backends.shares import FileServer
from ringlet.devices.backends.shares import protocol as fuse
from tests.unit.devices.shares.kernel import (
    Kernel,
    descriptors,
    refused,
    regular,
    scattered,
    scattered_into,
)

MEBIBYTE = 1 << 20


def test_data_goes_to_the_host_and_back(guest: Kernel, root: Path) -> None:
    _, number = guest.create("a")

    assert guest.write(number, 3, b"abc") == 3
    assert (root / "a").read_bytes() == b"\0\0\0abc"
    assert guest.read(number, 2, 100) == b"\0abc"
    assert guest.read(number, 6, 100) == b""


def test_largest_transfer_is_scattered_over_guest_memory(guest: Kernel, root: Path) -> None:
    data = os.urandom(MEBIBYTE)
    _, number = guest.create("a")
    body = pack("<QQII16x", number, 0, MEBIBYTE, 0)
    header = fuse.IN_HEADER.pack(80 + MEBIBYTE, fuse.WRITE, 9, 1, 0, 0, 1, 0)
    reply = bytearray(24)

    size = guest.server.handle(
        scattered(header + body + data, 40, 40, *[4096] * 255), scattered_into(reply, 16)
    )
    assert (size, fuse.WRITE_OUT.unpack_from(reply, 16)) == (24, (MEBIBYTE,))
    assert (root / "a").read_bytes() == data

    header = fuse.IN_HEADER.pack(80, fuse.READ, 9, 1, 0, 0, 1, 0)
    reply = bytearray(16 + MEBIBYTE)
    size = guest.server.handle(scattered(header + body), scattered_into(reply, 10, 7, *[4096] * 9))
    assert (size, bytes(reply[16:])) == (16 + MEBIBYTE, data)


def test_writes_of_a_file_opened_to_append_go_to_its_end(guest: Kernel, root: Path) -> None:
    """Only what the guest's cache writes back has its own place."""
    regular(root / "a", b"12345")
    number = guest.open(guest.lookup("a").node, os.O_RDWR | os.O_APPEND)
    with (root / "a").open("ab") as other:
        other.write(b"67")

    guest.write(number, 0, b"end")
    guest.write(number, 0, b"X", fuse.WRITE_CACHE)

    assert (root / "a").read_bytes() == b"X234567end"


@pytest.mark.parametrize("mode", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR])
def test_open_truncates(guest: Kernel, root: Path, mode: int) -> None:
    regular(root / "a", b"12345")

    guest.open(guest.lookup("a").node, mode | os.O_TRUNC)

    assert (root / "a").read_bytes() == b""


def test_create_opens_a_file_that_the_guest_did_not_know(guest: Kernel, root: Path) -> None:
    regular(root / "a", b"12345")

    entry, number = guest.create("a")

    assert guest.read(number, 0, 9) == b"12345"
    assert guest.lookup("a").node == entry.node
    assert refused(lambda: guest.create("a", os.O_RDWR | os.O_EXCL)) == errno.EEXIST


def test_create_of_a_file_that_cannot_be_written_gives_a_handle_that_can(
    guest: Kernel, root: Path
) -> None:
    _, number = guest.create("a", mode=0o444)

    guest.write(number, 0, b"x")

    assert (root / "a").read_bytes() == b"x"


def test_cache_is_kept_until_the_file_changes(guest: Kernel, root: Path) -> None:
    path = regular(root / "a", b"1")
    node = guest.lookup("a").node

    def kept() -> bool:
        return bool(guest.open_with_flags(node)[1] & fuse.FOPEN_KEEP_CACHE)

    first, second = kept(), kept()
    assert (first, second) == (False, False)  # it changed less than a second ago
    with pytest.MonkeyPatch.context() as patch:
        later = path.stat().st_ctime_ns + 2_000_000_000
        patch.setattr("time.time_ns", lambda: later)
        assert (kept(), kept()) == (False, True)
        changed = path.stat().st_ctime_ns
        while path.stat().st_ctime_ns == changed:
            path.write_bytes(b"2")
        assert kept() is False


def test_descriptors_are_closed_with_their_files(guest: Kernel, root: Path) -> None:
    regular(root / "a")
    node = guest.lookup("a").node
    before = descriptors()
    numbers = [guest.open(node) for _ in range(10)]

    assert descriptors() == before + 10
    for number in (numbers[5], *numbers[:5], *numbers[6:]):
        guest.release(number)
        assert guest.stat(node).size == 0
    assert descriptors() == before


def test_holes_are_found_and_punched(guest: Kernel, root: Path) -> None:
    _, number = guest.create("a")
    guest.write(number, 0, bytes(b"x" * 16384))

    guest.call(fuse.FALLOCATE, 1, pack("<QQQII", number, 4096, 4096, 3, 0))

    def seek(offset: int, whence: int) -> int:
        reply = guest.call(fuse.LSEEK, 1, pack("<QQII", number, offset, whence, 0))
        return int(fuse.LSEEK_OUT.unpack(reply)[0])

    assert (root / "a").read_bytes()[4096:8192] == bytes(4096)
    assert (seek(0, os.SEEK_HOLE), seek(4096, os.SEEK_DATA)) == (4096, 8192)
    assert refused(lambda: seek(0, os.SEEK_END)) == errno.EINVAL
    assert refused(lambda: seek(1 << 40, os.SEEK_DATA)) == errno.ENXIO
    allocate = pack("<QQQII", number, 0, 100_000, 0, 0)
    guest.call(fuse.FALLOCATE, 1, allocate)
    assert (root / "a").stat().st_size == 100_000
    collapse = pack("<QQQII", number, 0, 4096, 8, 0)
    assert refused(lambda: guest.call(fuse.FALLOCATE, 1, collapse)) == errno.EOPNOTSUPP


def test_host_copies_a_range(guest: Kernel, root: Path) -> None:
    regular(root / "a", b"0123456789")
    source = guest.open(guest.lookup("a").node)
    _, target = guest.create("b")

    reply = guest.call(
        fuse.COPY_FILE_RANGE, 1, fuse.COPY_IN.pack(source, 2, 1, target, 1, 1 << 62, 0)
    )

    assert fuse.WRITE_OUT.unpack(reply) == (8,)
    assert (root / "b").read_bytes() == b"\x0023456789"
    back = fuse.COPY_IN.pack(target, 0, 1, source, 0, 5, 0)
    assert refused(lambda: guest.call(fuse.COPY_FILE_RANGE, 1, back)) == errno.EBADF


def test_a_large_copy_is_done_in_part(guest: Kernel, root: Path) -> None:
    """The end of a run waits for what has begun; the guest asks for the rest."""
    regular(root / "a", bytes(5 << 20))
    source = guest.open(guest.lookup("a").node)
    _, target = guest.create("b")

    reply = guest.call(
        fuse.COPY_FILE_RANGE, 1, fuse.COPY_IN.pack(source, 0, 1, target, 0, 5 << 20, 0)
    )

    assert fuse.WRITE_OUT.unpack(reply) == (4 << 20,)


def test_written_data_is_synchronized(guest: Kernel, root: Path) -> None:
    _, number = guest.create("a")
    listing = guest.opendir()

    for opcode, handle, flags in (
        (fuse.FSYNC, number, 0), (fuse.FSYNC, number, 1), (fuse.FSYNCDIR, listing, 0),
    ):  # fmt: skip
        assert guest.call(opcode, 1, pack("<QII", handle, flags, 0)) == b""
    assert guest.call(fuse.SYNCFS, 1, bytes(8)) == b""
    assert refused(lambda: guest.call(fuse.FSYNC, 1, pack("<QII", 99, 0, 0))) == errno.EBADF


def test_close_needs_no_request_where_locks_are_the_guests(guest: Kernel) -> None:
    _, number = guest.create("a")

    flush = pack("<QIIQ", number, 0, 0, 0)

    assert refused(lambda: guest.call(fuse.FLUSH, 1, flush)) == errno.ENOSYS
    assert not guest.flags & (fuse.POSIX_LOCKS | fuse.FLOCK_LOCKS | fuse.WRITEBACK_CACHE)


def test_files_of_an_exclusive_share_are_kept_by_the_guest(root: Path) -> None:
    guest = Kernel(FileServer(root, read_only=False, trouble=print, exclusive=True))
    entry, _ = guest.create("a", os.O_WRONLY)

    number, flags = guest.open_with_flags(entry.node, os.O_WRONLY)

    assert guest.flags & fuse.WRITEBACK_CACHE
    assert flags & fuse.FOPEN_KEEP_CACHE
    assert guest.read(number, 0, 10) == b""  # the guest's cache reads what it writes in part
    holes = pack("<QQII", number, 0, os.SEEK_HOLE, 0)
    assert refused(guest.call, fuse.LSEEK, 1, holes) == errno.ENOSYS  # the cache may fill them
    reply = guest.call(fuse.LOOKUP, 1, b"a\0")
    assert fuse.ENTRY_OUT.unpack(reply)[2:4] == (86400, 86400)
    guest.server.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may keep the bits")
@pytest.mark.parametrize("way", ["write", "truncate", "open", "create"])
def test_program_that_changes_loses_its_privileges(guest: Kernel, root: Path, way: str) -> None:
    """The host's root keeps them, whatever the guest asks for, if nobody takes them."""
    path = regular(root / "a")
    node = guest.lookup("a").node
    number = guest.open(node, os.O_RDWR)
    path.chmod(0o6755)

    if way == "write":
        guest.write(number, 0, b"x")
    elif way == "truncate":
        guest.setattr(node, fuse.FATTR_SIZE, size=1)
    elif way == "open":
        guest.open(node, os.O_RDWR | os.O_TRUNC)
    else:
        guest.create("a", os.O_RDWR | os.O_TRUNC)

    assert stat.S_IMODE(path.stat().st_mode) == 0o755


def test_disk_full_is_an_error_of_the_guest_and_one_line_for_the_user(
    guest: Kernel, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, number = guest.create("a")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr("os.pwritev", full)
    codes = [refused(lambda: guest.write(number, 0, b"x")) for _ in range(3)]

    assert codes == [errno.ENOSPC] * 3
    assert [line.split(": ")[1] for line in told] == ["the host's disk is full"]
