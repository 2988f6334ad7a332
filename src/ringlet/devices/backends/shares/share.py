"""What all requests of a share use: its inodes, open files, owners and options."""

import errno
import os
import resource
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ringlet.devices.backends.file_systems import file_system
from ringlet.devices.backends.shares import protocol as fuse
from ringlet.devices.backends.shares.inodes import DESCRIPTORS, Descriptor, Handle, Inode, Inodes
from ringlet.devices.backends.shares.messages import FullError, full, refuse
from ringlet.devices.backends.shares.owners import Owners
from ringlet.devices.backends.shares.record_locks import RecordLocks
from ringlet.errors import ConfigError, HostError

HANDLES: Final = 4096
"""The most files and directories that a guest can have open at a time."""

_MASK: Final = (1 << 64) - 1
_BILLION: Final = 1_000_000_000
_QUIET_NS: Final = 60 * _BILLION
"""For how long the same trouble is not told again."""
_EXCLUSIVE_SECONDS: Final = 86400.0
_SECONDS: Final = 1.0
_TROUBLES: Final = {
    errno.ENOSPC: "the host's disk is full",
    errno.EDQUOT: "the quota on the host's disk is used up",
    errno.EIO: "the host's disk reports an error",
    errno.ENOTCONN: "the host's file system is not connected any more",
    errno.EMFILE: "Ringlet has too many open files; raise their limit (ulimit -n)",
    errno.ENFILE: "the host has too many open files (fs.file-max)",
}


def holds_files(fd: int) -> bool:
    """Say whether the file system of a descriptor is one of files, not of the kernel's state."""
    return file_system(fd) is not None


