"""System calls of the host that Python's `os` does not have everywhere, by their C functions.

Every function raises OSError as those of `os` do.
"""

import ctypes
import errno
import os
from typing import Final

RENAME_NOREPLACE: Final = 1 << 0
RENAME_EXCHANGE: Final = 1 << 1
FALLOC_FL_KEEP_SIZE: Final = 1 << 0
FALLOC_FL_PUNCH_HOLE: Final = 1 << 1
FALLOC_FL_ZERO_RANGE: Final = 1 << 4
UTIME_NOW: Final = (1 << 30) - 1
UTIME_OMIT: Final = (1 << 30) - 2
DIRECTORY_BYTES: Final = 1 << 15
"""The most bytes of a directory's records that are read at a time."""

_libc = ctypes.CDLL(None, use_errno=True)
_int, _long, _bytes = ctypes.c_int, ctypes.c_long, ctypes.c_char_p
_pointer = ctypes.c_void_p
_Times = ctypes.c_int64 * 4
_Records = ctypes.c_char * DIRECTORY_BYTES
_libc.renameat2.argtypes = (_int, _bytes, _int, _bytes, ctypes.c_uint)
_libc.fallocate.argtypes = (_int, _int, _long, _long)
_libc.utimensat.argtypes = (_int, _bytes, _pointer, _int)
_libc.copy_file_range.argtypes = (_int, _pointer, _int, _pointer, ctypes.c_size_t, ctypes.c_uint)
_libc.copy_file_range.restype = ctypes.c_ssize_t
_libc.syncfs.argtypes = (_int,)
_libc.getdents64.argtypes = (_int, _pointer, ctypes.c_size_t)
_libc.getdents64.restype = ctypes.c_ssize_t


def _check(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def rename(old_dir: int, old: bytes, new_dir: int, new: bytes, flags: int) -> None:
    """Rename a file, with the `RENAME_*` flags of renameat2(2)."""
    _check(_libc.renameat2(old_dir, old, new_dir, new, flags))


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """Allocate or free `length` bytes of a file from `offset` on (fallocate(2))."""
    if offset >> 63 or length >> 63:
        raise OSError(errno.EINVAL, "offset or length is too large")
    _check(_libc.fallocate(fd, mode, offset, length))


def copy_file_range(source: int, start: int, target: int, place: int, size: int) -> int:
    """Copy at most `size` bytes of a file to another one; return how many were copied."""
    if (start | place) >> 63:
        raise OSError(errno.EINVAL, "offset is too large")
    places = ctypes.c_int64(start), ctypes.c_int64(place)
    first, second = map(ctypes.byref, places)
    return _check(_libc.copy_file_range(source, first, target, second, size, 0))


def set_times(path: bytes, times: tuple[int, int, int, int]) -> None:
    """Set seconds and nanoseconds of access and modification, `UTIME_NOW` and `UTIME_OMIT` too."""
    _check(_libc.utimensat(-1, path, _Times(*times), 0))


def sync_filesystem(fd: int) -> None:
    """Write the file system of `fd` to its disk (syncfs(2))."""
    _check(_libc.syncfs(fd))


def read_directory(fd: int, size: int) -> bytes:
    """Return the next `struct linux_dirent64` records of a directory.

    They are at most `size` bytes, and at most `DIRECTORY_BYTES`.
    """
    size = min(size, DIRECTORY_BYTES)
    buffer = _Records()
    return ctypes.string_at(buffer, _check(_libc.getdents64(fd, buffer, size)))
