"""Files in the guest, for a program on the host."""

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ringlet.control.agent import tree
from ringlet.control.agent.channel import WINDOW
from ringlet.control.agent.connection import Connection
from ringlet.control.agent.frames import violation
from ringlet.control.agent.process import Text, to_bytes, to_text
from ringlet.control.agent.transfer import PATIENCE, Transfer
from ringlet.errors import GuestFileError, HostFileError, RingletError
from ringlet.guest.protocol import (
    ENTRY_SIZE,
    Entry,
    Flag,
    Operation,
    Request,
    Tag,
    decode_entry,
    entry_length,
)

MAX_READ: Final = 1 << 28
"""Bytes that `Files.read` returns unless it is told otherwise."""
MAX_LISTING: Final = 1 << 24
"""Bytes of a directory's listing, some 150,000 names."""
MAX_COPY: Final = 1 << 36
"""Bytes that `Files.copy_out` writes unless it is told otherwise."""


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A file in the guest.

    `mode` is as in `os.stat_result`, `modified` in seconds since 1970, and `target` what a symbolic
    link contains.
    """

    name: str
    mode: int
    size: int
    uid: int
    gid: int
    links: int
    modified: float
    inode: int
    device: int
    target: str

    @property
    def permissions(self) -> int:
        """The mode without the type."""
        return stat.S_IMODE(self.mode)

    @property
    def is_dir(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return stat.S_ISREG(self.mode)

    @property
    def is_link(self) -> bool:
        """Whether it is a symbolic link."""
        return stat.S_ISLNK(self.mode)

    def __repr__(self) -> str:
        arrow = f" -> {self.target}" if self.is_link else ""
        return f"<FileInfo {stat.filemode(self.mode)} {self.size} {self.name!r}{arrow}>"


class Files:
    """The guest's files.  Any thread may call the methods.

    Paths are text or bytes; a relative one begins at "/".  Every method raises GuestFileError, an
    OSError with the guest's `errno`, and AgentTimeoutError if the guest makes no progress for
    `timeout` seconds.
    """

    def __init__(self, ready: Callable[[], Connection]) -> None:
        self._ready = ready

    def read(self, path: Text, *, limit: int = MAX_READ, timeout: float | None = PATIENCE) -> bytes:
        """Return a file's content, at most `limit` bytes."""
        with self._begin(Operation.READ, path, timeout, window=WINDOW) as transfer:
            return transfer.collect(limit)

    def read_text(
        self, path: Text, *, limit: int = MAX_READ, timeout: float | None = PATIENCE
    ) -> str:
        """Return a file's content as text; bytes that are not UTF-8 as os.fsdecode has them."""
        return to_text(self.read(path, limit=limit, timeout=timeout))

    def write(
        self,
        path: Text,
        data: str | bytes | bytearray | memoryview,
        *,
        mode: int | None = None,
        owner: tuple[int, int] | None = None,
        timeout: float | None = PATIENCE,
    ) -> None:
        """Make `data` the content of a file, which has its name only when it is whole.

        `mode` and `owner` (uid, gid) are the old file's, or 0644 and the agent's.  Where no file
        can be made beside it, as in /proc and /sys, the file is written in place.
        """
        plain = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
        view = memoryview(plain).cast("B")
        with self._begin(
            Operation.WRITE, path, timeout, mode=mode, owner=owner, size=len(view)
        ) as transfer:
            transfer.send(view)
            transfer.finish()

    def stat(
        self, path: Text, *, follow: bool = True, timeout: float | None = PATIENCE
    ) -> FileInfo:
        """Return what the guest knows of a file; of a link itself without `follow`."""
        flags = Flag.FOLLOW if follow else Flag.NONE
        with self._begin(Operation.STAT, path, timeout, flags, window=WINDOW) as transfer:
            records = _entries(transfer.collect(MAX_LISTING))
        if len(records) != 1:
            raise violation(f"{len(records)} records for one file")
        return _info(records[0])

    def exists(
        self, path: Text, *, follow: bool = True, timeout: float | None = PATIENCE
    ) -> bool:
        """Return whether there is such a file."""
        try:
            self.stat(path, follow=follow, timeout=timeout)
        except GuestFileError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return False
            raise
        return True

    def list(self, path: Text, *, timeout: float | None = PATIENCE) -> list[FileInfo]:
        """Return the files in a directory, by name.  Links are not followed."""
        with self._begin(Operation.LIST, path, timeout, window=WINDOW) as transfer:
            found = _entries(transfer.collect(MAX_LISTING))
        return sorted((_info(entry) for entry in found), key=lambda info: info.name)

    def mkdir(
        self,
        path: Text,
        *,
        mode: int | None = None,
        owner: tuple[int, int] | None = None,
        parents: bool = False,
        timeout: float | None = PATIENCE,
    ) -> None:
        """Make a directory; with `parents` also those above it, and it may exist, as mkdir -p."""
        flags = Flag.RECURSIVE if parents else Flag.NONE
        self._do(Operation.MKDIR, path, timeout, flags, mode=mode, owner=owner)

    def remove(
        self,
        path: Text,
        *,
        recursive: bool = False,
        missing_ok: bool = False,
        timeout: float | None = PATIENCE,
    ) -> None:
        """Remove a file or an empty directory; with `recursive` all that is in it."""
        flags = Flag.RECURSIVE if recursive else Flag.NONE
        try:
            self._do(Operation.REMOVE, path, timeout, flags)
        except GuestFileError as error:
            if not (missing_ok and error.errno == errno.ENOENT):
                raise

    def rename(self, path: Text, new: Text, *, timeout: float | None = PATIENCE) -> None:
        """Give a file another name, which replaces what had it."""
        self._do(Operation.RENAME, path, timeout, target=new)

    def symlink(self, path: Text, target: Text, *, timeout: float | None = PATIENCE) -> None:
        """Make `path` a symbolic link that contains `target`."""
        self._do(Operation.SYMLINK, path, timeout, target=target)

    def copy_in(
        self,
        source: str | os.PathLike[str],
        target: Text,
        *,
        owner: tuple[int, int] | None = None,
        timeout: float | None = PATIENCE,
    ) -> None:
        """Copy a file or directory of the host into the guest, as cp -a does.

        If `target` is a directory, the copy is made in it, else it gets that name; directories
        above it are made.  Modes, times, links and hard links are kept; files belong to `owner`
        (uid, gid), or to the agent's user.  Existing directories are filled, other files replaced.
        Sockets and devices are left out.  Raises HostFileError for the host's files.
        """
        path = Path(source)
        with _of_the_host(path):
            entry = tree.root_entry(path)
            with self._begin(
                Operation.COPY_IN, target, timeout, Flag.RECURSIVE, owner=owner
            ) as transfer:
                for part in tree.packed(path, entry):
                    if not transfer.send(part):
                        break
                transfer.finish()

    def copy_out(
        self,
        source: Text,
        target: str | os.PathLike[str],
        *,
        limit: int = MAX_COPY,
        timeout: float | None = PATIENCE,
    ) -> None:
        """Copy a file or directory of the guest to the host, as cp -a does.

        The rules are those of `copy_in`, but the directory above the copy must be there, or it is
        a ConfigError; files belong to the host's user, and bits such as
        set-user-ID are dropped.  Nothing is written outside of the copy, whatever the guest sends;
        links are copied as they are.  Raises GuestFileError beyond `limit` bytes,
        HostFileError for the host's files.
        """
        name = to_text(to_bytes(source, "a path")).rstrip("/").rpartition("/")[2]
        with (
            _of_the_host(Path(target)),
            self._begin(Operation.COPY_OUT, source, timeout, window=WINDOW) as transfer,
        ):
            tree.unpack(transfer.parts(), Path(target), name, limit)

    # --- implementation

    def _begin(
        self, operation: Operation, path: Text, timeout: float | None, flags: Flag = Flag.NONE, *,
        mode: int | None = None, owner: tuple[int, int] | None = None, target: Text | None = None,
        size: int = 0, window: int = 0,
    ) -> Transfer:  # fmt: skip
        name = to_bytes(path, "a path")
        parts: tuple[tuple[Tag, bytes], ...] = ((Tag.PATH, name),)
        if target is not None:
            parts += ((Tag.TARGET, to_bytes(target, "a path")),)
        flags |= Flag.NONE if mode is None else Flag.MODE
        flags |= Flag.NONE if owner is None else Flag.OWNER
        uid, gid = owner or (0, 0)
        request = Request(
            operation, parts, flags, window=window, mode=mode or 0, uid=uid, gid=gid, size=size
        )
        return Transfer(self._ready(), request, to_text(name), timeout)

    def _do(
        self, operation: Operation, path: Text, timeout: float | None, flags: Flag = Flag.NONE, *,
        mode: int | None = None, owner: tuple[int, int] | None = None, target: Text | None = None,
    ) -> None:  # fmt: skip
        with self._begin(
            operation, path, timeout, flags, mode=mode, owner=owner, target=target
        ) as transfer:
            transfer.finish()


