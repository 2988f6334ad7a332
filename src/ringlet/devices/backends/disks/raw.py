"""A disk that is a file of the same bytes, or a block device.

What the host's page cache can do at once is done by the thread that submits: a read of cached
bytes takes 2 us there, and 50 us when it must wake a thread.  A short request that is alone is
performed there too: nothing else waits for that thread.  Everything else goes to the pool.
"""

import contextlib
import errno
import itertools
import os
import time
from typing import Final

from ringlet.devices.backends.disks import pieces, streams, syscalls, vectors
from ringlet.devices.backends.disks.around import WriteAround
from ringlet.devices.backends.disks.image_file import ImageFile
from ringlet.devices.backends.disks.interface import (
    DROPPED,
    SECTOR,
    Operation,
    Request,
    Trouble,
    refusal,
)
from ringlet.devices.backends.disks.pauses import Pause
from ringlet.devices.backends.disks.pool import Gate, Pool
from ringlet.devices.backends.disks.qcow2 import MAGIC
from ringlet.devices.backends.disks.troubles import Troubles

AT_ONCE: Final = 1 << 16
"""The most bytes that the submitting thread writes itself, or waits for."""
AROUND_AT_ONCE: Final = 1 << 20
"""The most bytes that it writes to a disk that is known to be fast: some milliseconds at most."""
SLOW_NS: Final = 10_000_000
"""A write that takes longer was held up: the page cache has too much to write back.  Less than the
host's scheduler may keep a thread waiting would mean nothing."""
PAUSE_NS: Final = 5_000_000
"""How long all writes then go to the pool; twice as long each time, until one is fast again."""
LONGEST_PAUSE_NS: Final = 1_000_000_000
_PAGE: Final = 4096
_UNABLE: Final = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENOTTY)