class Share:
    """A directory of the host that a guest uses.  Any thread may call it."""

    def __init__(
        self,
        root: Path,
        *,
        read_only: bool,
        trouble: Callable[[str], None],
        exclusive: bool,
        locks: bool,
        owner: tuple[int, int],
    ) -> None:
        """Raise ConfigError if the directory cannot be shared, HostError if /proc is missing."""
        self.root = root
        self.read_only = read_only
        self.exclusive = exclusive
        self.locks = locks
        self.owners = Owners(owner)
        self._proc = _open_proc()
        self.umask = _umask()
        seconds = _EXCLUSIVE_SECONDS if exclusive else _SECONDS
        self._valid = (int(seconds), int(seconds % 1 * _BILLION))
        self._entry_valid = (self._valid[0], self._valid[0], self._valid[1], self._valid[1])
        self._trouble = trouble
        self._told: dict[int, int] = {}
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if soft == resource.RLIM_INFINITY:
            soft = 1 << 20
        self._most_handles = min(HANDLES, soft // 4)
        self._most_descriptors = min(DESCRIPTORS, soft // 8)
        self._lock = threading.Lock()
        self.closed = False
        self.handles: dict[int, Handle] = {}
        self.record_locks = RecordLocks(self.reopen, read_only=read_only)
        self.next_handle = 1
        self.inodes = Inodes(self._open_root(), self._most_descriptors, holds_files)

    def _open_root(self) -> Descriptor:
        try:
            top = Descriptor(os.open(self.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        except OSError as error:
            raise ConfigError(f"cannot share {self.root}: {error.strerror}") from error
        if not holds_files(top.fd):
            raise ConfigError(
                f"cannot share {self.root}: it is the host kernel's own, or of an unknown file"
                " system; share a directory of files"
            )
        if not os.access(self.root, os.X_OK):
            raise ConfigError(
                f"cannot share {self.root}: you have no permission to enter it; share another"
                " directory, or have its owner allow it"
            )
        return top

    def _new_inodes(self) -> Inodes:
        """Return a table with the same root and nothing else."""
        root = self.inodes.root.descriptor
        if root is None:
            raise refuse(errno.ENOTCONN)
        return Inodes(root, self._most_descriptors, holds_files)

    def reset(self) -> None:
        """Close all files and forget all inodes, as when the guest unmounts the share."""
        inodes = self._new_inodes()
        with self._lock:
            self._clear()
            self.inodes = inodes

    def close(self) -> None:
        """Close everything; what comes later is refused."""
        with self._lock:
            self.closed = True
            self._clear()
            self.inodes.close()

    def _clear(self) -> None:
        for handle in self.handles.values():
            handle.inode.handle = handle.older = None
        self.handles.clear()
        self.record_locks.clear()

    # Replies

    def attributes(self, status: os.stat_result) -> tuple[int, ...]:
        """Return the fields of struct fuse_attr."""
        atime, atimensec = divmod(status.st_atime_ns, _BILLION)
        mtime, mtimensec = divmod(status.st_mtime_ns, _BILLION)
        ctime, ctimensec = divmod(status.st_ctime_ns, _BILLION)
        key = self.inodes.key(status)
        user, group = status.st_uid, status.st_gid
        return (
            (key ^ key >> 64 << 48) & _MASK, status.st_size, status.st_blocks,
            atime, mtime, ctime, atimensec, mtimensec, ctimensec,
            status.st_mode, status.st_nlink,
            self.owners.user(user, user), self.owners.group(group, group),
            status.st_rdev & 0xFFFFFFFF, status.st_blksize, 0,
        )  # fmt: skip

    def entry(self, inode: Inode, status: os.stat_result) -> bytes:
        """Return struct fuse_entry_out."""
        return fuse.ENTRY_OUT.pack(inode.nodeid, 0, *self._entry_valid, *self.attributes(status))

    def no_entry(self, status: os.stat_result | None = None) -> bytes:
        """Return the fuse_entry_out that says that there is no such name, or not of which inode."""
        if status is None:
            return fuse.ENTRY_OUT.pack(0, 0, *self._entry_valid, *(0,) * 16)
        return fuse.ENTRY_OUT.pack(0, 0, 0, 0, 0, 0, *self.attributes(status))

    def attribute_reply(self, status: os.stat_result) -> bytes:
        """Return struct fuse_attr_out."""
        return fuse.ATTR_OUT.pack(*self._valid, *self.attributes(status))

    def found(self, parent: Inode, name: bytes) -> bytes:
        """Look a name up and return struct fuse_entry_out; the guest then knows the inode."""
        status = self.inodes.find(parent, name)
        return self.entry(self.inodes.add(parent, name, status), status)

    # Open files

    def handle(self, number: int, kind: int) -> Handle:
        """Return the open file of a type (S_IFMT) with a number that the guest sent."""
        handle = self.handles.get(number)
        if handle is None or handle.inode.kind != kind:
            raise refuse(errno.EBADF)
        return handle

    def file(self, number: int) -> Handle:
        """Return the open regular file with a number that the guest sent."""
        return self.handle(number, stat.S_IFREG)

    def check_room(self) -> None:
        """Raise OSError if the guest has too many open files."""
        if len(self.handles) >= self._most_handles:
            raise full(errno.ENFILE)

    def keep(self, made: Descriptor, inode: Inode, flags: int) -> int:
        """Keep the descriptor of a file that the guest opens, and return the file's number."""
        handle = Handle(made, inode, flags)
        with self._lock:
            self.check_room()
            if self.closed:
                raise refuse(errno.ENOTCONN)
            number = self.next_handle
            self.next_handle += 1
            self.handles[number] = handle
            handle.older = inode.handle
            inode.handle = handle
        return number

    def release(self, number: int) -> None:
        """Close the open file with a number that the guest sent, after the requests that use it."""
        with self._lock:
            handle = self.handles.pop(number, None)
            if handle is None:
                raise refuse(errno.EBADF)
            inode = handle.inode
            if inode.handle is handle:
                inode.handle = handle.older
                return
            newer = inode.handle
            while newer is not None and newer.older is not handle:
                newer = newer.older
            if newer is not None:
                newer.older = handle.older

    def reopen(self, descriptor: Descriptor, flags: int) -> int:
        """Return a new descriptor of an open regular file or directory.

        Raises OSError for every other type: opening one could wait, or reach a device.
        """
        status = os.fstat(descriptor.fd)
        if stat.S_IFMT(status.st_mode) not in {stat.S_IFREG, stat.S_IFDIR}:
            raise refuse(errno.EPERM)
        return os.open(str(descriptor.fd), flags | os.O_CLOEXEC, dir_fd=self._proc.fd)

    def set_mode(self, descriptor: Descriptor, mode: int) -> None:
        """Set the permission bits of an open file, which may be an O_PATH descriptor."""
        os.chmod(str(descriptor.fd), mode, dir_fd=self._proc.fd)

    @staticmethod
    def path(descriptor: Descriptor) -> bytes:
        """Return a path that leads to an open file itself, for calls that take no descriptor.

        It is valid as long as the descriptor.  A symbolic link is not followed behind it.
        """
        return b"/proc/self/fd/%d" % descriptor.fd

    # Trouble

    def report(self, raised: OSError, nodeid: int) -> None:
        """Tell the user, in one line and not too often, what he should know of an error."""
        error = raised.errno or errno.EIO
        what = _TROUBLES.get(error)
        removed = error in {errno.ENOENT, errno.ESTALE} and nodeid == fuse.ROOT_ID
        if isinstance(raised, FullError):
            what = "the guest uses more files at a time than Ringlet serves (docs/limits.md)"
        elif error in {errno.EMFILE, errno.ENFILE}:
            self.inodes.close_unused()
        if removed and self.inodes.removed():
            what = "it was removed; the guest goes on without it"
        if what is None:
            return
        now = time.monotonic_ns()
        with self._lock:
            told = self._told.get(error)
            if told is not None and now - told < _QUIET_NS:
                return
            self._told[error] = now
        self.tell(what)

    def tell(self, what: str) -> None:
        """Tell the user something about this share, in one line."""
        self._trouble(f"shared directory {self.root}: {what}")


def _umask() -> int:
    """Return the process's mask of permissions without changing it."""
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").split("\n"):
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return 0o777  # then modes are set again after each creation


def _open_proc() -> Descriptor:
    try:
        return Descriptor(os.open("/proc/self/fd", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    except OSError as error:
        raise HostError("sharing directories needs /proc; mount it on the host") from error
