"""Makes empty images."""

import contextlib
import errno
import os
import struct
from pathlib import Path
from typing import Final

from ringlet.config import format_size
from ringlet.devices.backends.disks import qcow2
from ringlet.devices.backends.disks.chain import ImageInfo, describe_image
from ringlet.devices.backends.disks.image_file import explain
from ringlet.devices.backends.disks.interface import SECTOR
from ringlet.disk_spec import Format
from ringlet.errors import DiskError

LARGEST: Final = 1 << 46
"""The largest qcow2 image that Ringlet makes, in bytes."""
_CLUSTER_BITS: Final = 16
_CLUSTER: Final = 1 << _CLUSTER_BITS
_TABLE_REACH: Final = _CLUSTER * (_CLUSTER // 8)
"""The bytes of the disk that one entry of the L1 table stands for."""
_REFCOUNT_ORDER: Final = 4  # counts of 16 bits
_HEADER: Final = 104


def create_image(
    path: Path, size: int | None, layout: Format, backing: Path | None = None
) -> ImageInfo:
    """Make the image `path` for a disk of `size` bytes, and return what it is.

    Only a qcow2 image can stand on another one, `backing`, which must not change from then on;
    without a size the disk has the same.  When this returns, the image is there after a power cut
    too.  Raises DiskError, also if `path` exists.
    """
    below = None if backing is None else describe_image(backing)
    if size is None and below is not None:
        size = below.size
    if size is None or size <= 0 or size % SECTOR:
        raise DiskError(f"disk {path}: the size must be a positive multiple of {SECTOR} bytes")
    if layout is Format.RAW and below is not None:
        raise DiskError(f"disk {path}: a raw image has no backing file; make a qcow2 image")
    if layout is Format.QCOW2 and size > LARGEST:
        raise DiskError(f"disk {path}: too large; give at most {format_size(LARGEST)}")
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            _fill(fd, path, size, layout, below)
        except BaseException:
            with contextlib.suppress(OSError):
                path.unlink()
            raise
        finally:
            os.close(fd)
        _sync_directory(path.absolute().parent)
    except OSError as error:
        if error.errno == errno.EEXIST:
            raise DiskError(f"disk {path}: the file exists; remove it, or choose a name") from error
        if error.errno == errno.ENOENT:
            raise DiskError(f"disk {path}: there is no directory {path.parent}") from error
        raise explain(error, path, read_only=True) from error
    return ImageInfo(path, layout, size, below)


def _fill(fd: int, path: Path, size: int, layout: Format, below: ImageInfo | None) -> None:
    if layout is Format.RAW:
        os.ftruncate(fd, size)
    else:
        os.pwrite(fd, _empty(size, path, below), 0)
    os.fsync(fd)


def _empty(size: int, path: Path, below: ImageInfo | None) -> bytes:
    """Return an empty qcow2 image: header, table and block of reference counts, L1 table."""
    entries = -(-size // _TABLE_REACH)
    clusters = 3 + -(-entries * 8 // _CLUSTER)
    name = b"" if below is None else _name(path, below)
    extensions = b""
    if below is not None:
        layout = below.format.value.encode()
        extensions = struct.pack(">II8s", qcow2.BACKING_FORMAT, len(layout), layout)
    extensions += bytes(8)
    name_at = _HEADER + len(extensions) if name else 0
    head = qcow2.HEAD.pack(
        qcow2.MAGIC, 3, name_at, len(name), _CLUSTER_BITS, size, 0,
        entries, 3 * _CLUSTER, _CLUSTER, 1, 0, 0,
    ) + qcow2.MORE.pack(0, 0, 0, _REFCOUNT_ORDER, _HEADER)  # fmt: skip
    parts = (
        head + extensions + name,
        struct.pack(">Q", 2 * _CLUSTER),
        struct.pack(">H", 1) * clusters,
    )
    return b"".join(part.ljust(_CLUSTER, b"\0") for part in parts) + bytes(
        (clusters - 3) * _CLUSTER
    )


def _name(path: Path, below: ImageInfo) -> bytes:
    """Return how the image names the one below: without a directory if both are in the same."""
    target = below.path.absolute()
    beside = target.parent == path.absolute().parent and qcow2.is_local(target.name)
    name = os.fsencode(target.name if beside else target)
    if len(name) > qcow2.LONGEST_NAME:
        raise DiskError(f"disk {path}: the backing file's name is too long")
    return name


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
