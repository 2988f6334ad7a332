"""A disk that an engine serves."""

import contextlib
import errno
import os
import threading
import time
from pathlib import Path
from typing import Final

from ringlet.devices.backends.disks import vectors, vhost
from ringlet.devices.backends.disks.engine import PROGRAM, Engine
from ringlet.devices.backends.disks.interface import (
    SECTOR,
    Operation,
    Request,
    Trouble,
    refusal,
)
from ringlet.devices.backends.disks.pool import Countdown, Gate
from ringlet.devices.backends.disks.troubles import Troubles
from ringlet.errors import DiskError, remedy

CLOSING: Final = 60.0
"""Seconds for the engine to finish what it has when the disk is closed."""
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
            Operation.DISCARD: export.most_discarded,
            Operation.WRITE_ZEROES: export.most_zeroed,
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
        else:
            self._gate.hold()  # the client must last until this is over
            for command in self._commands(request):
                self._client.submit(command)
            self._gate.leave()

    def _needs_nothing(self, request: Request) -> bool:
        match request.operation:
            case Operation.FLUSH:
                return self.read_only
            case Operation.DISCARD if not self.discards:
                return True
            case _:
                return not request.length

    def _commands(self, request: Request) -> list[vhost.Command]:
        """Return the parts of `request` that the engine takes."""
        kind = _KINDS[request.operation]
        flags = vhost.UNMAP if request.operation is Operation.WRITE_ZEROES and request.unmap else 0
        if request.operation is Operation.FLUSH:
            return [vhost.Command(kind, 0, 0, [], lambda code: self._ended(request, code))]
        most = self._most.get(request.operation, vhost.SLOT_BYTES)
        starts = range(0, request.length, most)
        if len(starts) == 1:
            return [
                vhost.Command(
                    kind, request.offset, request.length, request.buffers,
                    lambda code: self._ended(request, code), flags,
                )
            ]  # fmt: skip
        left = Countdown(len(starts))

        def ended(code: int) -> None:
            if (first := left.count(code)) is not None:
                self._ended(request, first)

        return [
            vhost.Command(
                kind, request.offset + start, min(most, request.length - start),
                vectors.part(request.buffers, start, most), ended, flags,
            )
            for start in starts
        ]  # fmt: skip

    def _ended(self, request: Request, code: int) -> None:
        """End `request`, after a flush if it must be durable."""
        if request.fua and request.operation is Operation.WRITE and not code:
            flushed = lambda code: self._finish(request, self._judge(code))  # noqa: E731
            self._client.submit(vhost.Command(vhost.FLUSH, 0, 0, [], flushed))
        else:
            if request.operation is Operation.FLUSH:
                self._look()
            self._finish(request, self._judge(code))

    def _look(self) -> None:
        if not self.read_only and self._name >= 0:
            self._troubles.look(self._name)

    def _judge(self, code: int) -> int:
        """Tell the user about an error, and return it as the guest gets it."""
        if not code or self._gone:
            return errno.EIO if code else 0
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


def _reason(error: Exception) -> str:
    if not isinstance(error, OSError):
        return str(error)
    limit = remedy(error)
    return f"{error.strerror}; {limit}" if limit else str(error.strerror)
