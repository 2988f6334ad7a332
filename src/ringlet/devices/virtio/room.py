"""Writes that wait for room on the host.

A file system in the guest takes an I/O error for the end of its disk: ext4 aborts its journal and
is read-only from then on, and what programs had written and not flushed is lost without a word to
them (docs/adr/0025).  A write that takes longer harms nobody.
"""

import errno
import threading
import time
from collections.abc import Callable
from typing import Final

from ringlet.devices.backends.disks.interface import Operation, Request
from ringlet.devices.virtio.threads import block_signals

AGAIN_SECONDS: Final = 0.25
"""How long to wait before a write is tried again."""
_WRITES: Final = (Operation.WRITE, Operation.WRITE_ZEROES)


class Room:
    """Tries requests that found no room again by `submit`, for at most `seconds`.

    After that time, later ones do not wait either, until a write succeeds; and no request waits
    longer than that, whatever others find.  Any thread may call the methods.  An exception of
    `submit` is passed to `failed`, and the request ends with EIO.
    """

    def __init__(
        self,
        submit: Callable[[Request], None],
        seconds: float,
        failed: Callable[[Exception], None],
    ) -> None:
        self._submit = submit
        self._seconds = seconds
        self._failed = failed
        self._changed = threading.Condition()
        self._waiting: list[Request] = []
        self._begun: dict[int, float] = {}  # when each request, by its id, first found no room
        self._until = 0.0
        self._hurries = 0
        self._awake = False

    def waits(self, request: Request) -> bool:
        """Keep `request`, which found no room, if it may be tried again, and say so."""
        if request.operation not in _WRITES:
            return False
        with self._changed:
            now = time.monotonic()
            self._until = self._until or now + self._seconds
            own = self._begun.setdefault(id(request), now) + self._seconds
            if self._hurries or now >= min(self._until, own):
                return False
            self._waiting.append(request)
            if not self._awake:
                try:
                    threading.Thread(target=self._run, name="disk-room", daemon=True).start()
                except RuntimeError:  # the host allows no more threads
                    self._waiting.remove(request)
                    return False
                self._awake = True
            return True

    def ended(self, request: Request, error: int) -> None:
        """Note that `request`, of any kind, has ended."""
        if (self._until or self._begun) and request.operation in _WRITES:
            with self._changed:
                self._begun.pop(id(request), None)
                if not error:
                    self._until = 0.0

    def hurry(self) -> None:
        """Have nothing wait any more until `relax`; what waits now ends soon."""
        with self._changed:
            self._hurries += 1
            self._changed.notify_all()

    def relax(self) -> None:
        """End the effect of one `hurry`."""
        with self._changed:
            self._hurries -= 1

    def _run(self) -> None:
        block_signals()
        while self._tried():
            """Others may have come meanwhile."""

    def _tried(self) -> bool:
        """Try what waits once more, after a while; return False if nothing waits."""
        with self._changed:
            if not self._waiting:
                self._awake = False
                return False
            self._changed.wait_for(lambda: self._hurries, AGAIN_SECONDS)
            again, self._waiting = self._waiting, []
        for request in again:
            try:
                self._submit(request)
            except Exception as error:  # noqa: BLE001 - the machine reports it
                self._failed(error)
                request.done(errno.EIO)
        return True
