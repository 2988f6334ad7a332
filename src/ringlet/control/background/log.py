"""The log of a machine's console: two files of a bounded size, the older of which is replaced."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

MAX_LOG: Final = 16 << 20
"""Bytes of a console's output that are kept, at most, on the host's disk."""
LOG: Final = "console.log"
OLDER: Final = "console.log.1"

_HALF: Final = MAX_LOG // 2
_PIECE: Final = 1 << 16
_LOOK_AGAIN_S: Final = 0.1


class Log:
    """Writes to the log in `directory`.  Any thread may call it.

    A disk that is full loses output, and stops no guest.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / LOG
        self._older = directory / OLDER
        self._lock = threading.Lock()
        self._size = 0
        self._fd = self._open()

    def __call__(self, data: bytes) -> None:
        """Append `data`."""
        with self._lock:
            view = memoryview(data)
            while view and self._fd >= 0:
                if self._size >= _HALF:
                    self._rotate()
                part = view[: _HALF - self._size]
                with contextlib.suppress(OSError):  # no room: this part is lost
                    os.write(self._fd, part)
                self._size += len(part)
                view = view[len(part) :]

    def close(self) -> None:
        """Close the file; what is written later is lost."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
            self._fd = -1

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(self._path, flags, 0o600)

    def _rotate(self) -> None:
        self._size = 0
        with contextlib.suppress(OSError):  # then the file goes on from its beginning
            self._path.replace(self._older)
            fd = self._open()
            os.close(self._fd)
            self._fd = fd
            return
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, 0)


def read_log(
    directory: Path, follow: Callable[[], bool] | None = None, lines: int | None = None
) -> Iterator[bytes]:
    """Yield what the log has; with `follow`, also what comes as long as it returns True.

    With `lines`, of what the log has now no more than so many lines at its end.  A reader that is
    slower than half of the log's size is told nothing of what was replaced.
    """
    parts = _parts(directory, follow)
    if lines is not None:
        yield _last_lines(_until_pause(parts), lines)
    yield from filter(None, parts)


def _until_pause(parts: Iterator[bytes]) -> bytes:
    """Return what is there now, which is bounded, however fast the guest prints."""
    there = bytearray()
    for part in parts:
        there += part
        if not part or len(there) >= MAX_LOG:
            break
    return bytes(there)


def _last_lines(data: bytes, lines: int) -> bytes:
    """Return the last lines of `data`; the last one need not have an end."""
    start = len(data)
    for _ in range(lines):
        start = data.rfind(b"\n", 0, max(start - 1, 0)) + 1
        if not start:
            return data
    return data[start:]


def _parts(directory: Path, follow: Callable[[], bool] | None) -> Iterator[bytes]:
    """Yield the log in parts, and an empty one when it is read to its end for now."""
    current = _opened(directory / LOG)
    try:
        older = _opened(directory / OLDER)
        if older >= 0:
            try:
                if current < 0 or not os.path.sameopenfile(older, current):
                    yield from _rest(older)
            finally:
                os.close(older)
        while True:
            goes_on = follow is not None and follow()  # asked first: what comes later is read
            if current >= 0:
                yield from _rest(current)
            new = _opened(directory / LOG)
            if new >= 0 and (current < 0 or not os.path.sameopenfile(new, current)):
                if current >= 0:
                    yield from _rest(current)
                    os.close(current)
                current = new
                continue
            if new >= 0:
                os.close(new)
            if not goes_on:
                return
            yield b""
            time.sleep(_LOOK_AGAIN_S)
    finally:
        if current >= 0:
            os.close(current)


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return -1


def _rest(fd: int) -> Iterator[bytes]:
    while data := os.read(fd, _PIECE):
        yield data
