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
MAX_LINKED: Final = 1 << 17
"""Files of a copy of which further names may still come: from the guest, more are an error; to the
guest, more are sent again under each name."""

_COPIED: Final = frozenset({stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO})
_OPENED: Final = frozenset({stat.S_IFREG, stat.S_IFDIR})
_REPLACED: Final = frozenset({errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.EINVAL, errno.ENXIO})
"""Errors that say that a name is no longer what it was; EINVAL: no link."""
_LATEST: Final = 1 << 63
_END_OF_FILE: Final = WORD.pack(0)
_LONGEST_NAME: Final = 255
_LONGEST_PATH: Final = 4096


# --- to the guest


def root_entry(path: Path) -> Entry:
    """Return the record of what is to be copied.  Raises OSError, ConfigError for a device."""
    name = os.fsencode(path.name) or os.fsencode(path.resolve().name) or b"root"
    found = path.lstat()
    if stat.S_IFMT(found.st_mode) not in _COPIED:
        raise ConfigError(f"{path}: only files, directories and links can be copied into a guest")
    # A link as it is: a Path would be another text.
    target = os.readlink(os.fsencode(path)) if stat.S_ISLNK(found.st_mode) else b""  # noqa: PTH115
    return _entry_of(found, name, target)


def _entry_of(found: os.stat_result, name: bytes, target: bytes = b"") -> Entry:
    return Entry(
        name, found.st_mode, found.st_uid, found.st_gid, found.st_nlink, found.st_size,
        found.st_mtime_ns, found.st_ino, found.st_dev, 0, target,
    )  # fmt: skip


def packed(root: Path, entry: Entry) -> Iterator[bytearray | memoryview]:
    """Yield the tree at `root`, whose record is `entry`.  A part is valid until the next one."""
    gathered = bytearray()
    for part in _Packer(root).parts(entry):
        if len(gathered) + len(part) > CHUNK:
            yield gathered
            gathered = bytearray()
        if len(part) > CHUNK // 2:
            yield memoryview(part)
        else:
            gathered += part
    yield gathered


class _Place:
    """A file in a tree, by its name and the directory that it is in; None: the root."""

    __slots__ = ("depth", "name", "outer")

    def __init__(self, name: str, outer: "_Place | None") -> None:
        self.name = name
        self.outer = outer
        self.depth: int = 1 if outer is None else outer.depth + 1

    def path(self) -> str:
        """Return the path below the root."""
        names = []
        place: _Place | None = self
        while place is not None:
            names.append(place.name)
            place = place.outer
        return "/".join(reversed(names))

    def opened(self, root: int, flags: int) -> int:
        """Open the file below `root`, whatever a guest puts there, without following links."""
        outer = self.outer
        if outer is None:
            return os.open(self.name, flags, dir_fd=root)
        directory = outer.opened(root, _flags(stat.S_IFDIR))
        try:
            return os.open(self.name, flags, dir_fd=directory)
        finally:
            os.close(directory)


