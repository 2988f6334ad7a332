"""A disk whose writes go to a temporary file, over another disk that is only read.

The disk consists of clusters of `CLUSTER` bytes.  A byte for each says where its data is: below, in
the other disk, or here.  A cluster that has come here stays here.  The first write to a cluster
*claims* it; a write that would claim a claimed cluster waits until that one has come here.  What a
first write leaves of its first and last cluster is copied from below before.

The file disappears with the process, so nothing needs to be durable: a flush has nothing to do.
A discard makes a hole in the file, whatever is here of it: what is below stays as it is.
"""

import mmap
import threading
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final

from ringlet.config import format_size
from ringlet.devices.backends.disks import vectors
from ringlet.devices.backends.disks.image_file import ImageFile
from ringlet.devices.backends.disks.interface import (
    DROPPED,
    Disk,
    Operation,
    Request,
    Trouble,
    refusal,
)
from ringlet.devices.backends.disks.pool import Countdown, Gate, Pool
from ringlet.devices.backends.disks.raw import RawDisk
from ringlet.errors import DiskError

CLUSTER: Final = 4096
LARGEST: Final = 1 << 44
"""The largest disk that can have an overlay, in bytes; its map takes 4 GiB of addresses."""
FEW: Final = 8
"""The most parts of a read, here and below, that are all begun at once."""
ROUND: Final = 64
"""The most parts of a longer read that one thread has begun, and then waits for."""
_NO_RESERVE: Final = 0x4000  # MAP_NORESERVE, which Python has from 3.13 on
_BELOW: Final = b"\0"
_HERE: Final = b"\1"

_Range = tuple[int, int]
_Run = tuple[bool, int, int]
"""A part of a request that is in one place: here or not, start and length in bytes."""