def call(connection: Connection, request: Request, path: str, timeout: float | None) -> None:
    """Carry out an operation without input or output."""
    with Transfer(connection, request, path, timeout) as transfer:
        transfer.finish()


@contextlib.contextmanager
def _of_the_host(root: Path) -> Iterator[None]:
    """Raise HostFileError for an OSError; a name that is relative to a directory follows `root`."""
    try:
        yield
    except RingletError:
        raise
    except OSError as error:
        given = error.filename
        name = os.fsdecode(given) if isinstance(given, str | bytes) else str(root)
        if not name.startswith(("/", str(root))):
            name = f"{root}: {name}"
        reason = error.strerror or str(error)
        raise HostFileError(error.errno or errno.EIO, reason, name) from error


def _entries(data: bytes) -> list[Entry]:
    """Return the records in `data`, which comes from the guest.  Raises AgentError."""
    found = []
    view = memoryview(data)
    try:
        while view:
            if len(view) < ENTRY_SIZE:
                raise ValueError("a file's record is not whole")
            length = entry_length(view)
            found.append(decode_entry(view[:length]))
            view = view[length:]
    except ValueError as error:
        raise violation(str(error)) from None
    return found


def _info(entry: Entry) -> FileInfo:
    return FileInfo(
        to_text(entry.name), entry.mode, entry.size, entry.uid, entry.gid, entry.links,
        entry.modified / 1e9, entry.inode, entry.device, to_text(entry.target),
    )  # fmt: skip
