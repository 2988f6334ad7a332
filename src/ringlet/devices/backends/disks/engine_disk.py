"""A disk that an engine serves."""

import contextlib
import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ringlet.devices.backends.disks import vectors, vhost
from ringlet.devices.backends.disks.engine import PROGRAM, Engine
from ringlet.devices.backends.disks.interface import (
    DROPPED,
    SECTOR,
    Operation,
    Request,
    Trouble,
    refusal,
)
from ringlet.devices.backends.disks.pool import Gate
from ringlet.devices.backends.disks.troubles import Troubles
from ringlet.errors import DiskError, remedy

CLOSING: Final = 60.0
"""Seconds for the engine to finish what it has when the disk is closed."""
PARTS: Final = 8
"""The most parts of one request that the engine has, or that wait for it."""
LARGEST_RANGE: Final = 1 << 24
"""The most bytes of one part that is only a range; the engine says so too."""
_NEEDED: Final = vhost.CAN_FLUSH | vhost.CAN_WRITE_ZEROES
_FULL: Final = 1 << 20
"""A file system with fewer free bytes is full: the engine only says that a write has failed."""
_FULL_SECONDS: Final = 2.0
"""For so long after it was full, writes that failed before there was room may be answered."""

_KINDS: Final = {
    Operation.READ: vhost.READ,
    Operation.WRITE: vhost.WRITE,
    Operation.FLUSH: vhost.FLUSH,
    Operation.DISCARD: vhost.DISCARD,
    Operation.WRITE_ZEROES: vhost.WRITE_ZEROES,
}


