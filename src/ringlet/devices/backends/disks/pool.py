"""Threads that do what may wait, and the count of what is under way."""

import errno
import queue
import threading
from collections.abc import Callable
from typing import Final

from ringlet.devices.backends.disks.interface import PENDING, Trouble
from ringlet.errors import unexpected

THREADS: Final = 8
"""The most system calls of one disk that wait at the same time."""


class Gate:
    """Counts the requests of a disk, at most `PENDING`, until it is closed."""

    def __init__(self, limit: int = PENDING) -> None:
        self._limit = limit
        self._inside = 0
        self._closed = False
        self._lock = threading.Lock()
        self._empty = threading.Condition(self._lock)

    def enter(self) -> int:
        """Count a request that begins; return the errno with which it is refused, or 0."""
        with self._lock:
            if self._closed:
                return errno.ESHUTDOWN
            if self._inside >= self._limit:
                return errno.EBUSY
            self._inside += 1
            return 0

    def hold(self) -> None:
        """Count something else that a request which has entered needs until `leave`."""
        with self._lock:
            self._inside += 1

    def leave(self) -> None:
        """Count a request that has ended."""
        with self._lock:
            self._inside -= 1
            if self._closed and not self._inside:
                self._empty.notify_all()

    def close(self) -> bool:
        """Refuse new requests and wait for the others; return False if it was closed before."""
        with self._lock:
            first = not self._closed
            self._closed = True
            self._empty.wait_for(lambda: not self._inside)
            return first


class Pool:
    """A queue of calls that `THREADS` threads make.

    An exception of a call is a defect; it is reported and the thread goes on.  Threads are started
    when there is work.
    """

    def __init__(self, name: str, trouble: Trouble, threads: int = THREADS) -> None:
        self._name = name
        self._trouble = trouble
        self._most = threads
        self._threads: list[threading.Thread] = []
        self._waiting = 0
        self._lock = threading.Lock()
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

    def call(self, function: Callable[[], None]) -> None:
        """Have `function` called by a thread.  Raises RuntimeError if the host allows none."""
        with self._lock:
            self._waiting += 1
            if self._waiting > len(self._threads) < self._most:
                self._start()
        self._calls.put(function)

    def _start(self) -> None:
        thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            if not self._threads:
                self._waiting -= 1
                raise
            return
        self._threads.append(thread)

    def _serve(self) -> None:
        while (function := self._calls.get()) is not None:
            try:
                function()
            except Exception as error:  # noqa: BLE001 - one request must not stop the others
                self._trouble(str(unexpected(error)))
            with self._lock:
                self._waiting -= 1

    def close(self) -> None:
        """Wait for all calls and end the threads."""
        for _ in self._threads:
            self._calls.put(None)
        for thread in self._threads:
            thread.join()


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