class Overlay:
    """The disk `below` with writes to `scratch`; it closes both."""

    def __init__(self, below: Disk, scratch: ImageFile, trouble: Trouble) -> None:
        self.size = below.size
        self.read_only = False
        self.sector = below.sector
        self.discards = True
        self.identity = below.identity
        self._below = below
        self._here = RawDisk(scratch, trouble)
        self._map = _new_map(below.size, scratch)
        self._pool = Pool(f"overlay {below.identity}", trouble)
        self._gate = Gate()
        self._lock = threading.Lock()
        self._claims: list[_Range] = []
        self._waiting: list[Request] = []

    def submit(self, request: Request) -> None:
        """Begin `request` (`Disk.submit`)."""
        if code := refusal(request, self.size, self.read_only):
            request.done(code)
        elif request.operation is Operation.FLUSH or not request.length:
            request.done(0)
        elif request.operation is Operation.READ:
            self._read(request)
        elif request.operation is Operation.DISCARD:
            self._discard(request)
        elif code := self._gate.enter():
            request.done(code)
        else:
            self._write(request)

    def _read(self, request: Request) -> None:
        first, end = _clusters(request)
        if self._map.find(_HERE, first, end) < 0:
            self._below.submit(request)
        elif self._map.find(_BELOW, first, end) < 0:
            self._here.submit(request)
        else:
            self._read_both(request)

    def _read_both(self, request: Request) -> None:
        """Read what is here and what is below: no disk gets more requests than it takes."""
        few = list(islice(self._runs(request), FEW + 1))
        if len(few) <= FEW:
            self._split(request, few, request.done)
        elif code := self._gate.enter():
            request.done(code)
        else:
            try:
                self._pool.call(lambda: self._read_in_rounds(request))
            except RuntimeError:  # no thread can be started
                self._read_in_rounds(request)

    def _read_in_rounds(self, request: Request) -> None:
        runs = self._runs(request)
        code = 0
        while not code and (some := list(islice(runs, ROUND))):
            code = DROPPED if request.session.over else self._round(request, some)
        self._finish(request, code)

    def _round(self, request: Request, runs: list[_Run]) -> int:
        """Read `runs`, which follow one another; return the first errno or 0."""
        begin, end = runs[0][1], runs[-1][1] + runs[-1][2]
        buffers = vectors.part(request.buffers, begin - request.offset, end - begin)
        ended = _Ended()
        part = Request(
            Operation.READ, begin, end - begin, buffers, ended, session=request.session
        )
        self._split(part, runs, ended)
        return ended.wait()

    def _discard(self, request: Request) -> None:
        first, end = _clusters(request)
        if self._map.find(_HERE, first, end) < 0:
            request.done(0)
        else:
            self._here.submit(request)

    def _runs(self, request: Request) -> Iterator[_Run]:
        """Yield the parts of `request` that are in one place."""
        at, last = _clusters(request)
        stop = request.offset + request.length
        while at < last:
            here = self._map[at] == _HERE[0]
            end = self._map.find(_BELOW if here else _HERE, at, last)
            end = last if end < 0 else end
            start = max(at * CLUSTER, request.offset)
            yield here, start, min(end * CLUSTER, stop) - start
            at = end

    def _split(self, request: Request, runs: list[_Run], done: Callable[[int], None]) -> None:
        """Have each of `runs` read where it is."""
        left = Countdown(len(runs))

        def ended(code: int) -> None:
            if (first := left.count(code)) is not None:
                done(first)

        for here, start, length in runs:
            buffers = vectors.part(request.buffers, start - request.offset, length)
            disk = self._here if here else self._below
            disk.submit(
                Request(Operation.READ, start, length, buffers, ended, session=request.session)
            )

    def _write(self, request: Request) -> None:
        first, end = _clusters(request)
        if self._map.find(_BELOW, first, end) < 0:
            self._pass_on(request, lambda code: self._finish(request, code))
            return
        with self._lock:
            # Another write may have brought the clusters here by now; to claim them is harmless.
            if any(first < last and begin < end for begin, last in self._claims):
                self._waiting.append(request)
                return
            self._claims.append((first, end))
        edges = list(self._edges(request))
        if not edges:
            self._pass_on(request, lambda code: self._arrived(request, code))
            return
        try:
            self._pool.call(lambda: self._copy_and_write(request, edges))
        except RuntimeError:  # no thread can be started
            self._copy_and_write(request, edges)

    def _pass_on(self, request: Request, done: Callable[[int], None]) -> None:
        """Write here; holes read as zeros, and nothing else needs room."""
        self._here.submit(
            Request(
                request.operation, request.offset, request.length, request.buffers, done,
                unmap=True, session=request.session,
            )
        )  # fmt: skip

    def _edges(self, request: Request) -> Iterator[tuple[int, int]]:
        """Yield the start and length of what must be copied from below around `request`."""
        start, stop = request.offset, request.offset + request.length
        first, end = _clusters(request)
        if start % CLUSTER and self._map[first] == _BELOW[0]:
            yield first * CLUSTER, start - first * CLUSTER
        limit = min(end * CLUSTER, self.size)
        if stop < limit and self._map[end - 1] == _BELOW[0]:
            yield stop, limit - stop

    def _copy_and_write(self, request: Request, edges: list[tuple[int, int]]) -> None:
        for start, length in edges:
            if code := self._copy(request, start, length):
                self._arrived(request, code)
                return
        self._pass_on(request, lambda code: self._arrived(request, code))

    def _copy(self, request: Request, start: int, length: int) -> int:
        """Copy a part of a cluster from below and return an errno or 0."""
        data = [memoryview(bytearray(length))]
        for disk, operation in ((self._below, Operation.READ), (self._here, Operation.WRITE)):
            if request.session.over:
                return DROPPED
            ended = _Ended()
            disk.submit(
                Request(operation, start, length, data, ended, session=request.session)
            )
            if code := ended.wait():
                return code
        return 0

    def _arrived(self, request: Request, code: int) -> None:
        """End the claim of `request` and begin what waited for it."""
        first, end = _clusters(request)
        with self._lock:
            if not code:
                self._map[first:end] = _HERE * (end - first)
            self._claims.remove((first, end))
            waiting, self._waiting = self._waiting, []
        self._finish(request, code)
        for other in waiting:
            self._write(other)

    def _finish(self, request: Request, code: int) -> None:
        try:
            request.done(code)
        finally:
            self._gate.leave()

    def close(self) -> None:
        """Wait for requests and close both disks (`Disk.close`)."""
        if self._gate.close():
            self._pool.close()
            self._here.close()
            self._below.close()


def _clusters(request: Request) -> _Range:
    """Return the first cluster that `request` touches, and the one behind the last."""
    return request.offset // CLUSTER, -(-(request.offset + request.length) // CLUSTER)


def _new_map(size: int, scratch: ImageFile) -> mmap.mmap:
    """Return the map of a disk of `size` bytes; only what is written of it takes memory."""
    if size > LARGEST:
        raise DiskError(
            f"disk {scratch.path}: {format_size(size)} is too large for a snapshot; "
            f"at most {format_size(LARGEST)}"
        )
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE
    return mmap.mmap(-1, -(-size // CLUSTER), flags=flags)


class _Ended:
    """The end of a request, to wait for."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._code = 0

    def __call__(self, code: int) -> None:
        self._code = code
        self._event.set()

    def wait(self) -> int:
        """Return the errno with which it ended, or 0."""
        self._event.wait()
        return self._code