class EngineDisk:
    """The disk that `engine` serves; closing it ends the engine."""

    def __init__(
        self, engine: Engine, path: Path, identity: str, trouble: Trouble, *, read_only: bool
    ) -> None:
        self._engine = engine
        self._path = path
        self._trouble = trouble
        self._troubles = Troubles(path, trouble)
        self._gate = Gate()
        self._gone = False
        self._full_until = 0.0
        try:
            self._client = vhost.Client(engine.connection, self._lost, f"disk {path.name}")
        except (vhost.ProtocolError, OSError) as error:
            engine.connection.close()
            engine.kill()
            engine.end(CLOSING)
            raise DiskError(f"disk {path}: cannot use {PROGRAM}: {_reason(error)}") from error
        export = self._client.export
        self.size = export.size
        self.read_only = read_only
        self.sector = SECTOR
        self.discards = not read_only and bool(
            export.features & vhost.CAN_DISCARD and export.most_discarded
        )
        self.identity = identity
        self._most = {
            Operation.DISCARD: min(export.most_discarded, LARGEST_RANGE),
            Operation.WRITE_ZEROES: min(export.most_zeroed, LARGEST_RANGE),
        }
        if not read_only and (export.features & _NEEDED != _NEEDED or not export.most_zeroed):
            self._client.close()
            engine.kill()
            engine.end(CLOSING)
            raise DiskError(f"disk {path}: this version of {PROGRAM} is too old")
        self._name = -1
        with contextlib.suppress(OSError):  # then nobody is told should the file be removed
            self._name = os.open(path, os.O_PATH | os.O_CLOEXEC)

    @property
    def engine_process(self) -> int:
        """The engine's process."""
        return self._engine.process.pid

    def _lost(self, reason: str) -> None:
        words = self._engine.last_words() or reason
        self._gone = True
        self._engine.kill()  # it may have broken the protocol, and live
        self._trouble(
            f"disk {self._path}: {PROGRAM} has ended ({words}); the guest gets I/O errors"
        )

    def submit(self, request: Request) -> None:
        """Begin `request` (`Disk.submit`)."""
        if code := self._gate.enter():
            request.done(code)
        elif code := refusal(request, self.size, self.read_only):
            self._finish(request, code)
        elif self._needs_nothing(request):
            self._finish(request, 0)
        elif request.session.over:
            self._finish(request, DROPPED)
        else:
            self._gate.hold()  # the client must last until this is over
            self._begin(request)
            self._gate.leave()

    def _needs_nothing(self, request: Request) -> bool:
        match request.operation:
            case Operation.FLUSH:
                return self.read_only
            case Operation.DISCARD if not self.discards:
                return True
            case _:
                return not request.length

    def _begin(self, request: Request) -> None:
        """Have the engine do `request`, in parts that it takes."""
        done = lambda code: self._ended(request, code)  # noqa: E731
        most = self._most.get(request.operation, vhost.SLOT_BYTES)
        if request.length > most and request.operation is not Operation.FLUSH:
            _Division(request, most, self._submit, done).begin()
        else:
            self._submit(request, 0, request.length, done)

    def _submit(
        self, request: Request, start: int, length: int, done: Callable[[int], None]
    ) -> None:
        """Give the engine `length` bytes of `request`, from byte `start` of it on."""
        flags = vhost.UNMAP if request.operation is Operation.WRITE_ZEROES and request.unmap else 0
        buffers = request.buffers
        if length < request.length:
            buffers = vectors.part(buffers, start, length)
        kind, offset = _KINDS[request.operation], request.offset + start
        self._client.submit(
            vhost.Command(kind, offset, length, buffers, done, flags, request.session)
        )

    def _ended(self, request: Request, code: int) -> None:
        """End `request`, after a flush if it must be durable."""
        if request.fua and request.operation is Operation.WRITE and not code:
            flushed = lambda code: self._finish(request, self._judge(code))  # noqa: E731
            flush = vhost.Command(vhost.FLUSH, 0, 0, [], flushed, session=request.session)
            self._client.submit(flush)
        else:
            if request.operation is Operation.FLUSH:
                self._look()
            self._finish(request, self._judge(code))

    def _look(self) -> None:
        if not self.read_only and self._name >= 0:
            self._troubles.look(self._name)

    def _judge(self, code: int) -> int:
        """Tell the user about an error, and return it as the guest gets it."""
        if code in {0, DROPPED}:
            return code
        if self._gone:
            return errno.EIO
        with contextlib.suppress(OSError):
            status = os.statvfs(self._path)
            now = time.monotonic()
            if status.f_bavail * status.f_frsize < _FULL:
                self._full_until = now + _FULL_SECONDS
            if not self.read_only and now < self._full_until:
                code = errno.ENOSPC
        return self._troubles.of(OSError(code, ""))

    def _finish(self, request: Request, code: int) -> None:
        try:
            request.done(code)
        finally:
            self._gate.leave()

    def close(self) -> None:
        """Wait for requests, flush and end the engine (`Disk.close`)."""
        watch = threading.Timer(CLOSING, self._engine.kill)
        watch.start()
        try:
            if not self._gate.close():
                return
            if not self.read_only:
                self._flush()
                self._look()
            self._client.close()
            self._engine.end(CLOSING)
            if self._name >= 0:
                os.close(self._name)
        finally:
            watch.cancel()

    def _flush(self) -> None:
        ended = threading.Event()
        codes: list[int] = []

        def done(code: int) -> None:
            codes.append(code)
            ended.set()

        self._client.submit(vhost.Command(vhost.FLUSH, 0, 0, [], done))
        ended.wait()
        self._judge(codes[0])


class _Division:
    """A request in parts of `most` bytes, `PARTS` of them at a time.

    `submit` begins a part of a request: its start, its length and what is told of its end.  After a
    failure, or the end of the session, no more parts are begun.
    """

    def __init__(
        self,
        request: Request,
        most: int,
        submit: Callable[[Request, int, int, Callable[[int], None]], None],
        done: Callable[[int], None],
    ) -> None:
        self._request = request
        self._most = most
        self._submit = submit
        self._done = done
        self._starts = iter(range(0, request.length, most))
        self._code = 0
        self._under_way = 1  # until `begin` is over
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Begin the first parts."""
        for _ in range(PARTS - 1):
            self._one_more()
        self._ended(0)

    def _one_more(self) -> None:
        with self._lock:
            if self._request.session.over:
                self._code = self._code or DROPPED
            start = None if self._code else next(self._starts, None)
            if start is None:
                return
            self._under_way += 1
        length = min(self._most, self._request.length - start)
        self._submit(self._request, start, length, self._ended)

    def _ended(self, code: int) -> None:
        """Note the end of a part, and begin another."""
        with self._lock:
            self._code = self._code or code
        self._one_more()
        with self._lock:
            self._under_way -= 1
            last = not self._under_way
        if last:
            self._done(self._code)


def _reason(error: Exception) -> str:
    if not isinstance(error, OSError):
        return str(error)
    limit = remedy(error)
    return f"{error.strerror}; {limit}" if limit else str(error.strerror)
