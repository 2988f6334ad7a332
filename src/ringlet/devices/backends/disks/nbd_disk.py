"""A disk that an engine serves over NBD."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ringlet.devices.backends.disks import nbd, vectors
from ringlet.devices.backends.disks.engine import PROGRAM, Engine
from ringlet.devices.backends.disks.interface import (
    SECTOR,
    Operation,
    Request,
    Trouble,
    refusal,
)
from ringlet.devices.backends.disks.pool import Gate
from ringlet.devices.backends.disks.troubles import Troubles
from ringlet.errors import DiskError

CLOSING: Final = 60.0
"""Seconds for the engine to finish what it has when the disk is closed."""
_MOST: Final = 1 << 30
"""The most bytes of one TRIM or WRITE_ZEROES."""
_NEEDED: Final = nbd.CAN_FLUSH | nbd.CAN_FUA | nbd.CAN_WRITE_ZEROES

_KINDS: Final = {
    Operation.READ: nbd.READ,
    Operation.WRITE: nbd.WRITE,
    Operation.FLUSH: nbd.FLUSH,
    Operation.DISCARD: nbd.TRIM,
    Operation.WRITE_ZEROES: nbd.WRITE_ZEROES,
}


class NbdDisk:
    """The disk that `engine` serves; closing it ends the engine."""

    def __init__(
        self, engine: Engine, path: Path, identity: str, trouble: Trouble, *, read_only: bool
    ) -> None:
        flags = engine.export.flags
        if not read_only and flags & _NEEDED != _NEEDED:
            raise DiskError(f"disk {path}: this version of {PROGRAM} is too old")
        self.size = engine.export.size // SECTOR * SECTOR
        self.read_only = read_only
        self.sector = SECTOR
        self.discards = not read_only and bool(flags & nbd.CAN_TRIM)
        self.identity = identity
        self._engine = engine
        self._path = path
        self._trouble = trouble
        self._troubles = Troubles(path, trouble)
        self._gate = Gate()
        self._client = nbd.Client(engine.connection, self._lost, f"disk {path.name}")

    @property
    def engine_process(self) -> int:
        """The engine's process."""
        return self._engine.process.pid

    def _lost(self, reason: str) -> None:
        words = self._engine.last_words() or reason
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
            for command in self._commands(request):
                self._client.submit(command)

    def _needs_nothing(self, request: Request) -> bool:
        match request.operation:
            case Operation.FLUSH:
                return self.read_only
            case Operation.DISCARD if not self.discards:
                return True
            case _:
                return not request.length

    def _commands(self, request: Request) -> list[nbd.Command]:
        kind = _KINDS[request.operation]
        flags = nbd.FUA if request.fua and kind == nbd.WRITE else 0
        if kind == nbd.WRITE_ZEROES and not request.unmap:
            flags = nbd.NO_HOLE
        most = nbd.PAYLOAD if request.buffers else _MOST
        length = 0 if kind == nbd.FLUSH else request.length
        if length <= most:
            done = self._ended(request, 1)
            return [nbd.Command(kind, flags, request.offset, length, request.buffers, done)]
        starts = range(0, length, most)
        done = self._ended(request, len(starts))
        return [
            nbd.Command(
                kind, flags, request.offset + start, min(most, length - start),
                vectors.part(request.buffers, start, most), done,
            )
            for start in starts
        ]  # fmt: skip

    def _ended(self, request: Request, parts: int) -> Callable[[int], None]:
        """Return what to call when each of the parts of `request` has ended."""
        if parts == 1:
            return lambda code: self._finish(request, self._judge(code))
        left = Countdown(parts)

        def ended(code: int) -> None:
            if (first := left.count(code)) is not None:
                self._finish(request, self._judge(first))

        return ended

    def _judge(self, code: int) -> int:
        return self._troubles.of(OSError(code, "")) if code else 0

    def _finish(self, request: Request, code: int) -> None:
        try:
            request.done(code)
        finally:
            self._gate.leave()

    def close(self) -> None:
        """Wait for requests, flush and end the engine (`Disk.close`)."""
        watch = threading.Timer(CLOSING, self._engine.process.kill)
        watch.start()
        try:
            if not self._gate.close():
                return
            if not self.read_only:
                self._flush()
            self._client.close()
            self._engine.end(CLOSING)
        finally:
            watch.cancel()

    def _flush(self) -> None:
        ended = threading.Event()
        codes: list[int] = []

        def done(code: int) -> None:
            codes.append(code)
            ended.set()

        self._client.submit(nbd.Command(nbd.FLUSH, 0, 0, 0, [], done))
        ended.wait()
        self._judge(codes[0])


class Countdown:
    """Counts the ends of the parts of one request."""

    def __init__(self, parts: int) -> None:
        self._left = parts
        self._code = 0
        self._lock = threading.Lock()

    def count(self, code: int) -> int | None:
        """Note the end of a part; return the first errno, or 0, when it was the last, else None."""
        with self._lock:
            self._left -= 1
            self._code = self._code or code
            return None if self._left else self._code
