"""Requests about the data of files."""

import errno
import os
import stat
import time
from typing import Final

from ringlet.devices.backends.shares import host
from ringlet.devices.backends.shares import protocol as fuse
from ringlet.devices.backends.shares.inodes import Descriptor, Handle, Inode
from ringlet.devices.backends.shares.messages import Request, refuse
from ringlet.devices.backends.shares.owners import safe_mode
from ringlet.devices.backends.shares.share import Share

COPY: Final = 1 << 22
"""The most bytes that one request copies within the host: the guest asks again for the rest.  The
end of a run waits for what has begun."""
_SETTLED_NS: Final = 1_000_000_000
"""A file whose last change is older than this cannot change again with the same time."""
_APPEND: Final = getattr(os, "RWF_APPEND", 0)
"""The flag of an atomic append; a Python that was built for an old glibc does not have it."""
_HOST_FLAGS: Final = os.O_ACCMODE | os.O_SYNC | os.O_DSYNC
_OPEN: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_FALLOCATE_MODES: Final = {
    0,
    host.FALLOC_FL_KEEP_SIZE,
    host.FALLOC_FL_KEEP_SIZE | host.FALLOC_FL_PUNCH_HOLE,
    host.FALLOC_FL_ZERO_RANGE,
    host.FALLOC_FL_KEEP_SIZE | host.FALLOC_FL_ZERO_RANGE,
}


def open_file(share: Share, request: Request) -> bytes:
    """Answer OPEN.

    The guest keeps what it has of the file's data if the file has not changed since it was opened
    last (as NFS does), so that another run of a compiler reads no header again.
    """
    flags, _ = request.fields(fuse.OPEN_IN)
    _check_flags(share, flags)
    inode = share.inodes.get(request.nodeid)
    if inode.kind != stat.S_IFREG:
        raise refuse(errno.EISDIR if inode.kind == stat.S_IFDIR else errno.EPERM)
    share.check_room()
    made = Descriptor(share.reopen(share.inodes.open_path(inode), host_flags(share, flags)))
    return _opened(share, made, inode, flags)


def _check_flags(share: Share, flags: int) -> None:
    if share.read_only and (flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC):
        raise refuse(errno.EROFS)


def host_flags(share: Share, flags: int) -> int:
    """Return the flags that the host takes from the guest.

    O_APPEND is done by each write, as a page that the guest writes back has its place.
    """
    if share.exclusive and flags & os.O_ACCMODE == os.O_WRONLY:
        return flags & _HOST_FLAGS & ~os.O_ACCMODE | os.O_RDWR  # the guest's cache reads pages
    return flags & _HOST_FLAGS


def _opened(share: Share, made: Descriptor, inode: Inode, flags: int) -> bytes:
    """Keep the descriptor of a file that is opened, and return struct fuse_open_out."""
    if flags & os.O_TRUNC:
        drop_privileges(share, made.fd)
        reads = flags & os.O_ACCMODE == os.O_RDONLY
        writer = Descriptor(share.reopen(made, os.O_WRONLY)) if reads else made
        os.ftruncate(writer.fd, 0)
    changed = os.fstat(made.fd).st_ctime_ns
    keep = inode.seen == changed or share.exclusive
    inode.seen = changed if time.time_ns() - changed > _SETTLED_NS else 0
    return fuse.OPEN_OUT.pack(share.keep(made, inode, flags), fuse.FOPEN_KEEP_CACHE if keep else 0)


def create(share: Share, request: Request) -> bytes:
    """Answer CREATE: make a file and open it, or open the one that is there."""
    flags, mode, _ = request.fields(fuse.CREATE_IN)
    parent = share.inodes.directory(request.nodeid)
    name = request.name(fuse.CREATE_IN.size)
    mode = safe_mode(mode, stat.S_IFREG)
    share.check_room()
    directory = share.inodes.open_directory(parent)
    wanted = host_flags(share, flags)
    try:
        made = Descriptor(
            os.open(name, wanted | os.O_CREAT | os.O_EXCL | _OPEN, mode, dir_fd=directory.fd)
        )
    except FileExistsError:
        if flags & os.O_EXCL:
            raise
        entry = share.found(parent, name)
        inode = share.inodes.get(fuse.FORGET_IN.unpack_from(entry)[0])
        try:
            if inode.kind != stat.S_IFREG:
                raise refuse(errno.EISDIR if inode.kind == stat.S_IFDIR else errno.EPERM)
            made = Descriptor(share.reopen(share.inodes.open_path(inode), wanted))
            return entry + _opened(share, made, inode, flags)
        except OSError:
            share.inodes.forget([(inode.nodeid, 1)])  # an error tells the guest of no inode
            raise
    share.owners.give(name, directory.fd, request.uid, request.gid)
    status = os.fstat(made.fd)
    if mode & share.umask & ~status.st_mode:
        os.fchmod(made.fd, mode)
        status = os.fstat(made.fd)
    inode = share.inodes.add(parent, name, status, made=True)
    number = share.keep(made, inode, flags)
    return share.entry(inode, status) + fuse.OPEN_OUT.pack(number, 0)


