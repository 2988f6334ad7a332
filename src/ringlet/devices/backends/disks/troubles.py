"""Failures of the host's files: what the guest gets, and what the user is told."""

import errno
import os
from pathlib import Path
from typing import Final

from ringlet.devices.backends.disks.interface import Trouble
from ringlet.errors import remedy

SHORTENED: Final = errno.ESTALE
"""Stands for a file that has become shorter than it was; the guest gets EIO."""

_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Troubles:
    """Tells the user about the failures of one disk, each kind once."""

    def __init__(self, path: Path, trouble: Trouble) -> None:
        self._path = path
        self._trouble = trouble
        self._told: set[int] = set()

    def of(self, error: OSError) -> int:
        """Tell the user about `error` and return the errno for the guest."""
        code = error.errno or errno.EIO
        if code not in self._told:
            self._told.add(code)
            self._trouble(f"disk {self._path}: {self._explain(code)}")
        return errno.ENOSPC if code in _FULL else errno.EIO

    def _explain(self, code: int) -> str:
        if code == SHORTENED:
            return "the file has become shorter; the guest gets I/O errors behind its end"
        if code == errno.EPERM:
            return "the guest writes a qcow2 header; if it may do that, add ,format=raw"
        what = f"{os.strerror(code)}; the guest gets I/O errors"
        if code in (errno.ENOSPC, errno.EDQUOT):
            return f"{what} until there is room on the file system"
        limit = remedy(OSError(code, ""))
        return f"{what}; {limit}" if limit else what