class RawDisk:
    """The disk in `image`, which it closes.

    With `guarded` it refuses a write that would make the image look like qcow2: a guest could
    name any file of the host as the backing file, and would read it in the next run if the user
    does not say the format then either.  QEMU does the same (block/raw-format.c).
    """

    def __init__(self, image: ImageFile, trouble: Trouble, *, guarded: bool = False) -> None:
        self.size = image.size
        self.read_only = image.read_only
        self.sector = image.sector
        self.discards = not image.read_only
        self.identity = image.identity
        self._image = image
        self._fd = image.fd
        self._end = image.end
        self._troubles = Troubles(image.path, trouble)
        self._gate = Gate()
        self._pool = Pool(f"disk {image.path.name}", trouble)
        self._reads_cached = True
        self._guarded = guarded
        self._pause = Pause(PAUSE_NS, LONGEST_PAUSE_NS)
        self._durability = Durability(image)
        self._ahead = streams.ReadAhead()
        self._advising = False
        self._around = WriteAround(image)

    def submit(self, request: Request) -> None:
        """Begin `request` (`Disk.submit`)."""
        if code := self._gate.enter():
            request.done(code)
            return
        if code := refusal(request, self.size, self.read_only):
            self._finish(request, code)
        elif not self._at_once(request) and not self._put_off(request):
            try:
                self._pool.call(lambda: self._finish(request, self._perform(request)))
            except RuntimeError:  # no thread can be started
                self._finish(request, self._perform(request))

    def _at_once(self, request: Request) -> bool:
        """Perform `request` if the thread need not wait for it, or may, and say so."""
        if request.alone and self._short(request):
            self._finish(request, self._perform(request))
            return True
        match request.operation:
            case Operation.READ:
                if request.length >= streams.LARGE:
                    self._read_ahead(request)
                return self._read_cached(request)
            case Operation.WRITE:
                return self._write_cached(request)
            case Operation.FLUSH if self._durability.clean:
                self._finish(request, 0)
                return True
            case _:
                return False

    def _short(self, request: Request) -> bool:
        if request.operation is Operation.FLUSH:
            return not self._durability.clean and self._durability.unflushed <= AT_ONCE
        if (
            request.operation is Operation.WRITE
            and self._around.fast
            and self._around.takes(request.offset, request.length)
        ):
            return request.length <= AROUND_AT_ONCE
        return request.operation in {Operation.READ, Operation.WRITE} and (
            request.length <= AT_ONCE
        )

    def _read_cached(self, request: Request) -> bool:
        if not self._reads_cached or request.length > pieces.DATA:
            return False
        try:
            count = vectors.read_cached(self._fd, request.buffers, request.offset)
        except OSError as error:
            self._reads_cached = error.errno not in _UNABLE
            return False  # the pool reads again and reports what it finds
        if count < request.length:
            return False
        self._finish(request, 0)
        return True

    def _put_off(self, request: Request) -> bool:
        """Have the host begin a short read that is one of many, which is then waited for in turn.

        A thread for each costs more than the read.
        """
        if request.later is None or request.operation is not Operation.READ:
            return False
        if request.length > AT_ONCE:
            return False
        with contextlib.suppress(OSError):
            os.posix_fadvise(self._fd, request.offset, request.length, os.POSIX_FADV_WILLNEED)
        request.later(lambda: self._finish(request, self._perform(request)))
        return True

    def _read_ahead(self, request: Request) -> None:
        """Have the host read what will be asked for; it may refuse, and nothing is lost.

        It is asked for one thing at a time, so that a slow one does not collect them.
        """
        wanted = self._ahead.after(request.offset, request.length, ask=not self._advising)
        if wanted is None:
            return

        def advise() -> None:
            with contextlib.suppress(OSError):
                for offset, length in pieces.cut(*wanted, streams.PIECE):
                    os.posix_fadvise(self._fd, offset, length, os.POSIX_FADV_WILLNEED)
            self._advising = False

        self._advising = True
        try:
            self._pool.call(advise)
        except RuntimeError:  # no thread can be started
            self._advising = False

    def _write_cached(self, request: Request) -> bool:
        """Write whole pages to the page cache, which needs no reads and rarely waits."""
        if (
            request.length > AT_ONCE
            or (request.offset | request.length) % _PAGE
            or request.fua
            or not self._pause.over
        ):
            return False
        began = time.monotonic_ns()
        code = self._perform(request)
        self._pause.note(slow=time.monotonic_ns() - began > SLOW_NS)
        self._finish(request, code)
        return True

    def _finish(self, request: Request, code: int) -> None:
        try:
            request.done(code)
        finally:
            self._gate.leave()

    def _perform(self, request: Request) -> int:
        """Perform `request`, waiting if necessary, and return its errno."""
        if not request.length and request.operation is not Operation.FLUSH:
            return 0
        try:
            pieces.check(request)
            match request.operation:
                case Operation.READ:
                    for offset, buffers in pieces.of_data(request, request.buffers):
                        vectors.read(self._fd, buffers, offset, self._end)
                case Operation.WRITE:
                    self._write(request)
                case Operation.FLUSH:
                    self._durability.flush()
                    self._look()
                case Operation.DISCARD:
                    self._discard(request)
                case Operation.WRITE_ZEROES:
                    self._write_zeros(request)
        except OSError as error:
            return DROPPED if error.errno == DROPPED else self._troubles.of(error)
        return 0

    def _write(self, request: Request) -> None:
        buffers = request.buffers
        if self._guarded and request.offset < len(MAGIC):
            # The guest can change its RAM between the check and the write, so a copy is written.
            first = vectors.copy(vectors.part(buffers, 0, SECTOR))
            if request.offset or first.startswith(MAGIC):
                raise OSError(errno.EPERM, "it would look like qcow2")
            buffers = [memoryview(first), *vectors.rest(buffers, len(first))]
        left, durable = request.length, request.fua
        for offset, some in pieces.of_data(request, buffers):
            length = min(left, pieces.DATA)
            if not self._around.write(some, offset, length, durable=durable):
                vectors.write(self._fd, some, offset, durable=durable)
            left -= length
        self._durability.wrote(request.length)

    def _discard(self, request: Request) -> None:
        if not self.discards:
            return
        try:
            for offset, length in pieces.of_range(request, request.offset, request.length):
                syscalls.punch_hole(self._fd, offset, length)
        except OSError as error:
            if error.errno not in _UNABLE:
                raise
            self.discards = False
        self._durability.wrote(request.length)

    def _write_zeros(self, request: Request) -> None:
        zero = syscalls.punch_hole if request.unmap else syscalls.zero_range
        for offset, length in pieces.of_range(request, request.offset, request.length):
            try:
                zero(self._fd, offset, length)
            except OSError as error:
                if error.errno not in _UNABLE:
                    raise
                for at, some in pieces.of_range(request, offset, length, pieces.DATA):
                    vectors.write_zeros(self._fd, at, some)
        self._durability.wrote(request.length)

    def _look(self) -> None:
        if not self.read_only and not self._image.temporary:
            self._troubles.look(self._fd)

    def close(self) -> None:
        """Wait for requests, flush and close (`Disk.close`)."""
        if not self._gate.close():
            return
        self._pool.close()
        self._look()
        if not self.read_only and not self._durability.clean:
            try:
                self._durability.flush()
            except OSError as error:
                self._troubles.of(error)
        self._around.close()
        self._image.close()


class Durability:
    """Knows whether something was written to a file since it was last flushed.

    A flush that fails may have lost what it should have written, and the next one would succeed:
    so all later ones fail too.
    """

    def __init__(self, image: ImageFile) -> None:
        self._image = image
        self._marks = itertools.count(1)
        self._written = 0
        self._flushed = -1
        self._failure = 0
        self.unflushed = 0
        """About how many bytes were written since the last flush: how long the next may take."""

    def wrote(self, length: int) -> None:
        """Note that `length` bytes were written, before anyone is told."""
        self.unflushed += length
        self._written = next(self._marks)  # a mark is set once, so no two threads set the same

    @property
    def clean(self) -> bool:
        """Whether all that was written is durable."""
        return self._flushed == self._written and not self._failure

    def flush(self) -> None:
        """Make durable all that was written before.  Raises OSError."""
        written = self._written
        self.unflushed = 0
        if not self._failure:
            try:
                self._image.sync()
            except OSError as error:
                self._failure = error.errno or errno.EIO
        if self._failure:
            raise OSError(self._failure, "a flush failed")
        self._flushed = written
