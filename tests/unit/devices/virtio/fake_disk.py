"""A disk in memory, which performs requests on a thread of its own, or when the test says so."""

import threading
from collections import deque
from dataclasses import dataclass, field

from ringlet.devices.backends.disks.interface import Operation, Request, refusal


@dataclass
class FakeDisk:
    """`held` keeps requests until `release`; `error` is the answer to all of them if not 0."""

    size: int = 1 << 20
    read_only: bool = False
    sector: int = 512
    discards: bool = True
    identity: str = "fake-disk"
    error: int = 0
    closed: bool = False
    held: bool = False
    seen: list[Request] = field(default_factory=list)
    waiting: deque[Request] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.content = bytearray(self.size)
        self._changed = threading.Condition()
        threading.Thread(target=self._run, daemon=True).start()

    def submit(self, request: Request) -> None:
        with self._changed:
            self.seen.append(request)
            self.waiting.append(request)
            self._changed.notify_all()

    def release(self) -> None:
        with self._changed:
            self.held = False
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self.closed = True
            self.held = False
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self.closed or (bool(self.waiting) and not self.held)
                )
                if not self.waiting:
                    return
                request = self.waiting.popleft()
            request.done(self.error or self._perform(request))

    def _perform(self, request: Request) -> int:
        wrong = refusal(request, self.size, self.read_only)
        if wrong:
            return wrong
        at = request.offset
        if request.operation is Operation.READ:
            for buffer in request.buffers:
                buffer[:] = self.content[at : at + len(buffer)]
                at += len(buffer)
        elif request.operation is Operation.WRITE:
            for buffer in request.buffers:
                self.content[at : at + len(buffer)] = buffer
                at += len(buffer)
        elif request.operation is not Operation.FLUSH:
            self.content[at : at + request.length] = bytes(request.length)
        return 0
