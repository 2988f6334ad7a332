"""Failures of the host's files: what the guest gets, and what the user is told."""

import errno
import os
import time
from pathlib import Path
from typing import Final

from ringlet.devices.backends.disks.interface import ROOM_SECONDS, Trouble
from ringlet.errors import remedy

SHORTENED: Final = errno.ESTALE
"""Stands for a file that has become shorter than it was; the guest gets EIO."""

QUIET_SECONDS: Final = 60.0
"""A lack of room is told again when there was none of it for so long."""

_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Troubles:
    """Tells the user about the failures of one disk, each kind once, but a lack of room again."""

    def __init__(self, path: Path, trouble: Trouble) -> None:
        self._path = path
        self._trouble = trouble
        self._seen: dict[int, float] = {}
        self._removed = False

    def of(self, error: OSError) -> int:
        """Tell the user about `error` and return the errno for the guest."""
        code = error.errno or errno.EIO
        now = time.monotonic()
        before = self._seen.get(code)
        self._seen[code] = now
        if before is None or (code in _FULL and now - before > QUIET_SECONDS):
            self.tell(self._explain(code))
        return errno.ENOSPC if code in _FULL else errno.EIO

    def tell(self, what: str) -> None:
        """Tell the user something about the disk, in one line."""
        self._trouble(f"disk {self._path}: {what}")

    def look(self, fd: int) -> None:
        """Tell the user if the disk's file, open as `fd`, has no name any more: it will be lost."""
        if not self._removed and not os.fstat(fd).st_nlink:
            self._removed = True
            self.tell("the file was removed; what the guest writes is lost when it ends")

    def _explain(self, code: int) -> str:
        if code == SHORTENED:
            return "the file has become shorter; the guest gets I/O errors behind its end"
        if code == errno.EPERM:
            return "the guest writes a qcow2 header; if it may do that, add ,format=raw"
        what = os.strerror(code)
        if code in _FULL:
            advice = remedy(OSError(code, "")) or "make room on its file system"
            return (
                f"{what}: {advice}; the guest's writes wait for {ROOM_SECONDS:g} s, then it gets "
                "I/O errors"
            )
        limit = remedy(OSError(code, ""))
        return f"{what}; the guest gets I/O errors" + (f"; {limit}" if limit else "")