def read(share: Share, request: Request) -> int:
    """Answer READ: the host reads the file straight into the reply."""
    number, offset, size = request.fields(fuse.READ_IN)
    handle = share.file(number)
    room = request.room(size)
    return os.preadv(handle.fd, room, offset) if room else 0


def write(share: Share, request: Request) -> bytes:
    """Answer WRITE: the host writes the file straight from the request."""
    number, offset, size, flags = request.fields(fuse.WRITE_IN)
    handle = share.file(number)
    data = request.data(size)
    if not size:
        return fuse.WRITE_OUT.pack(0)
    drop_privileges(share, handle.fd)  # whether the guest asks for it or not
    if not handle.append or flags & fuse.WRITE_CACHE:
        return fuse.WRITE_OUT.pack(os.pwritev(handle.fd, data, offset))
    if not _APPEND:
        offset = os.fstat(handle.fd).st_size
    return fuse.WRITE_OUT.pack(os.pwritev(handle.fd, data, offset, _APPEND))


def drop_privileges(share: Share, fd: int) -> None:
    """Take set-user-ID and set-group-ID from a program whose data changes.

    The host does so by itself unless this process is privileged.
    """
    if share.owners.privileged:
        mode = os.fstat(fd).st_mode
        drop = stat.S_ISUID | (stat.S_ISGID if mode & stat.S_IXGRP else 0)
        if mode & drop and stat.S_ISREG(mode):
            os.fchmod(fd, stat.S_IMODE(mode) & ~drop)


def release(share: Share, request: Request) -> bytes:
    """Answer RELEASE and RELEASEDIR."""
    number, _, owner = request.fields(fuse.RELEASE_IN)
    handle = share.handles.get(number)
    share.release(number)
    if handle is not None:
        share.record_locks.drop(handle.inode, owner)
    return b""


def flush(share: Share, request: Request) -> bytes:
    """Answer FLUSH, which a close sends: it gives back the record locks of the process."""
    number, owner = request.fields(fuse.FLUSH_IN)
    if not share.locks:
        raise refuse(errno.ENOSYS)  # the guest does not ask again
    share.record_locks.drop(share.file(number).inode, owner)
    return b""


def fsync(share: Share, request: Request) -> bytes:
    """Answer FSYNC and FSYNCDIR."""
    number, flags = request.fields(fuse.FSYNC_IN)
    handle = share.handles.get(number)
    if handle is None:
        raise refuse(errno.EBADF)
    if flags & fuse.FSYNC_FDATASYNC:
        os.fdatasync(handle.fd)
    else:
        os.fsync(handle.fd)
    return b""


def syncfs(share: Share, request: Request) -> bytes:
    """Answer SYNCFS: the host's file system of the share is written to its disk."""
    directory = share.inodes.open_directory(share.inodes.root)
    descriptor = Descriptor(share.reopen(directory, os.O_RDONLY | os.O_DIRECTORY))
    host.sync_filesystem(descriptor.fd)
    return b""


def fallocate(share: Share, request: Request) -> bytes:
    """Answer FALLOCATE: reserve, zero, or punch a hole."""
    number, offset, length, mode = request.fields(fuse.FALLOCATE_IN)
    if mode not in _FALLOCATE_MODES:
        raise refuse(errno.EOPNOTSUPP)
    handle = _writable(share.file(number))
    drop_privileges(share, handle.fd)
    host.fallocate(handle.fd, mode, offset, length)
    return b""


def lseek(share: Share, request: Request) -> bytes:
    """Answer LSEEK, which finds data and holes; other places the guest finds itself."""
    number, offset, whence = request.fields(fuse.LSEEK_IN)
    if share.exclusive:
        raise refuse(errno.ENOSYS)  # the host does not have yet what the guest's cache has
    if whence not in {os.SEEK_DATA, os.SEEK_HOLE}:
        raise refuse(errno.EINVAL)
    return fuse.LSEEK_OUT.pack(os.lseek(share.file(number).fd, offset, whence))


def copy_file_range(share: Share, request: Request) -> bytes:
    """Answer COPY_FILE_RANGE: data is copied by the host."""
    source, start, _, target, place, size, flags = request.fields(fuse.COPY_IN)
    if flags:
        raise refuse(errno.EINVAL)
    reader, writer = share.file(source), _writable(share.file(target))
    drop_privileges(share, writer.fd)
    size = min(size, COPY)
    copied = host.copy_file_range(reader.fd, start, writer.fd, place, size)
    return fuse.WRITE_OUT.pack(copied)


def _writable(handle: Handle) -> Handle:
    if handle.flags & os.O_ACCMODE == os.O_RDONLY:
        raise refuse(errno.EBADF)
    return handle
