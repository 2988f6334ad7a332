"""More threads of a device, for calls that may take long."""

import signal
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

SYNCHRONOUS: Final = frozenset({
    signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS,
})  # fmt: skip
"""The signals of faults, which no thread of a device blocks; the main thread handles all others."""


def block_signals() -> None:
    """Leave all signals but those of faults to the main thread."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - SYNCHRONOUS)


class HelperThreads:
    """Up to `count` threads, made when they are first needed, that perform calls in their order.

    An exception of a call ends its thread and is passed to `failed`.
    """

    def __init__(self, name: str, count: int, failed: Callable[[Exception], None]) -> None:
        self._name = name
        self._most = count
        self._failed = failed
        self._calls: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._under_way = 0
        self._ended = False

    def call(self, call: Callable[[], None]) -> None:
        """Let a thread call `call`."""
        with self._changed:
            self._calls.append(call)
            self._under_way += 1
            if self._idle >= len(self._calls):
                self._changed.notify()
            elif len(self._threads) < self._most:
                name = f"{self._name}-{len(self._threads)}"
                thread = threading.Thread(target=self._run, name=name, daemon=True)
                self._threads.append(thread)
                thread.start()

    def wait(self) -> None:
        """Return when all calls have ended."""
        with self._changed:
            self._changed.wait_for(lambda: not self._under_way)

    def close(self) -> None:
        """End the threads, after the calls that wait."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        block_signals()
        while True:
            with self._changed:
                self._idle += 1
                self._changed.wait_for(lambda: self._calls or self._ended)
                self._idle -= 1
                if not self._calls:
                    return
                call = self._calls.popleft()
            try:
                call()
            except Exception as error:  # noqa: BLE001 - the machine reports it
                self._failed(error)
            finally:
                with self._changed:
                    self._under_way -= 1
                    self._changed.notify_all()
