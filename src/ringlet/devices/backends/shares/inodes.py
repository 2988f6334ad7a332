"""The files that the guest knows: each by its number, and by the name where it was last found.

An inode has no descriptor of its own: it is found by its name in its parent, and what is found is
the inode only if device and inode number agree.  A directory keeps an O_PATH descriptor once it
is used, and so does a file whose last known name is gone; the descriptors used longest ago are
closed when there are too many.
"""

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterable
from typing import Final

from ringlet.devices.backends.shares import protocol as fuse
from ringlet.devices.backends.shares.messages import full, refuse

INODES: Final = 1 << 19
"""The most files that a guest can know at a time."""
DESCRIPTORS: Final = 2048
"""The most descriptors of directories that stay open."""
DEPTH: Final = 4096
"""The most directories between the root and a file."""
DEVICES: Final = 256
"""The most file systems within a share."""
NO_NAME: Final = b""
"""The name of a directory whose place is not known: it leads nowhere."""
NOWHERE: Final = -1
"""The key of a file on an unknown file system."""
GONE: Final = -2
"""The key of an inode that no name leads to any more."""

_O_FIND: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class Descriptor:
    """A file descriptor that is closed with the last reference to this object.

    So a thread that holds the object can use the number, whatever other threads drop meanwhile.
    Who uses the number must have the object in a variable: `open(...).fd` alone keeps nothing open.
    """

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self.fd)


class Handle:
    """A file or directory that the guest has opened, with the flags that it gave.

    `older` leads to the next handle of the same inode; `lock` orders reads of a directory.
    """

    __slots__ = ("append", "descriptor", "fd", "flags", "inode", "lock", "older")

    def __init__(self, descriptor: Descriptor, inode: "Inode", flags: int) -> None:
        self.descriptor = descriptor
        self.fd = descriptor.fd
        self.inode = inode
        self.flags = flags
        self.append = bool(flags & os.O_APPEND)
        self.lock = threading.Lock()
        self.older: Handle | None = None


class Inode:
    """A file that the guest knows.

    `key` is its identity (`Inodes.key`) or `GONE`, `kind` its type (S_IFMT), `lookups` how
    often the guest was told of it, `children` how many inodes are found through it, `seen` its time
    of change in nanoseconds when its data was last cached, or 0.
    """

    __slots__ = (
        "children", "descriptor", "handle", "key", "kind", "lookups", "name", "nodeid", "parent",
        "seen", "used",
    )  # fmt: skip

    def __init__(
        self, nodeid: int, parent: "Inode | None", name: bytes, key: int, kind: int
    ) -> None:
        self.nodeid = nodeid
        self.parent = parent
        self.name = name
        self.key = key
        self.kind = kind
        self.lookups = 0
        self.children = 0
        self.seen = 0
        self.used = False
        self.descriptor: Descriptor | None = None
        self.handle: Handle | None = None


