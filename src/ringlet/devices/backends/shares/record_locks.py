"""The record locks that processes of the guest hold on the host's files."""

import errno
import os
import threading
from collections.abc import Callable
from typing import Final

from ringlet.devices.backends.shares.inodes import Descriptor, Inode
from ringlet.devices.backends.shares.messages import full, refuse

OWNERS: Final = 1024
"""The most pairs of a file and a process of the guest that have record locks."""
WAITING: Final = 64
"""The most requests that wait for a lock."""
_AGAIN_SECONDS: Final = 0.02


class RecordLocks:
    """An open file for each pair of a file and an owner: locks of one do not exclude its own.

    `reopen` opens an inode's descriptor anew, with flags.  Any thread may call it.
    """

    def __init__(self, reopen: Callable[[Descriptor, int], int], *, read_only: bool) -> None:
        self._reopen = reopen
        self._read_only = read_only
        self._open: dict[tuple[int, int], Descriptor] = {}
        self._released = threading.Condition()
        self._waiting: dict[int, bool] = {}
        self.era = 0
        """How often all waits were ended: what began in an earlier era must not wait."""

    def file(self, inode: Inode, owner: int, descriptor: Descriptor) -> Descriptor:
        """Return the open file for the locks of `owner`; `descriptor` is one of the inode."""
        found = self._open.get((inode.nodeid, owner))
        if found is not None:
            return found
        if len(self._open) >= OWNERS:
            raise full(errno.ENOLCK)
        made = Descriptor(self._writable(descriptor))
        with self._released:
            return self._open.setdefault((inode.nodeid, owner), made)

    def _writable(self, descriptor: Descriptor) -> int:
        if not self._read_only:
            try:
                return self._reopen(descriptor, os.O_RDWR)
            except OSError as error:
                if error.errno not in {errno.EACCES, errno.EROFS, errno.EPERM}:
                    raise
        return self._reopen(descriptor, os.O_RDONLY)  # shared locks alone

    def drop(self, inode: Inode, owner: int) -> None:
        """Give back all locks of an owner on a file."""
        if self._open.pop((inode.nodeid, owner), None) is not None:
            self.released()

    def released(self) -> None:
        """Let those that wait try again, because a lock was given back."""
        with self._released:
            self._released.notify_all()

    def wait(self, unique: int, era: int, attempt: Callable[[], None]) -> None:
        """Call `attempt` until it raises no BlockingIOError; other errors end the wait.

        `unique` names the request, for `interrupt`; `era` is when it looked for its file.
        """
        with self._released:
            if era != self.era:
                raise refuse(errno.EINTR)
            if len(self._waiting) >= WAITING or unique in self._waiting:
                raise full(errno.ENOLCK)
            self._waiting[unique] = True
        try:
            while True:
                try:
                    return attempt()
                except BlockingIOError:
                    with self._released:
                        if self._waiting[unique]:
                            self._released.wait(_AGAIN_SECONDS)
                        if not self._waiting[unique]:
                            raise refuse(errno.EINTR) from None
        finally:
            with self._released:
                del self._waiting[unique]

    def interrupt(self, unique: int) -> None:
        """End the wait of a request, if it waits."""
        with self._released:
            if unique in self._waiting:
                self._waiting[unique] = False
                self._released.notify_all()

    def end_waits(self) -> None:
        """End all waits that are under way, and those of requests that are about to wait."""
        with self._released:
            self.era += 1
            for unique in self._waiting:
                self._waiting[unique] = False
            self._released.notify_all()

    def clear(self) -> None:
        """Give back all locks, and end all waits."""
        with self._released:
            self._open.clear()
        self.end_waits()
