"""Time a share's requests: `python -m tests.unit.devices.shares.timing [DIRECTORY]`.

Each line has the time of a request, that of the host's system calls which do the same, and the
difference, in microseconds: the least of many short rounds.  The files are in DIRECTORY,
by default in memory.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from struct import pack, unpack_from

from ringlet.devices.backends.shares import FileServer
from ringlet.devices.backends.shares import protocol as fuse

FILES = 1000
ROUNDS = 200
NAMES = [b"file%04d" % i for i in range(FILES)]
Calls = Callable[[int], object]


class Direct:
    """Sends requests with as little around them as there is."""

    def __init__(self, root: Path) -> None:
        self.server = FileServer(root, read_only=False, trouble=print)
        self.request = memoryview(bytearray(2 << 20))
        self.reply = memoryview(bytearray(2 << 20))
        self.call(fuse.INIT, 0, pack("<IIII48x", 7, 38, 1 << 17, 0xFFFFFFFF))

    def call(self, opcode: int, node: int, body: bytes, room: int = 4096, data: int = 0) -> int:
        """Send a request with `data` bytes behind its body; return the length of the reply."""
        start = 40 + len(body)
        head = fuse.IN_HEADER.pack(start + data, opcode, 7, node, 0, 0, 1, 0)
        self.request[:start] = head + body
        parts = [self.request[:40], self.request[40:start]]
        if data:
            parts.append(self.request[start : start + data])
        return self.server.handle(parts, [self.reply[:16], self.reply[16 : 16 + room]])

    def number(self, start: int = 16) -> int:
        """Return a 64-bit number of the last reply."""
        return int(unpack_from("<Q", self.reply, start)[0])


def best(calls: Calls, count: int) -> float:
    """Return the microseconds of one call, in the best round."""
    least = float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for i in range(count):
            calls(i)
        least = min(least, (time.perf_counter() - start) / count)
    return least * 1e6


def show(what: str, asked: Calls, host: Calls, count: int = 25) -> None:
    request, plain = best(asked, count), best(host, count)
    print(f"{what:36} {request:9.1f} {plain:9.1f} {request - plain:9.1f}")


def listing(guest: Direct, number: int, opcode: int) -> None:
    offset, extra = 0, 128 if opcode == fuse.READDIRPLUS else 0
    while True:
        size = guest.call(opcode, 1, pack("<QQI20x", number, offset, 1 << 17), 1 << 17)
        if size <= 16:
            return
        place = 16
        while place < size:
            _, offset, length = unpack_from("<QQI", guest.reply, place + extra)
            place += extra + 24 + (length + 7 & ~7)


def run(root: Path) -> None:
    """Print the table for files made in an empty directory."""
    for name in NAMES:
        (root / os.fsdecode(name)).write_bytes(bytes(4096))
    guest = Direct(root)
    top = os.open(root, os.O_RDONLY)

    def status(i: int) -> object:
        return os.stat(NAMES[i % FILES], dir_fd=top, follow_symlinks=False)

    def listed() -> list[str]:
        return [entry.name for entry in os.scandir(top)]

    def missing(_: int) -> None:
        try:
            os.stat(b"none", dir_fd=top)
        except FileNotFoundError:
            return

    print(f"{'request, us':36} {'server':>9} {'host':>9} {'more':>9}")
    show("LOOKUP", lambda i: guest.call(fuse.LOOKUP, 1, NAMES[i % FILES] + b"\0"), status)
    node = guest.number()
    show("LOOKUP of a missing name", lambda _: guest.call(fuse.LOOKUP, 1, b"none\0"), missing)
    show("GETATTR", lambda _: guest.call(fuse.GETATTR, node, bytes(16)), status)

    def open_and_read(_: int) -> None:
        guest.call(fuse.OPEN, node, pack("<II", os.O_RDONLY, 0))
        number = guest.number()
        guest.call(fuse.READ, node, pack("<QQI20x", number, 0, 4096))
        guest.call(fuse.RELEASE, node, pack("<QIIQ", number, 0, 0, 0))

    def host_open_and_read(_: int) -> None:
        fd = os.open(NAMES[0], os.O_RDONLY, dir_fd=top)
        os.preadv(fd, [guest.reply[:4096]], 0)
        os.close(fd)

    show("OPEN, READ of 4 KiB, RELEASE", open_and_read, host_open_and_read)

    def create(_: int) -> None:
        guest.call(fuse.CREATE, 1, pack("<IIII", os.O_RDWR | os.O_CREAT, 0o644, 0, 0) + b"new\0")
        made, number = guest.number(), guest.number(16 + 128)
        guest.call(fuse.RELEASE, made, pack("<QIIQ", number, 0, 0, 0))
        guest.call(fuse.UNLINK, 1, b"new\0")
        guest.call(fuse.FORGET, made, pack("<Q", 1))

    def host_create(_: int) -> None:
        os.close(os.open(b"new", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=top))
        os.unlink(b"new", dir_fd=top)

    show("CREATE, RELEASE, UNLINK, FORGET", create, host_create)
    guest.call(fuse.OPEN, node, pack("<II", os.O_RDWR, 0))
    number, fd = guest.number(), os.open(root / "host", os.O_RDWR | os.O_CREAT)
    for size in (4096, 1 << 17, 1 << 20):
        body = pack("<QQII16x", number, 0, size, 0)
        data = guest.request[80 : 80 + size]
        show(
            f"WRITE of {size >> 10} KiB",
            lambda _, b=body, n=size: guest.call(fuse.WRITE, node, b, data=n),  # type: ignore[misc]
            lambda _, d=data: os.pwritev(fd, [d], 0),  # type: ignore[misc]
            5,
        )
        body = pack("<QQI20x", number, 0, size)
        show(
            f"READ of {size >> 10} KiB",
            lambda _, b=body, n=size: guest.call(fuse.READ, node, b, n),  # type: ignore[misc]
            lambda _, d=data: os.preadv(fd, [d], 0),  # type: ignore[misc]
            5,
        )
    guest.call(fuse.OPENDIR, 1, bytes(8))
    opened = guest.number()
    show(
        f"READDIRPLUS of {FILES} files",
        lambda _: listing(guest, opened, fuse.READDIRPLUS),
        lambda _: [os.stat(name, dir_fd=top) for name in listed()],
        1,
    )
    show(
        f"READDIR of {FILES} files",
        lambda _: listing(guest, opened, fuse.READDIR),
        lambda _: listed(),
        1,
    )


def main(directory: str = "/dev/shm") -> None:
    with tempfile.TemporaryDirectory(dir=directory) as root:
        run(Path(root))


if __name__ == "__main__":
    main(*sys.argv[1:])
