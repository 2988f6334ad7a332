"""Requests about names: what leads to a file is made, changed and removed."""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator

from ringlet.devices.backends.shares import host
from ringlet.devices.backends.shares import protocol as fuse
from ringlet.devices.backends.shares.inodes import Inode
from ringlet.devices.backends.shares.messages import Request, refuse
from ringlet.devices.backends.shares.owners import safe_mode
from ringlet.devices.backends.shares.share import Share

_RENAME_FLAGS = (0, host.RENAME_NOREPLACE, host.RENAME_EXCHANGE)


def lookup(share: Share, request: Request) -> bytes:
    """Answer LOOKUP; a name that does not exist is an entry without an inode, kept as others."""
    parent = share.inodes.directory(request.nodeid)
    try:
        return share.found(parent, request.name())
    except FileNotFoundError as error:
        share.report(error, request.nodeid)
        return share.no_entry()


def forget(share: Share, request: Request) -> None:
    """Take FORGET, which has no reply."""
    (count,) = request.fields(fuse.FORGET_IN)
    share.inodes.forget([(request.nodeid, count)])


def batch_forget(share: Share, request: Request) -> None:
    """Take BATCH_FORGET, which has no reply."""
    (count,) = request.fields(fuse.BATCH_FORGET_IN)
    body = request.body[fuse.BATCH_FORGET_IN.size :]
    count = min(count, len(body) // fuse.FORGET_ONE.size)
    share.inodes.forget(fuse.FORGET_ONE.iter_unpack(body[: count * fuse.FORGET_ONE.size]))


def readlink(share: Share, request: Request) -> bytes:
    """Answer READLINK."""
    inode = share.inodes.get(request.nodeid)
    if inode.kind != stat.S_IFLNK:
        raise refuse(errno.EINVAL)
    descriptor = share.inodes.open_path(inode)
    return os.readlink(b"", dir_fd=descriptor.fd)


def symlink(share: Share, request: Request) -> bytes:
    """Answer SYMLINK; the target is the guest's affair, as the host never follows it."""
    parent = share.inodes.directory(request.nodeid)
    name = request.name()
    target = request.strings(len(name) + 1, 1)[0]
    directory = share.inodes.open_directory(parent)
    os.symlink(target, name, dir_fd=directory.fd)
    return _made(share, request, parent, name, 0)


def mknod(share: Share, request: Request) -> bytes:
    """Answer MKNOD: regular files, FIFOs and sockets, which the guest's kernel serves itself."""
    mode, _ = request.fields(fuse.MKNOD_IN)
    kind = stat.S_IFMT(mode) or stat.S_IFREG
    if kind not in {stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK}:
        raise refuse(errno.EPERM)
    parent = share.inodes.directory(request.nodeid)
    name = request.name(fuse.MKNOD_IN.size)
    directory = share.inodes.open_directory(parent)
    os.mknod(name, kind | safe_mode(mode, kind), dir_fd=directory.fd)
    return _made(share, request, parent, name, safe_mode(mode, kind))


def mkdir(share: Share, request: Request) -> bytes:
    """Answer MKDIR."""
    (mode,) = request.fields(fuse.MKDIR_IN)
    parent = share.inodes.directory(request.nodeid)
    name = request.name(fuse.MKDIR_IN.size)
    mode = safe_mode(mode, stat.S_IFDIR)
    directory = share.inodes.open_directory(parent)
    os.mkdir(name, mode, dir_fd=directory.fd)
    return _made(share, request, parent, name, mode)


def _made(share: Share, request: Request, parent: Inode, name: bytes, mode: int) -> bytes:
    """Give a new file its owner and the permissions that this process's mask took away."""
    directory = share.inodes.open_directory(parent)
    share.owners.give(name, directory.fd, request.uid, request.gid)
    status = share.inodes.find(parent, name)
    inode = share.inodes.add(parent, name, status, made=True)
    if mode & share.umask & ~status.st_mode:
        descriptor = share.inodes.open_path(inode)
        share.set_mode(descriptor, mode | status.st_mode & stat.S_ISGID)
        status = os.fstat(descriptor.fd)
    return share.entry(inode, status)


def unlink(share: Share, request: Request) -> bytes:
    """Answer UNLINK."""
    parent = share.inodes.directory(request.nodeid)
    name = request.name()
    directory = share.inodes.open_directory(parent)
    with _removal(share, _known(share, parent, name)):
        os.unlink(name, dir_fd=directory.fd)
    return b""


def rmdir(share: Share, request: Request) -> bytes:
    """Answer RMDIR."""
    parent = share.inodes.directory(request.nodeid)
    name = request.name()
    directory = share.inodes.open_directory(parent)
    with _removal(share, _known(share, parent, name)):
        os.rmdir(name, dir_fd=directory.fd)
    return b""


def _known(share: Share, parent: Inode, name: bytes) -> tuple[Inode, bool] | None:
    """Return the inode of a name, and whether it is its last name, if the guest knows it."""
    try:
        status = share.inodes.find(parent, name)
    except FileNotFoundError:
        return None
    inode = share.inodes.known(status)
    if inode is None:
        return None
    return inode, status.st_nlink <= 1 or inode.kind == stat.S_IFDIR


@contextlib.contextmanager
def _removal(share: Share, found: tuple[Inode, bool] | None) -> Iterator[None]:
    """Prepare an inode for the removal of one of its names.

    A descriptor keeps a file that has other names, which the server may not know.
    """
    if found is None:
        yield
        return
    inode, last = found
    if not last:
        if inode.descriptor is None:
            share.inodes.hold(inode, share.inodes.open_path(inode))
        yield
        return
    key = share.inodes.going(inode)
    try:
        yield
    except OSError:
        share.inodes.back(inode, key)
        raise


def rename(share: Share, request: Request) -> bytes:
    """Answer RENAME."""
    (target,) = request.fields(fuse.RENAME_IN)
    return _rename(share, request, target, 0, fuse.RENAME_IN.size)


def rename2(share: Share, request: Request) -> bytes:
    """Answer RENAME2: without replacing, or exchanging two files; a whiteout is refused."""
    target, flags = request.fields(fuse.RENAME2_IN)
    if flags not in _RENAME_FLAGS:
        raise refuse(errno.EINVAL)
    return _rename(share, request, target, flags, fuse.RENAME2_IN.size)


def _rename(share: Share, request: Request, target: int, flags: int, start: int) -> bytes:
    inodes = share.inodes
    old_parent, new_parent = inodes.directory(request.nodeid), inodes.directory(target)
    old, new = request.names(start, 2)
    moved = inodes.known(inodes.find(old_parent, old))
    found = _known(share, new_parent, new)
    old_dir, new_dir = inodes.open_directory(old_parent), inodes.open_directory(new_parent)
    stays = flags or (found is not None and found[0] is moved)  # or two names of one file
    with _removal(share, None if stays else found):
        if flags:
            host.rename(old_dir.fd, old, new_dir.fd, new, flags)
        else:
            os.rename(old, new, src_dir_fd=old_dir.fd, dst_dir_fd=new_dir.fd)
    if flags == host.RENAME_EXCHANGE and found is not None:
        inodes.moved(found[0], old_parent, old)
    inodes.moved(moved, new_parent, new)
    return b""


def link(share: Share, request: Request) -> bytes:
    """Answer LINK: a further name for a file."""
    (source,) = request.fields(fuse.LINK_IN)
    inode = share.inodes.get(source)
    parent = share.inodes.directory(request.nodeid)
    name = request.name(fuse.LINK_IN.size)
    if inode.kind == stat.S_IFDIR:
        raise refuse(errno.EPERM)
    descriptor = share.inodes.open_path(inode)
    directory = share.inodes.open_directory(parent)
    os.link(share.path(descriptor), name, dst_dir_fd=directory.fd, follow_symlinks=True)
    return share.found(parent, name)
