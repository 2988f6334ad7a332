"""Opens the file of a disk, with its lock, and says in one line why it cannot be used."""

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ringlet.devices.backends.disks import locks, syscalls
from ringlet.devices.backends.disks.interface import IDENTITY_BYTES, SECTOR, Trouble
from ringlet.errors import DiskError, remedy

_NO_WRITE: Final = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ETXTBSY)


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An open and locked file.

    `end` is its size in bytes and `size` that of the disk: the next multiple of `sector`, as for
    QEMU.  Bytes between them read as zeros; a write there makes the file longer.
    """

    path: Path
    fd: int
    end: int
    size: int
    sector: int
    read_only: bool
    temporary: bool = False
    """The file disappears with the process, so that nothing of it must be durable."""

    @property
    def identity(self) -> str:
        """The serial number: the file's name, shortened (/dev/disk/by-id/virtio-NAME)."""
        return identity_of(self.path)

    def sync(self) -> None:
        """Make durable what was written.  Raises OSError."""
        if not self.temporary:
            os.fdatasync(self.fd)

    def close(self) -> None:
        """Close the file, which unlocks it."""
        os.close(self.fd)


def identity_of(path: Path) -> str:
    """Return the end of the file's name, as far as it fits into a serial number."""
    name = (c if c.isascii() and c.isprintable() else "_" for c in path.name)
    return "".join(name)[-IDENTITY_BYTES:]


def open_image(path: Path, *, read_only: bool, trouble: Trouble) -> ImageFile:
    """Open and lock the raw image `path`.  Raises DiskError."""
    try:
        fd = open_file(path, read_only=read_only)
        try:
            image = _measure(path, fd, read_only=read_only)
            if not image.size:
                raise DiskError(f"disk {path}: the file is empty; {_CREATE} {path}")
            locks.lock(fd, locks.Use.READ if read_only else locks.Use.WRITE, path, trouble)
        except BaseException:
            os.close(fd)
            raise
    except OSError as error:
        raise explain(error, path, read_only=read_only) from error
    return image


_CREATE: Final = "make one with: truncate -s 10G"


def open_file(path: Path, *, read_only: bool, plain: bool = False) -> int:
    """Return a descriptor of a regular file or block device.  Raises OSError or DiskError.

    With `plain` it must be a regular file, and no link to one.  A block device that the host has
    mounted is refused for writing (O_EXCL, EBUSY).
    """
    kind = path.stat(follow_symlinks=not plain).st_mode
    if plain and not stat.S_ISREG(kind):
        raise DiskError(
            f"disk {path}: an image stands on this one, which is no file but a link or a device; "
            "if you trust the image, add ,format=qcow2"
        )
    if stat.S_ISDIR(kind):
        raise DiskError(f"disk {path}: this is a directory; give a file, or share it with -v")
    if not stat.S_ISREG(kind) and not stat.S_ISBLK(kind):
        raise DiskError(f"disk {path}: neither a file nor a block device")
    flags = os.O_RDONLY if read_only else os.O_RDWR
    if stat.S_ISBLK(kind) and not read_only:
        flags |= os.O_EXCL
    if plain:
        flags |= os.O_NOFOLLOW
    # O_NONBLOCK: should the name lead to a FIFO by now, the call must not wait for its writer.
    fd = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    if stat.S_IFMT(os.fstat(fd).st_mode) != stat.S_IFMT(kind):
        os.close(fd)
        raise DiskError(f"disk {path}: it was replaced while Ringlet opened it; try again")
    return fd


def _measure(path: Path, fd: int, *, read_only: bool) -> ImageFile:
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode):
        size = -(-status.st_size // SECTOR) * SECTOR
        return ImageFile(path, fd, status.st_size, size, SECTOR, read_only)
    sector = syscalls.block_device_sector(fd)
    size = syscalls.block_device_size(fd) // sector * sector
    return ImageFile(path, fd, size, size, sector, read_only)


def explain(error: OSError, path: Path, *, read_only: bool) -> DiskError:
    """Return the error to raise for an image that cannot be opened."""
    what = f"disk {path}: {error.strerror or error}"
    if limit := remedy(error):
        return DiskError(f"{what}; {limit}")
    match error.errno:
        case errno.ENOENT:
            return DiskError(f"{what}; {_CREATE} {path}")
        case code if code in _NO_WRITE and not read_only and os.access(path, os.R_OK):
            return DiskError(f"{what}; add ,ro or ,snapshot to use it without writing")
        case errno.EACCES | errno.EPERM:
            return DiskError(f"{what}; you need permission to read it")
        case errno.EBUSY:
            return DiskError(f"{what}: the host has mounted it, or another machine has it")
        case _:
            return DiskError(what)
