"""Requests about attributes of files and of the file system."""

import errno
import os
import stat
from typing import Final

from ringlet.devices.backends.shares import host
from ringlet.devices.backends.shares import protocol as fuse
from ringlet.devices.backends.shares.files import drop_privileges
from ringlet.devices.backends.shares.inodes import Descriptor
from ringlet.devices.backends.shares.messages import Request, refuse
from ringlet.devices.backends.shares.owners import UNCHANGED, safe_mode
from ringlet.devices.backends.shares.share import Share

_OMIT: Final = (0, host.UTIME_OMIT)
_NOW: Final = (0, host.UTIME_NOW)
_BILLION: Final = 1_000_000_000


def getattr_(share: Share, request: Request) -> bytes:
    """Answer GETATTR."""
    return share.attribute_reply(share.inodes.status(share.inodes.get(request.nodeid)))


def setattr_(share: Share, request: Request) -> bytes:
    """Answer SETATTR: size, mode, owner and times, in the order in which Linux would set them."""
    fields = request.fields(fuse.SETATTR_IN)
    valid, number, size, atime, mtime, atimensec, mtimensec, mode, user, group = fields
    inode = share.inodes.get(request.nodeid)
    target = share.inodes.open_path(inode)
    writable = False
    if valid & fuse.FATTR_FH and (handle := share.handles.get(number)) is not None:
        if handle.inode is not inode:
            raise refuse(errno.EBADF)
        target = handle.descriptor
        writable = handle.flags & os.O_ACCMODE != os.O_RDONLY
    path = share.path(target)
    if valid & (fuse.FATTR_UID | fuse.FATTR_GID):
        share.owners.change(
            path,
            user if valid & fuse.FATTR_UID else UNCHANGED,
            group if valid & fuse.FATTR_GID else UNCHANGED,
        )
    if valid & fuse.FATTR_SIZE:
        if inode.kind != stat.S_IFREG:
            raise refuse(errno.EISDIR if inode.kind == stat.S_IFDIR else errno.EINVAL)
        opened = target if writable else Descriptor(share.reopen(target, os.O_WRONLY))
        drop_privileges(share, opened.fd)
        os.ftruncate(opened.fd, size)
    if valid & fuse.FATTR_MODE:
        if inode.kind == stat.S_IFLNK:
            raise refuse(errno.EOPNOTSUPP)
        share.set_mode(target, safe_mode(mode, inode.kind))
    if valid & (fuse.FATTR_ATIME | fuse.FATTR_MTIME):
        access = _time(valid, fuse.FATTR_ATIME, fuse.FATTR_ATIME_NOW, atime, atimensec)
        change = _time(valid, fuse.FATTR_MTIME, fuse.FATTR_MTIME_NOW, mtime, mtimensec)
        host.set_times(path, access + change)
    status = os.fstat(target.fd)
    if inode.kind == stat.S_IFLNK:
        inode.seen = status.st_mtime_ns
    return share.attribute_reply(status)


def _time(valid: int, given: int, now: int, seconds: int, nanoseconds: int) -> tuple[int, int]:
    if not valid & given:
        return _OMIT
    if valid & now:
        return _NOW
    if nanoseconds >= _BILLION:
        raise refuse(errno.EINVAL)
    return seconds, nanoseconds


def statfs(share: Share, request: Request) -> bytes:
    """Answer STATFS with the numbers of the host's file system."""
    inode = share.inodes.get(request.nodeid)
    descriptor = share.inodes.open_path(inode)
    status = os.statvfs(descriptor.fd)
    return fuse.STATFS_OUT.pack(
        status.f_blocks, status.f_bfree, status.f_bavail, status.f_files, status.f_ffree,
        status.f_bsize, status.f_namemax, status.f_frsize,
    )  # fmt: skip


def access(share: Share, request: Request) -> bytes:
    """Answer ACCESS, for a guest that does not check permissions itself."""
    (mask,) = request.fields(fuse.ACCESS_IN)
    if mask > os.R_OK | os.W_OK | os.X_OK:
        raise refuse(errno.EINVAL)
    if share.read_only and mask & os.W_OK:
        raise refuse(errno.EROFS)
    inode = share.inodes.get(request.nodeid)
    descriptor = share.inodes.open_path(inode)
    if inode.kind in {stat.S_IFREG, stat.S_IFDIR} and not os.access(share.path(descriptor), mask):
        raise refuse(errno.EACCES)
    return b""
