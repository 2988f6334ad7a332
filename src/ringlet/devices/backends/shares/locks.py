"""Locks that the guest shares with programs of the host.

A record lock belongs to a process of the guest, whichever of its descriptors it uses, and closing
any of them gives it back (fcntl(2)).  On the host each such owner of a file has an open file of
its own, with open file description locks.  A lock of flock(2) belongs to the open file itself.

A request that waits for a lock asks again and again, because a thread that waits in the host's
kernel could not be stopped.  Processes that wait for each other's locks are not found out: they
wait until one of them is interrupted.
"""

import errno
import fcntl
import os
import struct
from collections.abc import Callable
from typing import Final

from ringlet.devices.backends.shares import protocol as fuse
from ringlet.devices.backends.shares.messages import Request, refuse
from ringlet.devices.backends.shares.share import Share

_FLOCK: Final = struct.Struct("hh4xqqi4x")  # struct flock: type, whence, start, len, pid
_F_OFD_GETLK: Final = 36
_F_OFD_SETLK: Final = 37
_END: Final = (1 << 63) - 1  # OFFSET_MAX: to the end of the file
_TYPES: Final = {
    fcntl.F_RDLCK: fcntl.LOCK_SH, fcntl.F_WRLCK: fcntl.LOCK_EX, fcntl.F_UNLCK: fcntl.LOCK_UN,
}  # fmt: skip


def getlk(share: Share, request: Request) -> bytes:
    """Answer GETLK: the lock that keeps the guest's from being given, or none."""
    number, owner, start, end, kind, _, _ = request.fields(fuse.LK_IN)
    if not share.locks:
        raise refuse(errno.ENOSYS)
    handle = share.file(number)
    descriptor = share.record_locks.file(handle.inode, owner, handle.descriptor)
    wanted = _record(start, end, kind)
    found = _FLOCK.unpack(fcntl.fcntl(descriptor.fd, _F_OFD_GETLK, wanted))
    kind, _, start, length, _ = found
    if kind == fcntl.F_UNLCK:
        return fuse.LK_OUT.pack(0, 0, kind, 0)
    return fuse.LK_OUT.pack(start, start + length - 1 if length else _END, kind, 0)


def setlk(share: Share, request: Request) -> bytes:
    """Answer SETLK: take or give back a lock, without waiting."""
    _attempt(share, request)()
    return b""


def setlkw(share: Share, request: Request) -> bytes:
    """Answer SETLKW: take a lock, waiting for it if necessary."""
    era = share.record_locks.era
    share.record_locks.wait(request.unique, era, _attempt(share, request))
    return b""


def interrupt(share: Share, request: Request) -> None:
    """Take INTERRUPT, which has no reply: a request that waits for a lock ends."""
    (unique,) = request.fields(fuse.INTERRUPT_IN)
    share.record_locks.interrupt(unique)


def _attempt(share: Share, request: Request) -> Callable[[], None]:
    """Return a function that does once what the request asks for, or raises BlockingIOError."""
    number, owner, start, end, kind, _, flags = request.fields(fuse.LK_IN)
    if not share.locks:
        raise refuse(errno.ENOSYS)
    if kind not in _TYPES:
        raise refuse(errno.EINVAL)
    handle = share.file(number)
    if flags & fuse.LK_FLOCK:
        descriptor = handle.descriptor
        wanted = b""
    else:
        descriptor = share.record_locks.file(handle.inode, owner, handle.descriptor)
        wanted = _record(start, end, kind)

    def attempt() -> None:
        if wanted:
            fcntl.fcntl(descriptor.fd, _F_OFD_SETLK, wanted)
        else:
            fcntl.flock(descriptor.fd, _TYPES[kind] | fcntl.LOCK_NB)
        if kind != fcntl.F_WRLCK:
            share.record_locks.released()

    return attempt


def _record(start: int, end: int, kind: int) -> bytes:
    if kind not in _TYPES or start > end or end > _END:
        raise refuse(errno.EINVAL)
    length = 0 if end == _END else end - start + 1
    return _FLOCK.pack(kind, os.SEEK_SET, start, length, 0)
