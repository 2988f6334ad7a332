"""Locks of image files, which exclude other machines of Ringlet and of QEMU.

A lock belongs to the open file (F_OFD_SETLK), so it ends when the file is closed, also by SIGKILL.
QEMU's convention (block/file-posix.c, `raw_check_lock_bytes`): whoever does a thing with an image
has a shared lock on byte 100 + thing, and whoever does not bear that others do it, one on byte
200 + thing.  First both are taken, then each looks whether an opposite byte is locked by others.
"""

import contextlib
import enum
import errno
import fcntl
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ringlet.devices.backends.disks.interface import Trouble
from ringlet.errors import DiskError

_DOING: Final = 100
_DENYING: Final = 200
_CONSISTENT_READ: Final = 0  # the bits of BLK_PERM_* in QEMU's block-common.h
_WRITE: Final = 1
_RESIZE: Final = 3
_FLOCK: Final = struct.Struct("hhqqi4x")  # struct flock of x86-64
_UNABLE: Final = (errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)
_ENGINE: Final = "qemu-storage-da"
"""The engine's name as the kernel cuts it."""
_ATTEMPTS: Final = 4
_BETWEEN: Final = 0.1
"""Seconds."""


class Use(enum.Enum):
    """What a machine does with an image, as bits of QEMU's permissions."""

    READ = (_CONSISTENT_READ,)
    WRITE = (_CONSISTENT_READ, _WRITE)


_DENIED: Final = (_WRITE, _RESIZE)
"""No user of an image, reader or writer, bears that another one writes it."""


def lock(fd: int, use: Use, path: Path, trouble: Trouble) -> None:
    """Lock the image `fd` until it is closed.  Raises DiskError if another machine excludes that.

    A file system without locks is told to the user, and the image used without.
    """
    try:
        for _ in attempts():
            taken = [_DOING + bit for bit in use.value] + [_DENYING + bit for bit in _DENIED]
            opposite = [_DENYING + bit for bit in use.value] + [_DOING + bit for bit in _DENIED]
            for byte in taken:
                _set(fd, fcntl.F_RDLCK, byte)
            if not any(_is_locked(fd, byte) for byte in opposite):
                return
            for byte in taken:
                _set(fd, fcntl.F_UNLCK, byte)
    except OSError as error:
        if error.errno not in _UNABLE:
            raise
        trouble(
            f"disk {path}: its file system has no locks; "
            "make sure that no other machine uses this image"
        )
        return
    raise in_use(path, fd)


def attempts() -> Iterator[int]:
    """Count attempts to lock, with time between them for a machine that was just killed."""
    yield 0
    for attempt in range(1, _ATTEMPTS):
        time.sleep(_BETWEEN)
        yield attempt


class ImageInUseError(DiskError):
    """A process `holder` has locked the image; 0 if this user cannot see which.

    `program` is its name, `machine` that of the machine that it runs, and `writes` says whether it
    writes the image.
    """

    def __init__(
        self, path: Path, holder: int, program: str, *, writes: bool, machine: str = ""
    ) -> None:
        self.path = path
        self.holder = holder
        self.program = program
        self.writes = writes
        whom, end = "another machine", "stop that machine"
        if holder:
            whom, end = f"{program} (process {holder})", "end that process"
        if holder == os.getpid():
            whom, end = f"another disk of this process (process {holder})", "give it once"
        elif machine:
            whom, end = f"the machine {machine} (process {holder})", f"ringlet stop {machine}"
        advice = "use a copy of the image" if writes else "add ,snapshot to write nothing to it"
        what = "writes" if writes else "reads"
        super().__init__(f"disk {path}: {whom} {what} this image; {end}, or {advice}")

    def named(self, machine: str) -> "ImageInUseError":
        """Return the error with the name of the machine that the process runs."""
        return ImageInUseError(
            self.path, self.holder, self.program, writes=self.writes, machine=machine
        )


def in_use(path: Path, fd: int) -> ImageInUseError:
    """Return the error of an image that others have locked.  The locks of `fd` do not count."""
    writes = _is_locked(fd, _DOING + _WRITE)
    found = _holder(os.fstat(fd), fd)
    if found is None:
        return ImageInUseError(path, 0, "", writes=writes)
    return ImageInUseError(path, *found, writes=writes)


def _set(fd: int, kind: int, byte: int) -> None:
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0))


def _is_locked(fd: int, byte: int) -> bool:
    """Return whether an exclusive lock of `byte` would meet that of another open file."""
    asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
    kind, *_ = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked))
    return bool(kind != fcntl.F_UNLCK)


def _holder(image: os.stat_result, ours: int) -> tuple[int, str] | None:
    """Return the process that has a lock on `image`, and its program's name, if visible.

    The kernel tells the locks of an open file only in its fdinfo, to the same user.
    """
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            for entry in (process / "fd").iterdir():
                if _has_lock(process, entry.name, image, ours):
                    return _describe(process)
    return None


def _describe(process: Path) -> tuple[int, str]:
    """Return a process and its name; for an engine, the machine that started it by a shell."""
    name = (process / "comm").read_text(encoding="utf-8", errors="replace").strip()
    if name == _ENGINE:
        machine = _parent(_parent(process))
        if machine.name not in ("0", "1"):
            return _describe(machine)
    return int(process.name), name if name.isprintable() else ascii(name)


def _parent(process: Path) -> Path:
    status = (process / "stat").read_text(encoding="utf-8", errors="replace")
    return process.parent / status.rpartition(")")[2].split()[1]  # proc_pid_stat(5)


def _has_lock(process: Path, name: str, wanted: os.stat_result, ours: int) -> bool:
    if int(process.name) == os.getpid() and int(name) == ours:
        return False
    with contextlib.suppress(OSError):
        status = (process / "fd" / name).stat()
        if (status.st_dev, status.st_ino) == (wanted.st_dev, wanted.st_ino):
            return "OFDLCK" in (process / "fdinfo" / name).read_text(encoding="utf-8")
    return False
