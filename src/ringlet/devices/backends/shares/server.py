"""The file server: answers the FUSE requests of one guest for one directory of the host."""

import errno
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from ringlet.devices.backends.shares import (
    attributes,
    directories,
    files,
    locks,
    names,
    xattrs,
)
from ringlet.devices.backends.shares import protocol as fuse
from ringlet.devices.backends.shares.messages import Request, refuse
from ringlet.devices.backends.shares.share import Share
from ringlet.devices.backends.shares.state import ShareState, restore, save

Operation = Callable[[Share, Request], bytes | int | None]
"""Answers a request: with a reply's body, with the size of what is in its room, or with nothing."""


def _init(share: Share, request: Request) -> bytes:
    """Answer INIT: agree on a version and on what both sides can do."""
    major, minor, readahead, flags = request.fields(fuse.INIT_IN)
    if major < fuse.MAJOR or (major == fuse.MAJOR and minor < fuse.MINOR_LEAST):
        raise refuse(errno.EPROTO)
    share.reset()
    wanted = _FLAGS
    if share.exclusive:
        wanted |= fuse.WRITEBACK_CACHE | fuse.CACHE_SYMLINKS
    if share.locks:
        wanted |= fuse.POSIX_LOCKS | fuse.FLOCK_LOCKS
    return fuse.INIT_OUT.pack(
        fuse.MAJOR, fuse.MINOR, readahead, flags & wanted, _BACKGROUND, _BACKGROUND * 3 // 4,
        fuse.MAX_WRITE, 1, fuse.PAGES, 0, 0,
    )  # fmt: skip


def _destroy(share: Share, request: Request) -> bytes:
    """Answer DESTROY: the guest unmounts the share."""
    share.reset()
    return b""


def _not_a_device(share: Share, request: Request) -> bytes:
    """Answer IOCTL."""
    raise refuse(errno.ENOTTY)


_BACKGROUND: Final = 64
_FLAGS: Final = (
    fuse.ASYNC_READ | fuse.ATOMIC_O_TRUNC | fuse.BIG_WRITES | fuse.AUTO_INVAL_DATA
    | fuse.DO_READDIRPLUS | fuse.READDIRPLUS_AUTO | fuse.ASYNC_DIO | fuse.PARALLEL_DIROPS
    | fuse.MAX_PAGES | fuse.HANDLE_KILLPRIV_V2
)  # fmt: skip
_OPERATIONS: Final[dict[int, Operation]] = {
    fuse.LOOKUP: names.lookup,
    fuse.FORGET: names.forget,
    fuse.GETATTR: attributes.getattr_,
    fuse.SETATTR: attributes.setattr_,
    fuse.READLINK: names.readlink,
    fuse.SYMLINK: names.symlink,
    fuse.MKNOD: names.mknod,
    fuse.MKDIR: names.mkdir,
    fuse.UNLINK: names.unlink,
    fuse.RMDIR: names.rmdir,
    fuse.RENAME: names.rename,
    fuse.LINK: names.link,
    fuse.OPEN: files.open_file,
    fuse.READ: files.read,
    fuse.WRITE: files.write,
    fuse.STATFS: attributes.statfs,
    fuse.RELEASE: files.release,
    fuse.FSYNC: files.fsync,
    fuse.SETXATTR: xattrs.setxattr,
    fuse.GETXATTR: xattrs.getxattr,
    fuse.LISTXATTR: xattrs.listxattr,
    fuse.REMOVEXATTR: xattrs.removexattr,
    fuse.FLUSH: files.flush,
    fuse.INIT: _init,
    fuse.OPENDIR: directories.opendir,
    fuse.READDIR: directories.readdir,
    fuse.RELEASEDIR: files.release,
    fuse.FSYNCDIR: files.fsync,
    fuse.GETLK: locks.getlk,
    fuse.SETLK: locks.setlk,
    fuse.SETLKW: locks.setlkw,
    fuse.ACCESS: attributes.access,
    fuse.CREATE: files.create,
    fuse.INTERRUPT: locks.interrupt,
    fuse.DESTROY: _destroy,
    fuse.IOCTL: _not_a_device,
    fuse.BATCH_FORGET: names.batch_forget,
    fuse.FALLOCATE: files.fallocate,
    fuse.READDIRPLUS: directories.readdirplus,
    fuse.RENAME2: names.rename2,
    fuse.LSEEK: files.lseek,
    fuse.COPY_FILE_RANGE: files.copy_file_range,
    fuse.SYNCFS: files.syncfs,
}
_CHANGES: Final = frozenset({
    fuse.SETATTR, fuse.SYMLINK, fuse.MKNOD, fuse.MKDIR, fuse.UNLINK, fuse.RMDIR, fuse.RENAME,
    fuse.LINK, fuse.WRITE, fuse.SETXATTR, fuse.REMOVEXATTR, fuse.CREATE, fuse.FALLOCATE,
    fuse.RENAME2, fuse.COPY_FILE_RANGE,
})  # fmt: skip
"""What a read-only share refuses; OPEN is refused by its flags."""
_WITHOUT_REPLY: Final = frozenset({fuse.FORGET, fuse.BATCH_FORGET, fuse.INTERRUPT})


