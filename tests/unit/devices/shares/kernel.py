"""A small kernel of a guest: it sends FUSE requests to a server, as Linux lays them out."""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from struct import Struct, pack

from ringlet.devices.backends.shares import FileServer
from ringlet.devices.backends.shares import protocol as fuse

REQUESTS = (
    "LOOKUP FORGET GETATTR SETATTR READLINK SYMLINK MKNOD MKDIR UNLINK RMDIR RENAME LINK OPEN READ"
    " WRITE STATFS RELEASE FSYNC SETXATTR GETXATTR LISTXATTR REMOVEXATTR FLUSH INIT OPENDIR READDIR"
    " RELEASEDIR FSYNCDIR GETLK SETLK SETLKW ACCESS CREATE INTERRUPT DESTROY IOCTL BATCH_FORGET"
    " FALLOCATE READDIRPLUS RENAME2 LSEEK COPY_FILE_RANGE SYNCFS"
).split()
EVERY_FLAG = 0xFFFFFFFF
_ATTR = Struct("<" + fuse.ATTR)
PAGE = 4096


class Refused(Exception):  # noqa: N818  # it is a value that tests compare
    """The server's reply said an error."""

    def __init__(self, code: int) -> None:
        super().__init__(errno.errorcode.get(code, code))
        self.code = code


@dataclass(frozen=True)
class Attributes:
    ino: int
    size: int
    mode: int
    links: int
    user: int
    group: int
    mtime: tuple[int, int]
    atime: tuple[int, int]

    @classmethod
    def of(cls, data: bytes) -> "Attributes":
        f = _ATTR.unpack(data)
        return cls(f[0], f[1], f[9], f[10], f[11], f[12], (f[4], f[7]), (f[3], f[6]))


@dataclass(frozen=True)
class Entry:
    node: int
    attributes: Attributes

    @classmethod
    def of(cls, data: bytes) -> "Entry":
        return cls(fuse.FORGET_IN.unpack_from(data)[0], Attributes.of(data[40:128]))


@dataclass(frozen=True)
class Listed:
    name: bytes
    offset: int
    kind: int
    entry: Entry | None = None


def scattered(data: bytes, *sizes: int) -> list[memoryview]:
    """Return parts of a copy of `data`: of the given sizes, and the rest."""
    view, parts = memoryview(bytearray(data)), []
    for size in sizes:
        parts.append(view[:size])
        view = view[size:]
    return [*parts, view] if view else parts


