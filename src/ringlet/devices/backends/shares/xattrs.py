"""Requests about extended attributes: those of users, and read-only the capabilities of programs.

Other name spaces are the host's affair: security labels, access lists and trusted attributes.
"""

import errno
import os
import stat
from typing import Final

from ringlet.devices.backends.shares import protocol as fuse
from ringlet.devices.backends.shares.inodes import Descriptor, Inode
from ringlet.devices.backends.shares.messages import Request, refuse
from ringlet.devices.backends.shares.share import Share

_USER: Final = b"user."
_CAPABILITY: Final = b"security.capability"
_LONGEST: Final = 1 << 16  # XATTR_SIZE_MAX


def _has_attributes(inode: Inode) -> bool:
    return inode.kind in {stat.S_IFREG, stat.S_IFDIR}


def getxattr(share: Share, request: Request) -> bytes:
    """Answer GETXATTR: a value, or its length if the guest has no room yet."""
    (size,) = request.fields(fuse.GETXATTR_IN)
    name = request.strings(fuse.GETXATTR_IN.size, 1)[0]
    inode = share.inodes.get(request.nodeid)
    if not name.startswith(_USER) and name != _CAPABILITY:
        raise refuse(errno.EOPNOTSUPP)
    if not _has_attributes(inode):
        raise refuse(errno.ENODATA)
    descriptor = share.inodes.open_path(inode)
    return _sized(os.getxattr(share.path(descriptor), name), size)


def listxattr(share: Share, request: Request) -> bytes:
    """Answer LISTXATTR."""
    (size,) = request.fields(fuse.GETXATTR_IN)
    inode = share.inodes.get(request.nodeid)
    if not _has_attributes(inode):
        return _sized(b"", size)
    descriptor = share.inodes.open_path(inode)
    names = map(os.fsencode, os.listxattr(share.path(descriptor)))
    shown = [name + b"\0" for name in names if name.startswith(_USER) or name == _CAPABILITY]
    return _sized(b"".join(shown), size)


def _sized(value: bytes, size: int) -> bytes:
    if not size:
        return fuse.GETXATTR_OUT.pack(len(value))
    if len(value) > size:
        raise refuse(errno.ERANGE)
    return value


def setxattr(share: Share, request: Request) -> bytes:
    """Answer SETXATTR."""
    size, flags = request.fields(fuse.SETXATTR_IN)
    name = request.strings(fuse.SETXATTR_IN.size, 1)[0]
    start = fuse.SETXATTR_IN.size + len(name) + 1
    value = request.body[start : start + size]
    if len(value) != size or size > _LONGEST:
        raise refuse(errno.EINVAL)
    target = _target(share, request.nodeid, name)
    os.setxattr(share.path(target), name, value, flags)
    return b""


def removexattr(share: Share, request: Request) -> bytes:
    """Answer REMOVEXATTR."""
    name = request.strings(0, 1)[0]
    target = _target(share, request.nodeid, name)
    os.removexattr(share.path(target), name)
    return b""


def _target(share: Share, nodeid: int, name: bytes) -> Descriptor:
    """Return a descriptor of a file whose attribute the guest may change."""
    if name == _CAPABILITY:
        raise refuse(errno.EPERM)  # it would make a program of the host privileged
    inode = share.inodes.get(nodeid)
    if not name.startswith(_USER) or not _has_attributes(inode):
        raise refuse(errno.EOPNOTSUPP)
    return share.inodes.open_path(inode)