class _Packer:
    """Reads a tree that a guest may change meanwhile, if the directory is shared with it.

    So a path is followed once, the user's own.  Everything else is opened in a directory that is
    open, without following links, and is described by what was opened.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._place: _Place | None = None
        self._linked: dict[tuple[int, int], _Place] = {}

    def parts(self, entry: Entry) -> Iterator[bytes | memoryview]:
        """Yield the parts of the tree whose root was `entry`."""
        if stat.S_IFMT(entry.mode) in _OPENED:
            yield from self._opened(os.open(self._root, _flags(entry.mode)), entry.name)
        else:
            yield entry.encode()

    def _where(self) -> Path:
        return self._root / (self._place.path() if self._place is not None else "")

    def _inside(self, directory: int, name: bytes) -> Iterator[bytes | memoryview]:
        """Yield what `name` in `directory` is, or nothing if it is replaced meanwhile."""
        try:
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
            kind = stat.S_IFMT(found.st_mode)
            if kind not in _OPENED:
                target = os.readlink(name, dir_fd=directory) if kind == stat.S_IFLNK else b""
                if kind in _COPIED:
                    yield _entry_of(found, name, target).encode()
                return
            opened = os.open(name, _flags(found.st_mode), dir_fd=directory)
        except OSError as error:
            if error.errno in _REPLACED:
                return
            raise OSError(error.errno, error.strerror, str(self._where())) from None
        yield from self._opened(opened, name)

    def _opened(self, opened: int, name: bytes) -> Iterator[bytes | memoryview]:
        """Yield the file or the directory that was opened, and close it."""
        try:
            found = os.fstat(opened)
            entry = _entry_of(found, name)
            if stat.S_ISREG(found.st_mode):
                yield from self._file(opened, entry)
            elif stat.S_ISDIR(found.st_mode):
                yield from self._directory(opened, entry)
        finally:
            os.close(opened)

    def _directory(self, opened: int, entry: Entry) -> Iterator[bytes | memoryview]:
        if self._place is not None and self._place.depth >= MAX_DEPTH:
            raise ConfigError(f"{self._where()}: more than {MAX_DEPTH} directories in one another")
        yield entry.encode()
        with os.scandir(opened) as listing:
            names = sorted(os.fsencode(found.name) for found in listing)
        outer = self._place
        for name in names:
            self._place = _Place(os.fsdecode(name), outer)
            yield from self._inside(opened, name)
        self._place = outer
        yield END_OF_DIRECTORY

    def _file(self, opened: int, entry: Entry) -> Iterator[bytes | memoryview]:
        key = (entry.device, entry.inode)
        if entry.links > 1 and key in self._linked:
            target = os.fsencode(self._linked[key].path())
            yield Entry(entry.name, entry.mode, target=target).encode()
            return
        yield entry.encode()
        buffer = memoryview(bytearray(CHUNK if entry.size > CHUNK // 4 else CHUNK // 2))
        while count := os.readv(opened, [buffer[WORD.size :]]):
            WORD.pack_into(buffer, 0, count)
            yield buffer[: WORD.size + count]
        yield _END_OF_FILE
        # What is not remembered is sent again under its other names.
        if entry.links > 1 and self._place is not None and len(self._linked) < MAX_LINKED:
            self._linked[key] = self._place


def _flags(mode: int) -> int:
    """Return the flags that open a file or a directory, and nothing in its place."""
    kind = os.O_DIRECTORY if stat.S_ISDIR(mode) else os.O_NONBLOCK
    return os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | kind


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


class _First:
    """The first name of a file, of which `left` other names are to come."""

    __slots__ = ("identity", "left", "place")

    def __init__(self, place: _Place, identity: tuple[int, int], left: int) -> None:
        self.place = place
        self.identity = identity
        self.left = left

    def link(self, root: int, directory: int, name: str) -> None:
        """Give the file the name `name` in `directory`.  Raises OSError, also if it is replaced.

        Whatever is linked to is the file that was made: a guest may change the tree meanwhile.
        """
        file = self.place.opened(root, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            found = os.fstat(file)
            if (found.st_dev, found.st_ino) != self.identity:
                raise OSError(errno.ESTALE, "replaced meanwhile", self.place.name)
            os.link(f"/proc/self/fd/{file}", name, dst_dir_fd=directory)
        finally:
            os.close(file)


class _Unpacker:
    """Writes a tree, inside of directories that it has opened itself without following links."""

    def __init__(self, stream: _Stream, limit: int, source: str) -> None:
        self._stream = stream
        self._limit = limit
        self._left = limit
        self._files = 0
        self._source = source
        self._open: list[tuple[int, int, str, Entry]] = []
        self._place: _Place | None = None
        self._linked: dict[tuple[int, int], _First] = {}

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
        if self._open:
            self._place = _Place(name, self._place)
        self._open.append((opened, directory, name, entry))

    def _leave(self) -> None:
        opened, directory, name, entry = self._open.pop()
        if self._place is not None:
            self._place = self._place.outer
        try:
            os.fchmod(opened, entry.mode & 0o777)
        finally:
            os.close(opened)
        _set_time(name, entry, directory)

    def _file(self, entry: Entry, directory: int, name: str) -> None:
        key = (entry.device, entry.inode)
        _make_way(directory, name)
        if entry.links > 1 and (first := self._linked.get(key)) is not None:
            first.link(self._open[0][0], directory, name)
            first.left -= 1
            if not first.left:
                del self._linked[key]
            self._content(None)
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(name, flags, 0o600, dir_fd=directory)
        try:
            self._content(file)
            os.fchmod(file, entry.mode & 0o777)
            made = os.fstat(file)
        finally:
            os.close(file)
        if entry.links > 1 and self._open:
            if len(self._linked) == MAX_LINKED:
                reason = f"more than {MAX_LINKED} files with several names"
                raise GuestFileError(errno.EMLINK, reason, self._source)
            place = _Place(name, self._place)
            self._linked[key] = _First(place, (made.st_dev, made.st_ino), entry.links - 1)

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

    A link in the place of `target` may come from an earlier copy, so it is not followed.
    Raises OSError, ConfigError, GuestFileError beyond `limit` bytes, and AgentError.
    """
    stream = _Stream(parts)
    if target.is_symlink():
        raise ConfigError(f"{target} is a link; name what it leads to, {target.resolve()}")
    inside = target.is_dir()
    if inside and name in ("", ".", ".."):
        raise ConfigError(f"{target} is a directory; name the copy that is to be made in it")
    parent = target if inside else target.parent
    if not parent.is_dir():
        raise ConfigError(f"{parent} is no directory of this host; make it first")
    directory = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _Unpacker(stream, limit, name).unpack(directory, name if inside else target.name)
    finally:
        os.close(directory)
    stream.require_end()
