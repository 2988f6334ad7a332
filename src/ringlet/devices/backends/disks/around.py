"""Large writes around the host's page cache.

The page cache takes about a millisecond of processor time for 1 MiB, to copy it and to write it
back; a fast disk takes less.  A slow one is left to the page cache, which is faster until it is
full.  Linux keeps both ways to a file coherent.
"""

import contextlib
import errno
import os
import stat
import threading
import time
from typing import Final

from ringlet.devices.backends.disks import vectors
from ringlet.devices.backends.disks.image_file import ImageFile
from ringlet.devices.backends.disks.pauses import Pause
from ringlet.devices.backends.file_systems import file_system

LARGE: Final = 1 << 17
"""The least length in bytes of such a write."""
SLOW: Final = 200_000_000
"""A disk that writes fewer bytes a second is left to the page cache."""
PAUSE_NS: Final = 1_000_000_000
"""After this time such a disk is tried again; after twice the time whenever it is still slow."""
LONGEST_PAUSE_NS: Final = 60_000_000_000
_WINDOW: Final = 1 << 24
"""Its speed is that of so many bytes: a single write may wait for the host's scheduler."""
_LONG_NS: Final = 200_000_000
"""A disk that has not written so much in this time is slow."""
_ALIGNMENT: Final = 4096
"""What offset and length must be multiples of: the largest block of disks."""
_FILE_SYSTEMS: Final = ("ext4", "XFS", "F2FS")
"""Others copy the data anyway, or checksum what the guest may change meanwhile (Btrfs)."""


class WriteAround:
    """Writes large pieces of `image` around the page cache while that is faster."""

    def __init__(self, image: ImageFile) -> None:
        self._fd = -1 if image.read_only or image.temporary else _open(image.fd)
        self._under_way = 0
        self._began = 0
        self._pause = Pause(PAUSE_NS, LONGEST_PAUSE_NS)
        self.fast = False
        """Whether the last measurement found the disk fast."""
        self._written = 0
        self._spent = 0
        self._lock = threading.Lock()

    def write(
        self, buffers: list[memoryview], offset: int, length: int, *, durable: bool = False
    ) -> bool:
        """Write `buffers`, with `durable` as far as a power cut's reach, or return False.

        Raises OSError.
        """
        if not self.takes(offset, length):
            return False
        self._enter()
        done = 0
        try:
            vectors.write(self._fd, buffers, offset, durable=durable)
            done = length
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # The buffers are not aligned to the disk's blocks.
        finally:
            self._leave(done)
        return bool(done)

    def takes(self, offset: int, length: int) -> bool:
        """Return whether `write` would take so much there."""
        return (
            self._fd >= 0
            and length >= LARGE
            and not (offset | length) % _ALIGNMENT
            and self._pause.over
        )

    def _enter(self) -> None:
        """Note that a write begins."""
        now = time.monotonic_ns()
        with self._lock:
            if not self._under_way:
                self._began = now
            self._under_way += 1

    def _leave(self, length: int) -> None:
        """Note that `length` bytes were written, and from time to time how fast."""
        now = time.monotonic_ns()
        with self._lock:
            self._under_way -= 1
            self._written += length
            self._spent += now - self._began  # in which there was something to write
            self._began = now
            if self._written >= _WINDOW or self._spent > _LONG_NS:
                self.fast = self._spent * SLOW <= self._written * 1_000_000_000
                self._pause.note(slow=not self.fast)
                self._written = self._spent = 0

    def close(self) -> None:
        """Close the second descriptor of the file."""
        if self._fd >= 0:
            os.close(self._fd)


def _open(fd: int) -> int:
    """Return another descriptor of a file, for direct I/O, or -1."""
    with contextlib.suppress(OSError):
        if stat.S_ISBLK(os.fstat(fd).st_mode) or file_system(fd) in _FILE_SYSTEMS:
            return os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
    return -1
