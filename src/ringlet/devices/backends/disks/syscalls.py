"""The system calls for disks that Python's `os` does not have."""

import array
import ctypes
import fcntl
import os
from typing import Final

_KEEP_SIZE: Final = 0x01  # linux/falloc.h
_PUNCH_HOLE: Final = 0x02
_ZERO_RANGE: Final = 0x10
_BLKSSZGET: Final = 0x1268  # linux/fs.h
_BLKGETSIZE64: Final = 0x80081272

_libc = ctypes.CDLL(None, use_errno=True)
_fallocate = _libc.fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def punch_hole(fd: int, offset: int, length: int) -> None:
    """Give the room of `length` bytes back; they read as zeros.  Raises OSError."""
    _call(fd, _PUNCH_HOLE | _KEEP_SIZE, offset, length)


def zero_range(fd: int, offset: int, length: int) -> None:
    """Make `length` bytes read as zeros and keep room for them.  Raises OSError."""
    _call(fd, _ZERO_RANGE | _KEEP_SIZE, offset, length)


def _call(fd: int, mode: int, offset: int, length: int) -> None:
    if _fallocate(fd, mode, offset, length):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def block_device_size(fd: int) -> int:
    """Return the size of a block device in bytes.  Raises OSError."""
    return _ask(fd, _BLKGETSIZE64, "Q")


def block_device_sector(fd: int) -> int:
    """Return the logical block size of a block device in bytes.  Raises OSError."""
    return _ask(fd, _BLKSSZGET, "I")


def _ask(fd: int, number: int, kind: str) -> int:
    value = array.array(kind, [0])
    fcntl.ioctl(fd, number, value)
    return value[0]
