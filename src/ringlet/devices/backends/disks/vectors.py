"""Reads and writes a file with lists of buffers, to the last byte."""

import errno
import os
from typing import Final

from ringlet.devices.backends.disks.troubles import SHORTENED

_MOST: Final = os.sysconf("SC_IOV_MAX")
_ZEROS: Final = memoryview(bytes(1 << 20))


def rest(buffers: list[memoryview], count: int) -> list[memoryview]:
    """Return what is left of `buffers` behind their first `count` bytes."""
    for index, buffer in enumerate(buffers):
        if count < buffer.nbytes:
            return [buffer[count:], *buffers[index + 1 :]]
        count -= buffer.nbytes
    return []


def part(buffers: list[memoryview], start: int, length: int) -> list[memoryview]:
    """Return `length` bytes of `buffers` from byte `start` on."""
    taken = []
    for buffer in rest(buffers, start) if start else buffers:
        if length <= 0:
            break
        taken.append(buffer if buffer.nbytes <= length else buffer[:length])
        length -= buffer.nbytes
    return taken


def copy(buffers: list[memoryview]) -> bytes:
    """Return the bytes of `buffers` as they are now."""
    return b"".join(buffers)


def read_cached(fd: int, buffers: list[memoryview], offset: int) -> int:
    """Fill `buffers` with what is in the page cache; return the number of bytes from their start.

    Raises OSError; EOPNOTSUPP means that the file system cannot do this.
    """
    try:
        return os.preadv(fd, buffers[:_MOST], offset, os.RWF_NOWAIT)
    except BlockingIOError:
        return 0


def read(fd: int, buffers: list[memoryview], offset: int, end: int) -> None:
    """Fill `buffers`.  The file had `end` bytes; behind them there are zeros.

    Raises OSError, with errno SHORTENED if the file has fewer bytes now.
    """
    while buffers:
        count = os.preadv(fd, buffers[:_MOST], offset)
        if not count:
            if offset < end:
                raise OSError(SHORTENED, "shorter than it was")
            for buffer in buffers:
                buffer[:] = _ZEROS[: buffer.nbytes]
            return
        offset += count
        buffers = rest(buffers, count)


def write(fd: int, buffers: list[memoryview], offset: int, *, durable: bool = False) -> None:
    """Write `buffers`, with `durable` as far as a power cut's reach.  Raises OSError."""
    flags = os.RWF_DSYNC if durable else 0
    while buffers:
        count = os.pwritev(fd, buffers[:_MOST], offset, flags)
        if not count:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        offset += count
        buffers = rest(buffers, count)


def write_zeros(fd: int, offset: int, length: int) -> None:
    """Write `length` bytes of zeros, for file systems that have no call for it."""
    while length:
        count = os.pwrite(fd, _ZEROS[:length], offset)
        offset += count
        length -= count