class Kernel:
    """Sends requests for one mount of a share.  Each method raises `Refused` for an error."""

    def __init__(self, server: FileServer, *, minor: int = 38, flags: int = EVERY_FLAG) -> None:
        self.server = server
        self.user = self.group = 0
        self._unique = 0
        reply = self.call(fuse.INIT, 0, pack("<IIII48x", 7, minor, 1 << 17, flags))
        self.flags = fuse.INIT_OUT.unpack(reply)[3]

    def send(self, opcode: int, node: int, body: bytes, room: int = PAGE) -> bytes:
        """Send a request and return the whole reply."""
        self._unique += 1
        header = fuse.IN_HEADER.pack(
            fuse.IN_HEADER.size + len(body), opcode, self._unique, node, self.user, self.group, 1, 0
        )
        reply = bytearray(16 + room)
        size = self.server.handle(
            scattered(header + body, fuse.IN_HEADER.size), scattered_into(reply, 16)
        )
        return bytes(reply[:size])

    def call(self, opcode: int, node: int, body: bytes = b"", room: int = PAGE) -> bytes:
        """Send a request and return the body of its reply."""
        reply = self.send(opcode, node, body, room)
        length, error, unique = fuse.OUT_HEADER.unpack_from(reply)
        assert (length, unique) == (len(reply), self._unique)
        if error:
            assert length == fuse.OUT_HEADER.size
            raise Refused(-error)
        return reply[fuse.OUT_HEADER.size :]

    # Names

    def lookup(self, name: bytes | str, parent: int = fuse.ROOT_ID) -> Entry:
        entry = Entry.of(self.call(fuse.LOOKUP, parent, text(name)))
        if not entry.node:
            raise Refused(errno.ENOENT)
        return entry

    def walk(self, path: str) -> int:
        node = fuse.ROOT_ID
        for name in path.split("/"):
            node = self.lookup(name, node).node
        return node

    def forget(self, node: int, count: int = 1) -> None:
        assert self.send(fuse.FORGET, node, pack("<Q", count)) == b""

    def mkdir(self, name: bytes | str, parent: int = 1, mode: int = 0o755) -> Entry:
        return Entry.of(self.call(fuse.MKDIR, parent, pack("<II", mode, 0) + text(name)))

    def mknod(self, name: bytes | str, mode: int, parent: int = 1, rdev: int = 0) -> Entry:
        body = pack("<IIII", mode, rdev, 0, 0) + text(name)
        return Entry.of(self.call(fuse.MKNOD, parent, body))

    def symlink(self, target: bytes | str, name: bytes | str, parent: int = 1) -> Entry:
        return Entry.of(self.call(fuse.SYMLINK, parent, text(name) + text(target)))

    def readlink(self, node: int) -> bytes:
        return self.call(fuse.READLINK, node)

    def link(self, node: int, name: bytes | str, parent: int = 1) -> Entry:
        return Entry.of(self.call(fuse.LINK, parent, pack("<Q", node) + text(name)))

    def unlink(self, name: bytes | str, parent: int = 1) -> None:
        self.call(fuse.UNLINK, parent, text(name))

    def rmdir(self, name: bytes | str, parent: int = 1) -> None:
        self.call(fuse.RMDIR, parent, text(name))

    def rename(
        self, old: bytes | str, new: bytes | str, parent: int = 1, target: int = 1, flags: int = 0
    ) -> None:
        if flags:
            body = pack("<QII", target, flags, 0)
            self.call(fuse.RENAME2, parent, body + text(old) + text(new))
        else:
            self.call(fuse.RENAME, parent, pack("<Q", target) + text(old) + text(new))

    # Files

    def open(self, node: int, flags: int = os.O_RDONLY) -> int:
        return self.open_with_flags(node, flags)[0]

    def open_with_flags(self, node: int, flags: int = os.O_RDONLY) -> tuple[int, int]:
        number, opened = fuse.OPEN_OUT.unpack(self.call(fuse.OPEN, node, pack("<II", flags, 0)))
        return number, opened

    def create(
        self, name: bytes | str, flags: int = os.O_RDWR, mode: int = 0o644, parent: int = 1
    ) -> tuple[Entry, int]:
        body = pack("<IIII", flags | os.O_CREAT, mode, 0, 0) + text(name)
        reply = self.call(fuse.CREATE, parent, body)
        return Entry.of(reply[:128]), fuse.OPEN_OUT.unpack(reply[128:])[0]

    def read(self, number: int, offset: int, size: int) -> bytes:
        return self.call(fuse.READ, 1, pack("<QQI20x", number, offset, size), room=size)

    def write(self, number: int, offset: int, data: bytes, flags: int = 0) -> int:
        body = pack("<QQII16x", number, offset, len(data), flags) + data
        return int(fuse.WRITE_OUT.unpack(self.call(fuse.WRITE, 1, body))[0])

    def release(self, number: int, opcode: int = fuse.RELEASE) -> None:
        self.call(opcode, 1, pack("<QIIQ", number, 0, 0, 0))

    # Attributes

    def stat(self, node: int) -> Attributes:
        return Attributes.of(self.call(fuse.GETATTR, node, bytes(16))[16:])

    def setattr(self, node: int, valid: int, **values: int) -> Attributes:
        names = "fh size atime mtime atimensec mtimensec mode uid gid".split()
        assert set(values) <= set(names)
        body = fuse.SETATTR_IN.pack(valid, *(values.get(name, 0) for name in names))
        return Attributes.of(self.call(fuse.SETATTR, node, body)[16:])

    def getxattr(self, node: int, name: str, size: int = 256) -> bytes:
        return self.call(fuse.GETXATTR, node, pack("<II", size, 0) + text(name))

    def setxattr(self, node: int, name: str, value: bytes, flags: int = 0) -> None:
        body = pack("<II", len(value), flags) + text(name) + value
        self.call(fuse.SETXATTR, node, body)

    # Directories

    def opendir(self, node: int = 1) -> int:
        return int(fuse.OPEN_OUT.unpack(self.call(fuse.OPENDIR, node, bytes(8)))[0])

    def list(
        self, node: int = 1, *, plus: bool = False, room: int = PAGE, offset: int = 0
    ) -> Iterator[Listed]:
        """Yield what a directory lists, by requests of `room` bytes."""
        number = self.opendir(node)
        opcode = fuse.READDIRPLUS if plus else fuse.READDIR
        while reply := self.call(opcode, node, pack("<QQI20x", number, offset, room), room):
            for listed in _listed(reply, plus=plus):
                offset = listed.offset
                yield listed
        self.release(number, fuse.RELEASEDIR)


def _listed(data: bytes, *, plus: bool) -> Iterator[Listed]:
    start = 0
    while start < len(data):
        entry = Entry.of(data[start : start + 128]) if plus else None
        start += 128 if plus else 0
        _, offset, length, kind = fuse.DIRENT.unpack_from(data, start)
        start += fuse.DIRENT.size
        yield Listed(data[start : start + length], offset, kind, entry)
        start += length + 7 & ~7


def scattered_into(buffer: bytearray, *sizes: int) -> list[memoryview]:
    """Return parts of `buffer` itself: of the given sizes, and the rest."""
    view, parts = memoryview(buffer), []
    for size in sizes:
        parts.append(view[:size])
        view = view[size:]
    return [*parts, view] if view else parts


def text(name: bytes | str) -> bytes:
    return (name.encode() if isinstance(name, str) else name) + b"\0"


def refused(action: Callable[..., object], *arguments: object, **options: object) -> int:
    """Return the error with which the server refuses an action, or 0."""
    try:
        action(*arguments, **options)
    except Refused as error:
        return error.code
    return 0


def entries(directory: Path | str) -> list[str]:
    """Return the names in a directory of the host, in order."""
    return sorted(path.name for path in Path(directory).iterdir())


def descriptors() -> int:
    """Return how many file descriptors this process has."""
    return len(entries("/proc/self/fd"))


def regular(path: Path, data: bytes = b"") -> Path:
    path.write_bytes(data)
    assert stat.S_ISREG(path.stat().st_mode)
    return path
