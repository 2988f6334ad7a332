"""Trees of files as one stream, to the guest and from it.

A record for each file, its content in chunks (a word with the length, and that many bytes; an empty
chunk ends it), a directory's files and then a record of zeros.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ringlet.control.agent.channel import CHUNK
from ringlet.control.agent.frames import violation
from ringlet.errors import ConfigError, GuestFileError
from ringlet.guest.protocol import (
    END_OF_DIRECTORY,
    ENTRY_SIZE,
    WORD,
    Entry,
    decode_entry,
    entry_length,
)

MAX_FILES: Final = 1 << 20
"""Files that one copy from the guest may have."""
MAX_DEPTH: Final = 200
"""Directories in one another; each is an open file while it is copied."""

_COPIED: Final = frozenset({stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO})
_LATEST: Final = 1 << 63
_END_OF_FILE: Final = WORD.pack(0)
_LONGEST_NAME: Final = 255
_LONGEST_PATH: Final = 4096


# --- to the guest


def root_entry(path: Path) -> Entry:
    """Return the record of what is to be copied.  Raises OSError, ConfigError for a device."""
    name = os.fsencode(path.name) or os.fsencode(path.resolve().name) or b"root"
    entry = _entry_of(path, name)
    if stat.S_IFMT(entry.mode) not in _COPIED:
        raise ConfigError(f"{path}: only files, directories and links can be copied into a guest")
    return entry


def _entry_of(path: Path, name: bytes) -> Entry:
    found = path.lstat()
    target = b""
    if stat.S_ISLNK(found.st_mode):
        # As it is: a Path would be another text.
        target = os.readlink(os.fsencode(path))  # noqa: PTH115
    return Entry(
        name, found.st_mode, found.st_uid, found.st_gid, found.st_nlink, found.st_size,
        found.st_mtime_ns, found.st_ino, found.st_dev, 0, target,
    )  # fmt: skip


def packed(root: Path, entry: Entry) -> Iterator[bytearray | memoryview]:
    """Yield the tree at `root`, whose record is `entry`.  A part is valid until the next one."""
    gathered = bytearray()
    linked: dict[tuple[int, int], bytes] = {}
    for part in _walk(root, entry, b"", linked, 0):
        if len(gathered) + len(part) > CHUNK:
            yield gathered
            gathered = bytearray()
        if len(part) > CHUNK // 2:
            yield memoryview(part)
        else:
            gathered += part
    yield gathered


def _walk(
    path: Path, entry: Entry, below: bytes, linked: dict[tuple[int, int], bytes], depth: int
) -> Iterator[bytes | memoryview]:
    if stat.S_ISREG(entry.mode):
        yield from _file(path, entry, below, linked)
        return
    if not stat.S_ISDIR(entry.mode):
        yield entry.encode()
        return
    if depth >= MAX_DEPTH:
        raise ConfigError(f"{path}: more than {MAX_DEPTH} directories in one another")
    yield entry.encode()
    with os.scandir(os.fsencode(path)) as listing:
        names = sorted(found.name for found in listing)
    for name in names:
        inner = path / os.fsdecode(name)
        try:
            found_entry = _entry_of(inner, name)
        except FileNotFoundError:
            continue  # removed meanwhile
        if stat.S_IFMT(found_entry.mode) in _COPIED:
            where = below + b"/" + name if below else name
            yield from _walk(inner, found_entry, where, linked, depth + 1)
    yield END_OF_DIRECTORY


def _file(
    path: Path, entry: Entry, below: bytes, linked: dict[tuple[int, int], bytes]
) -> Iterator[bytes | memoryview]:
    key = (entry.device, entry.inode)
    if entry.links > 1 and key in linked:
        yield Entry(entry.name, entry.mode, target=linked[key]).encode()
        return
    with path.open("rb", buffering=0) as file:
        yield entry.encode()
        buffer = memoryview(bytearray(CHUNK if entry.size > CHUNK // 4 else CHUNK // 2))
        while count := file.readinto(buffer[WORD.size :]):
            WORD.pack_into(buffer, 0, count)
            yield buffer[: WORD.size + count]
    yield _END_OF_FILE
    if entry.links > 1 and below:
        linked[key] = below


# --- from the guest


class _Stream:
    """The bytes of a tree from the guest."""

    def __init__(self, parts: Iterator[bytearray]) -> None:
        self._parts = parts
        self._part = memoryview(b"")

    def some(self, most: int) -> memoryview:
        """Return at least a byte and at most `most`.  Raises AgentError at the end."""
        while not self._part:
            part = next(self._parts, None)
            if part is None:
                raise violation("a tree that is not whole")
            self._part = memoryview(part)
        taken, self._part = self._part[:most], self._part[most:]
        return taken

    def exactly(self, size: int) -> bytes:
        taken = bytearray()
        while len(taken) < size:
            taken += self.some(size - len(taken))
        return bytes(taken)

    def word(self) -> int:
        (word,) = WORD.unpack(self.exactly(WORD.size))
        return int(word)

    def entry(self) -> Entry:
        head = self.exactly(ENTRY_SIZE)
        length = entry_length(head)
        try:
            return decode_entry(head + self.exactly(length - ENTRY_SIZE))
        except ValueError as error:
            raise violation(str(error)) from None

    def require_end(self) -> None:
        if self._part or next(self._parts, None) is not None:
            raise violation("more than a tree")


class _Unpacker:
    """Writes a tree, inside of directories that it has opened itself without following links."""

    def __init__(self, stream: _Stream, limit: int, source: str) -> None:
        self._stream = stream
        self._limit = limit
        self._left = limit
        self._files = 0
        self._source = source
        self._open: list[tuple[int, int, str, Entry]] = []
        self._path: list[str] = []
        self._linked: dict[tuple[int, int], str] = {}

    def unpack(self, parent: int, name: str) -> None:
        """Write the tree as `name` in the directory `parent`."""
        try:
            root = self._stream.entry()
            if not root.mode:
                raise violation("a tree without a root")
            self._take(root, parent, name)
            while self._open:
                entry = self._stream.entry()
                if entry.mode:
                    self._take(entry, self._open[-1][0], _checked_name(entry.name))
                else:
                    self._leave()
        finally:
            for descriptor, *_ in self._open:
                os.close(descriptor)

    def _take(self, entry: Entry, directory: int, name: str) -> None:
        kind = stat.S_IFMT(entry.mode)
        self._files += 1
        if self._files > MAX_FILES:
            raise GuestFileError(errno.EFBIG, f"more than {MAX_FILES} files", self._source)
        if kind == stat.S_IFDIR:
            self._enter(entry, directory, name)
            return
        if kind == stat.S_IFREG:
            self._file(entry, directory, name)
        elif kind == stat.S_IFLNK:
            if not 0 < len(entry.target) < _LONGEST_PATH:
                raise violation("a link to nothing")
            _make_way(directory, name)
            os.symlink(os.fsdecode(entry.target), name, dir_fd=directory)
        elif kind == stat.S_IFIFO:
            _make_way(directory, name)
            os.mkfifo(name, entry.mode & 0o777, dir_fd=directory)
        else:
            return  # devices and sockets are left out
        _set_time(name, entry, directory)

    def _enter(self, entry: Entry, directory: int, name: str) -> None:
        if len(self._open) >= MAX_DEPTH:
            reason = f"more than {MAX_DEPTH} directories in one another"
            raise GuestFileError(errno.ENAMETOOLONG, reason, self._source)
        # What exists is filled, if it is a directory and no link to one.
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=directory)
        opened = os.open(
            name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory
        )
        self._open.append((opened, directory, name, entry))
        self._path.append(name)

    def _leave(self) -> None:
        opened, directory, name, entry = self._open.pop()
        self._path.pop()
        try:
            os.fchmod(opened, entry.mode & 0o777)
        finally:
            os.close(opened)
        _set_time(name, entry, directory)

    def _file(self, entry: Entry, directory: int, name: str) -> None:
        key = (entry.device, entry.inode)
        _make_way(directory, name)
        if entry.links > 1 and key in self._linked:
            os.link(
                self._linked[key], name, src_dir_fd=self._open[0][0], dst_dir_fd=directory,
                follow_symlinks=False,
            )  # fmt: skip
            self._content(None)
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(name, flags, 0o600, dir_fd=directory)
        try:
            self._content(file)
            os.fchmod(file, entry.mode & 0o777)
        finally:
            os.close(file)
        if entry.links > 1 and self._open:
            self._linked[key] = "/".join([*self._path[1:], name])

    def _content(self, file: int | None) -> None:
        while length := self._stream.word():
            self._left -= length
            if self._left < 0:
                raise GuestFileError(
                    errno.EFBIG, f"more than {self._limit} bytes; give a larger limit", self._source
                )
            while length:
                part = self._stream.some(length)
                length -= len(part)
                while file is not None and part:
                    part = part[os.write(file, part) :]


def _checked_name(name: bytes) -> str:
    """Return a file's name from the guest, which is one component.  Raises AgentError."""
    if not name or name in (b".", b"..") or b"/" in name or len(name) > _LONGEST_NAME:
        raise violation(f"a file with the name {name[:_LONGEST_NAME]!r}")
    return os.fsdecode(name)


def _make_way(directory: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        return


def _set_time(name: str, entry: Entry, directory: int) -> None:
    when = max(0, min(entry.modified, _LATEST - 1))
    os.utime(name, ns=(when, when), dir_fd=directory, follow_symlinks=False)


def unpack(parts: Iterator[bytearray], target: Path, name: str, limit: int) -> None:
    """Write the tree that the guest sends, as `target`, or as `name` in the directory `target`.

    Raises OSError, GuestFileError beyond `limit` bytes, and AgentError.
    """
    stream = _Stream(parts)
    inside = target.is_dir()
    if inside and name in ("", ".", ".."):
        raise ConfigError(f"{target} is a directory; name the copy that is to be made in it")
    parent = target if inside else target.parent
    parent.mkdir(parents=True, exist_ok=True)
    directory = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _Unpacker(stream, limit, name).unpack(directory, name if inside else target.name)
    finally:
        os.close(directory)
    stream.require_end()
