"""Writes a serial port's output unchanged to a file descriptor."""

import errno
import os
import select
from typing import Final

from ringlet.errors import OutputError, ReaderGoneError

_STANDARD: Final = (1, 2)


class FdSink:
    """Writes all data to `fd` at once.

    Messages call the file `name`.  Raises OutputError if the reader is gone or the disk is full.
    `mid_line` says whether the last byte was not the end of a line.
    """

    def __init__(self, fd: int, name: str = "standard output") -> None:
        self._fd = fd
        self._name = name
        self.mid_line = False

    def __call__(self, data: bytes) -> None:
        self.mid_line = not data.endswith(b"\n")
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(self._fd, left) :]
            except OSError as error:
                self._explain(error)

    def _explain(self, error: OSError) -> None:
        match error.errno:
            case errno.EAGAIN:  # another process made the terminal non-blocking
                select.select([], [self._fd], [])
            case errno.EPIPE:
                kind = ReaderGoneError if self._fd in _STANDARD else OutputError
                raise kind(f"{self._name} was closed by its reader") from error
            case errno.EBADF:
                raise OutputError(f"{self._name} is closed") from error
            case _:
                raise OutputError(f"cannot write {self._name}: {error.strerror}") from error