class Inodes:
    """The table of inodes.  Any thread may call it.

    `allowed` says of an O_PATH descriptor whether its file system may be shared.
    """

    def __init__(self, root: Descriptor, descriptors: int, allowed: Callable[[int], bool]) -> None:
        """Begin with `root`, the O_PATH descriptor of a directory."""
        status = os.fstat(root.fd)
        self._device = status.st_dev
        self._devices = {status.st_dev: 0}
        self._allowed = allowed
        self._limit = descriptors
        self._lock = threading.Lock()
        self._held: dict[int, Inode] = {}
        self.next_number = fuse.ROOT_ID + 1
        self.root = Inode(fuse.ROOT_ID, None, b"", status.st_ino, stat.S_IFDIR)
        self.root.descriptor = root
        self.root.lookups = 1
        self._by_id = {fuse.ROOT_ID: self.root}
        self._by_key = {status.st_ino: self.root}

    def __len__(self) -> int:
        return len(self._by_id)

    def all(self) -> list[Inode]:
        """Return all inodes, for a share that serves no request meanwhile."""
        return list(self._by_id.values())

    def peek(self, nodeid: int) -> Inode | None:
        """Return the inode with a number, or None."""
        return self._by_id.get(nodeid)

    def adopt(self, inode: Inode, status: os.stat_result | None) -> bool:
        """Take over a saved inode with the status of its file, or as stale; False: it is known."""
        if inode.nodeid in self._by_id or inode.parent is None:
            return False
        with self._lock:
            inode.parent.children += 1
            self._by_id[inode.nodeid] = inode
            if status is not None and self.key(status) not in self._by_key:
                inode.key = self.key(status)
                self._by_key[inode.key] = inode
                if inode.kind == stat.S_IFLNK:
                    inode.seen = status.st_mtime_ns
        return True

    @property
    def full(self) -> bool:
        """Whether new inodes are for lookups of single names alone."""
        return len(self._by_id) >= INODES * 3 // 4

    def get(self, nodeid: int) -> Inode:
        """Return the inode with a number that the guest sent; raises OSError if there is none."""
        inode = self._by_id.get(nodeid)
        if inode is None:
            raise refuse(errno.ESTALE)
        return inode

    def directory(self, nodeid: int) -> Inode:
        """Return the directory with a number that the guest sent."""
        inode = self.get(nodeid)
        if inode.kind != stat.S_IFDIR:
            raise refuse(errno.ENOTDIR)
        return inode

    def key(self, status: os.stat_result) -> int:
        """Return the identity of a file: its inode number, below the number of its file system.

        Only for inodes of the root's file system is it the inode number alone.  It is `NOWHERE`
        for a file system that is not known.
        """
        if status.st_dev == self._device:
            return status.st_ino
        index = self._devices.get(status.st_dev)
        return NOWHERE if index is None else status.st_ino | index << 64

    def admit(self, parent: Inode, name: bytes, status: os.stat_result) -> None:
        """Let the file system of `name` be known, or raise OSError if it may not be shared.

        Then there is no such name for the guest, which may put a directory of its own there.
        """
        if status.st_dev in self._devices:
            return
        directory = self.open_directory(parent)
        found = Descriptor(os.open(name, _O_FIND, dir_fd=directory.fd))
        if os.fstat(found.fd).st_dev != status.st_dev or not self._allowed(found.fd):
            raise refuse(errno.ENOENT)
        with self._lock:
            if len(self._devices) >= DEVICES:
                raise full(errno.EXDEV)
            self._devices.setdefault(status.st_dev, len(self._devices))

    def find(self, parent: Inode, name: bytes) -> os.stat_result:
        """Return the status of a name in a directory; never follows a link."""
        directory = self.open_directory(parent)
        return os.stat(name, dir_fd=directory.fd, follow_symlinks=False)

    def known(self, status: os.stat_result) -> Inode | None:
        """Return the inode with this status if the guest knows it."""
        return self._by_key.get(self.key(status))

    def add(
        self, parent: Inode, name: bytes, status: os.stat_result, *, made: bool = False
    ) -> Inode:
        """Return the inode that was found as `name`, which the guest is told of once more.

        If it was `made` just now, an inode with its number is of a file that the host removed.
        """
        if status.st_dev != self._device:
            self.admit(parent, name, status)
        with self._lock:
            key = self.key(status)
            if made and (old := self._by_key.pop(key, None)) is not None:
                old.key = GONE
            return self._add(parent, name, key, status)

    def add_all(
        self, parent: Inode, found: Iterable[tuple[bytes, os.stat_result]]
    ) -> list[Inode | None]:
        """Return what `add` does for each name, or None where the table should not grow."""
        with self._lock:
            return [
                None
                if (key := self.key(status)) == NOWHERE or (self.full and key not in self._by_key)
                else self._add(parent, name, key, status)
                for name, status in found
            ]

    def _add(self, parent: Inode, name: bytes, key: int, status: os.stat_result) -> Inode:
        if self._by_id.get(parent.nodeid) is not parent:
            raise refuse(errno.ESTALE)  # forgotten while the request was under way
        kind = stat.S_IFMT(status.st_mode)
        inode = self._by_key.get(key)
        if inode is not None:
            # A symbolic link never changes: another time means another link with its number.
            if inode.kind == kind and (kind != stat.S_IFLNK or inode.seen == status.st_mtime_ns):
                inode.lookups += 1
                if inode.parent is not parent or inode.name != name:
                    self._move(inode, parent, name)
                return inode
            inode.key = GONE
        if len(self._by_id) >= INODES:
            raise full(errno.ENFILE)
        inode = Inode(self.next_number, parent, name, key, kind)
        self.next_number += 1
        parent.children += 1
        inode.lookups = 1
        if kind == stat.S_IFLNK:
            inode.seen = status.st_mtime_ns
        self._by_id[inode.nodeid] = inode
        self._by_key[key] = inode
        return inode

    def _move(self, inode: Inode, parent: Inode, name: bytes) -> None:
        old = inode.parent
        if old is None or parent is inode:
            return  # the root has no other place; no directory is in itself, whatever a race says
        inode.name = name
        if old is not parent:
            self._part(parent, inode)
            inode.parent = parent
            parent.children += 1
            old.children -= 1
            self._drop_unused(old)

    def _part(self, parent: Inode, inode: Inode) -> None:
        """Take a directory that is found above `inode`, its new parent, out of it.

        The host has moved one of them meanwhile; where it was moved to is not known.
        """
        step = parent
        while (above := step.parent) is not None:
            if above is inode:
                step.parent, step.name = self.root, NO_NAME
                self.root.children += 1
                inode.children -= 1
                return
            step = above

    def moved(self, inode: Inode | None, parent: Inode, name: bytes) -> None:
        """Note where an inode is found from now on."""
        by_id = self._by_id
        with self._lock:
            if (
                inode is not None
                and by_id.get(inode.nodeid) is inode
                and by_id.get(parent.nodeid) is parent
            ):
                self._move(inode, parent, name)

    def going(self, inode: Inode) -> int:
        """Note that the last name of a file is about to be removed; return its key.

        Once the name is removed, the host may give the file's number to another at once.
        """
        with self._lock:
            key = inode.key
            if self._by_key.get(key) is inode:
                del self._by_key[key]
            inode.key = GONE
            return key

    def back(self, inode: Inode, key: int) -> None:
        """Take `going` back: the name was not removed."""
        with self._lock:
            if self._by_key.setdefault(key, inode) is inode:
                inode.key = key

    def forget(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Forget that the guest was told of inodes so many times; wrong numbers are ignored."""
        with self._lock:
            for nodeid, count in pairs:
                inode = self._by_id.get(nodeid)
                if inode is not None and inode is not self.root:
                    inode.lookups = max(0, inode.lookups - count)
                    self._drop_unused(inode)

    def _drop_unused(self, inode: Inode | None) -> None:
        """Remove an inode without lookups and children, and then its parents if they are so."""
        while inode is not None and inode.parent is not None:
            if inode.lookups or inode.children or inode.nodeid not in self._by_id:
                return
            del self._by_id[inode.nodeid]
            if self._by_key.get(inode.key) is inode:
                del self._by_key[inode.key]
            self._held.pop(inode.nodeid, None)
            parent = inode.parent
            parent.children -= 1
            inode = parent

    # Descriptors

    def open_directory(self, inode: Inode) -> Descriptor:
        """Return the descriptor of a directory; opens it and its parents if necessary."""
        descriptor = inode.descriptor
        if descriptor is not None:
            inode.used = True
            return descriptor
        if inode.kind != stat.S_IFDIR:
            raise refuse(errno.ENOTDIR)
        missing = [inode]
        while (parent := missing[-1].parent) is not None:
            descriptor = parent.descriptor
            if descriptor is not None:
                break
            missing.append(parent)
            if len(missing) > DEPTH:
                raise refuse(errno.ESTALE)
        if descriptor is None:
            raise refuse(errno.ENOTCONN)  # of the root, after `close`
        for step in reversed(missing):
            descriptor = self._open(step, descriptor)
            self.hold(step, descriptor)
        return descriptor

    def _open(self, inode: Inode, directory: Descriptor) -> Descriptor:
        """Open an inode by its name, and check that it is the one."""
        try:
            found = Descriptor(os.open(inode.name, _O_FIND, dir_fd=directory.fd))
        except FileNotFoundError:
            raise refuse(errno.ESTALE) from None
        status = os.fstat(found.fd)
        if self.key(status) != inode.key or stat.S_IFMT(status.st_mode) != inode.kind:
            raise refuse(errno.ESTALE)
        if status.st_dev != self._device and not self._allowed(found.fd):
            raise refuse(errno.EACCES)
        return found

    def open_path(self, inode: Inode) -> Descriptor:
        """Return a descriptor of an inode: what is open, or an O_PATH descriptor by its name."""
        descriptor = inode.descriptor
        if descriptor is not None:
            return descriptor
        handle = inode.handle
        if handle is not None:
            return handle.descriptor
        if inode.kind == stat.S_IFDIR:
            return self.open_directory(inode)
        assert inode.parent is not None  # the root is a directory
        return self._open(inode, self.open_directory(inode.parent))

    def status(self, inode: Inode) -> os.stat_result:
        """Return the status of an inode; raises OSError with ESTALE if it is no more there."""
        descriptor = inode.descriptor or inode.handle
        if descriptor is not None:
            return os.fstat(descriptor.fd)
        assert inode.parent is not None
        try:
            found = self.find(inode.parent, inode.name)
        except FileNotFoundError:
            raise refuse(errno.ESTALE) from None
        if self.key(found) != inode.key:
            raise refuse(errno.ESTALE)
        return found

    def hold(self, inode: Inode, descriptor: Descriptor) -> None:
        """Keep a descriptor with its inode; the descriptors used longest ago make room for it."""
        with self._lock:
            if inode.nodeid not in self._by_id:
                return  # forgotten meanwhile: this request is the last that uses it
            inode.descriptor = descriptor
            inode.used = True
            self._held[inode.nodeid] = inode
            self._shrink(self._limit)

    def _shrink(self, limit: int) -> None:
        held = self._held
        while len(held) > limit:
            oldest = held.pop(next(iter(held)))
            if oldest.used and limit:
                oldest.used = False
                held[oldest.nodeid] = oldest
            else:
                oldest.descriptor = None

    def removed(self) -> bool:
        """Say whether the root was removed on the host."""
        root = self.root.descriptor
        return root is not None and os.fstat(root.fd).st_nlink == 0

    def close(self) -> None:
        """Close the descriptors of all directories; none is opened any more."""
        with self._lock:
            self._shrink(0)
            self.root.descriptor = None

    def close_unused(self) -> None:
        """Close all descriptors that can be opened again: the host has no more."""
        with self._lock:
            self._shrink(0)