class FileServer:
    """Serves one directory to one guest, by FUSE requests (docs/sharing.md).

    Any number of threads may call `handle`.  A request waits only for the host's disk, and for a
    lock if `waits` says so and it may: such a request needs a thread of its own, and at most
    `record_locks.WAITING` of them wait; the next one is refused.
    """

    def __init__(
        self,
        root: Path,
        *,
        read_only: bool,
        trouble: Callable[[str], None],
        exclusive: bool = False,
        locks: bool = False,
        xattrs: bool = True,
        owner: tuple[int, int] = (0, 0),
    ) -> None:
        """Serve the directory `root`.

        `trouble` is called with one line for the user, by any thread that calls `handle`.
        `exclusive` says that nothing else changes the files: the guest keeps them for as long as it
        likes, and writes them when it likes.  `locks` says that the host's programs see the guest's
        locks.  Without `xattrs` files have no extended attributes, and the guest does not ask for
        those of a program at each write.  `owner` is whom the files of the host's user belong to in
        the guest.  Raises ConfigError if `root` cannot be shared.
        """
        self._xattrs = xattrs
        self._share = Share(
            root,
            read_only=read_only,
            trouble=trouble,
            exclusive=exclusive,
            locks=locks,
            owner=owner,
        )

    def handle(
        self, request: Sequence[memoryview], reply: Sequence[memoryview], *, may_wait: bool = True
    ) -> int:
        """Answer one request of the guest; return how many bytes of `reply` were written.

        Without `may_wait` a request that `waits` is refused: the guest has changed it since.

        Both are parts of guest RAM.  It is 0 for a request without a reply, and for one that has no
        room for it.  Raises nothing for what a guest can send.
        """
        try:
            message = Request(request, reply)
        except ValueError:
            return 0
        opcode = message.opcode
        share = self._share
        try:
            if share.closed:
                raise refuse(errno.ENOTCONN)
            operation = _OPERATIONS.get(opcode)
            if operation is None:
                raise refuse(errno.ENOSYS)
            if opcode == fuse.SETLKW and not may_wait:
                raise refuse(errno.EINTR)
            if opcode in _XATTRS and not self._xattrs:
                raise refuse(errno.ENOSYS)
            if share.read_only and opcode in _CHANGES:
                raise refuse(errno.EROFS)
            answer = operation(share, message)
        except OSError as error:
            code = error.errno or errno.EIO
            share.report(error, message.nodeid)
            if code == errno.ENOSYS and opcode in _OPERATIONS and opcode not in _OPTIONAL:
                code = errno.EOPNOTSUPP  # after ENOSYS the guest would never ask again
        except (struct.error, ValueError, OverflowError):
            code = errno.EINVAL
        except MemoryError:
            code = errno.ENOMEM
        else:
            if answer is None:
                return 0
            if isinstance(answer, int):
                return message.answer_in_place(answer)
            return message.answer(answer)
        return 0 if opcode in _WITHOUT_REPLY else message.fail(code)

    @staticmethod
    def waits(request: Sequence[memoryview]) -> bool:
        """Say whether a request may wait for other requests, so that it needs its own thread."""
        head = b"".join([part[:8].tobytes() for part in request[:8]])[4:8]
        return int.from_bytes(head, "little") == fuse.SETLKW

    def end_waits(self) -> None:
        """End requests that wait; they are answered by EINTR."""
        self._share.record_locks.end_waits()

    def reset(self) -> None:
        """Close all files and forget what the guest knows, as when its device is reset."""
        if not self._share.closed:
            self._share.reset()

    def save(self) -> ShareState:
        """Return the state of the share; no thread may be in `handle`."""
        return save(self._share)

    def restore(self, state: ShareState) -> None:
        """Take over a saved state; files that are not there any more are stale from then on."""
        restore(self._share, state)

    def close(self) -> None:
        """Close all files; requests that come later fail, and those that wait for a lock end."""
        self._share.close()


_XATTRS: Final = frozenset({fuse.SETXATTR, fuse.GETXATTR, fuse.LISTXATTR, fuse.REMOVEXATTR})
_OPTIONAL: Final = _XATTRS | {fuse.FLUSH, fuse.SETLK, fuse.SETLKW, fuse.LSEEK}
"""What a share may be without: after ENOSYS the guest does not ask again."""
