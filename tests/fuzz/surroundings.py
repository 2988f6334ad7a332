"""A canary that fills all addresses around the windows of 16- and 32-bit code.

Such code reaches its window, and where a sum should wrap around, less than 1 GiB before it and less
than 9 GiB from its start.  There the host must fault.  Everything else between two windows shows
one file with nothing in it: reading or writing a byte of it allocates a page.
"""

from __future__ import annotations

import ctypes
import mmap
import os

from tests.fuzz.canary import Mapping

GIB = 1 << 30
_UNIT = 8 * GIB
_STRIDE, _GUARD = 104 * GIB, 40 * GIB
_AFTER, _BEFORE = 9 * GIB, GIB
_SIZE = _STRIDE - _AFTER - _BEFORE
_FIXED = 0x10
_NORESERVE = 0x4000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
)  # fmt: skip


class Surroundings:
    """The canary of a processor whose windows are in `arena`."""

    def __init__(self, arena: Mapping) -> None:
        first = arena.start + -arena.start % _UNIT + _GUARD
        self.windows = list(range(first, arena.end - _STRIDE, _STRIDE))
        self._fd = os.memfd_create("surroundings")
        os.ftruncate(self._fd, _SIZE)
        self.place()

    def place(self) -> None:
        """Put the canary where it is not: windows that were given back have removed it."""
        for window in self.windows:
            at = window + _AFTER
            flags = mmap.MAP_SHARED | _FIXED | _NORESERVE
            if _libc.mmap(at, _SIZE, mmap.PROT_READ | mmap.PROT_WRITE, flags, self._fd, 0) != at:
                raise OSError(ctypes.get_errno(), "no room for the canary")

    def touched(self) -> bool:
        """Whether something was read or written since the last question."""
        if not os.fstat(self._fd).st_blocks:
            return False
        os.ftruncate(self._fd, 0)
        os.ftruncate(self._fd, _SIZE)
        return True

    def close(self) -> None:
        """Release the file; the addresses end with the process."""
        os.close(self._fd)
