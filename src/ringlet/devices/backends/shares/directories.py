"""Requests that list directories.

An offset within a directory is the host's own, so that a listing needs no memory and goes on where
it stopped, whatever is added or removed meanwhile.
"""

import errno
import os
import stat
from collections.abc import Iterator
from struct import Struct
from typing import Final

from ringlet.devices.backends.shares import host
from ringlet.devices.backends.shares import protocol as fuse
from ringlet.devices.backends.shares.inodes import Descriptor, Inode
from ringlet.devices.backends.shares.messages import Request, refuse
from ringlet.devices.backends.shares.share import Share

_LEAST: Final = 512
_HOST_RECORD: Final = Struct("<QqHB")  # struct linux_dirent64: ino, off, reclen, type; the name
_OFFSET_LIMIT: Final = 1 << 63

_Entry = tuple[bytes, int, int, int]
"""Name, inode number, offset of the next entry, type."""


def opendir(share: Share, request: Request) -> bytes:
    """Answer OPENDIR."""
    inode = share.inodes.directory(request.nodeid)
    share.check_room()
    directory = share.inodes.open_directory(inode)
    made = Descriptor(share.reopen(directory, os.O_RDONLY | os.O_DIRECTORY))
    reply = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_CACHE_DIR if share.exclusive else 0
    return fuse.OPEN_OUT.pack(share.keep(made, inode, os.O_RDONLY), reply)


def readdir(share: Share, request: Request) -> bytes:
    """Answer READDIR."""
    number, offset, size = request.fields(fuse.READ_IN)
    size = min(size, request.room_size(), fuse.MAX_WRITE)
    listed = bytearray()
    for entry in _entries(share, number, offset, size):
        record = _record(entry)
        if len(listed) + len(record) > size:
            break
        listed += record
    return bytes(listed)


def readdirplus(share: Share, request: Request) -> bytes:
    """Answer READDIRPLUS: the guest then knows each inode that is listed, but for . and .."""
    number, offset, size = request.fields(fuse.READ_IN)
    size = min(size, request.room_size(), fuse.MAX_WRITE)
    inodes = share.inodes
    parent = share.handle(number, stat.S_IFDIR).inode
    directory = inodes.open_directory(parent)
    chosen: list[tuple[_Entry, os.stat_result | None]] = []
    for entry in _entries(share, number, offset, size):
        size -= fuse.ENTRY_OUT.size + fuse.DIRENT.size + (len(entry[0]) + 7 & ~7)
        if size < 0:
            break
        chosen.append((entry, _status(directory.fd, entry[0])))
    told = [
        (entry[0], status)
        for entry, status in chosen
        if status is not None and entry[0] not in {b".", b".."}
    ]
    known = dict(zip((name for name, _ in told), inodes.add_all(parent, told), strict=True))
    return b"".join([_plus(share, known, entry, status) for entry, status in chosen])


def _plus(
    share: Share,
    known: dict[bytes, Inode | None],
    entry: _Entry,
    status: os.stat_result | None,
) -> bytes:
    inode = known.get(entry[0])
    if inode is not None and status is not None:
        return share.entry(inode, status) + _record(entry)
    if status is not None and entry[0] in {b".", b".."}:
        return share.no_entry(status) + _record(entry)
    return share.no_entry() + _record(entry)


def _status(directory: int, name: bytes) -> os.stat_result | None:
    if name == b"..":
        return None  # it may be outside of the share
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:  # removed meanwhile, or not to be reached: the guest looks it up itself
        return None


def _record(entry: _Entry) -> bytes:
    name, ino, offset, kind = entry
    return fuse.DIRENT.pack(ino, offset, len(name), kind) + name + bytes(-len(name) & 7)


def _entries(share: Share, number: int, offset: int, size: int) -> Iterator[_Entry]:
    """Yield the entries of an open directory from a guest's offset on, until there are no more.

    It is read from the host in pieces that are about as long as the reply.
    """
    handle = share.handle(number, stat.S_IFDIR)
    if offset >= _OFFSET_LIMIT:
        raise refuse(errno.EINVAL)
    piece = max(_LEAST, size)
    while True:
        with handle.lock:
            os.lseek(handle.fd, offset, os.SEEK_SET)
            records = host.read_directory(handle.fd, piece)
        if not records:
            return
        start = 0
        while start < len(records):
            ino, offset, length, kind = _HOST_RECORD.unpack_from(records, start)
            name = records[start + _HOST_RECORD.size : start + length]
            yield name[: name.index(0)], ino, offset, kind
            start += length
