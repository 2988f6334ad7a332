"""What a share's guest knows, to be saved with the guest and restored."""

import contextlib
import os
import stat
from dataclasses import dataclass, field
from typing import Final

from ringlet.devices.backends.shares import protocol as fuse
from ringlet.devices.backends.shares.files import host_flags
from ringlet.devices.backends.shares.inodes import GONE, INODES, Descriptor, Inode
from ringlet.devices.backends.shares.messages import is_component
from ringlet.devices.backends.shares.share import Share
from ringlet.errors import ConfigError

_KINDS: Final = frozenset({
    stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR,
    stat.S_IFBLK,
})  # fmt: skip


@dataclass
class InodeState:
    """An inode: its number, its parent's, its name there, its type (S_IFMT).

    `lookups` is how often the guest was told of it.  A file that has no name has an empty one.
    """

    nodeid: int
    parent: int
    name: bytes
    kind: int
    lookups: int


@dataclass
class HandleState:
    """An open file: its number, that of its inode, and the flags of its opening."""

    number: int
    nodeid: int
    flags: int


@dataclass
class ShareState:
    """All that the guest knows of a share; the files themselves are the host's.

    A parent stands before its children.
    """

    inodes: list[InodeState] = field(default_factory=list)
    handles: list[HandleState] = field(default_factory=list)
    next_inode: int = fuse.ROOT_ID + 1
    next_handle: int = 1


def save(share: Share) -> ShareState:
    """Return the state of a share.  Locks, and files without a name, are not part of it."""
    state = ShareState(next_inode=share.inodes.next_number, next_handle=share.next_handle)
    waiting = [inode for inode in share.inodes.all() if inode.parent is not None]
    saved = {fuse.ROOT_ID}
    while waiting:
        later = []
        for inode in waiting:
            assert inode.parent is not None
            if inode.parent.nodeid not in saved:
                later.append(inode)
                continue
            saved.add(inode.nodeid)
            name = b"" if inode.key == GONE else inode.name
            state.inodes.append(
                InodeState(inode.nodeid, inode.parent.nodeid, name, inode.kind, inode.lookups)
            )
        if len(later) == len(waiting):
            break  # directories that the host moved into each other: they are stale anyway
        waiting = later
    state.handles = [
        HandleState(number, handle.inode.nodeid, handle.flags)
        for number, handle in share.handles.items()
        if handle.inode.nodeid in saved
    ]
    return state


def restore(share: Share, state: ShareState) -> None:
    """Take over a saved state, which may come from a damaged file.

    Files are found by their names.  Those that are not there, or are of another type, are stale;
    the user is told if the guest had one of them open.  Raises ConfigError if the state is damaged.
    """
    share.reset()
    inodes = share.inodes
    if len(state.inodes) > INODES:
        raise _damaged(share)
    for one in state.inodes:
        parent = inodes.peek(one.parent)
        if (
            parent is None
            or parent.kind != stat.S_IFDIR
            or one.kind not in _KINDS
            or not fuse.ROOT_ID < one.nodeid < state.next_inode
            or one.lookups < 0
            or (one.name and not is_component(one.name))
        ):
            raise _damaged(share)
        inode = Inode(one.nodeid, parent, one.name, GONE, one.kind)
        inode.lookups = one.lookups
        if not inodes.adopt(inode, _status(share, parent, one)):
            raise _damaged(share)
    inodes.next_number = state.next_inode
    lost = 0
    for opened in state.handles:
        handled = inodes.peek(opened.nodeid)
        if handled is None or not 0 < opened.number < state.next_handle:
            raise _damaged(share)
        lost += not _reopened(share, opened, handled)
    share.next_handle = state.next_handle
    if lost:
        share.tell(f"{lost} of the files that the guest had open are not there any more")


def _damaged(share: Share) -> ConfigError:
    share.reset()
    return ConfigError(f"the saved state of the shared directory {share.root} is damaged")


def _status(share: Share, parent: Inode, one: InodeState) -> os.stat_result | None:
    """Return the status of a saved inode's file if it is still of the same type."""
    if not one.name:
        return None
    with contextlib.suppress(OSError):
        status = share.inodes.find(parent, one.name)
        share.inodes.admit(parent, one.name, status)
        if stat.S_IFMT(status.st_mode) == one.kind:
            return status
    return None


def _reopened(share: Share, opened: "HandleState", inode: Inode) -> bool:
    """Open a file again, and say whether it could be done."""
    with contextlib.suppress(OSError):
        flags = os.O_RDONLY | os.O_DIRECTORY
        if inode.kind == stat.S_IFREG:
            flags = host_flags(share, opened.flags)
        if share.read_only and flags & os.O_ACCMODE != os.O_RDONLY:
            return False
        made = Descriptor(share.reopen(share.inodes.open_path(inode), flags))
        share.next_handle = opened.number
        share.keep(made, inode, opened.flags)
        return True
    return False
