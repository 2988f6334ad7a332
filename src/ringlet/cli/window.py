"""Sends the guest the size of the user's window whenever it has changed."""

import signal
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Final

from ringlet.cli.terminal import WindowSize

_STOP: Final = None
_GUEST_LISTENS: Final = True


class Window:
    """The window of a terminal.  `send` passes a size to the guest and may block.

    `size` is the size that a guest starts with.
    """

    def __init__(
        self,
        send: Callable[[WindowSize], object],
        size: WindowSize,
        on_failure: Callable[[Exception], object],
    ) -> None:
        self._send = send
        self._on_failure = on_failure
        self._first = self._wanted = self._told = size
        self._listens = False
        # SimpleQueue is the only queue that a signal handler may use at any moment.
        self._news: SimpleQueue[WindowSize | bool | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="window", daemon=True)

    def start(self) -> None:
        """Start to send sizes to the guest."""
        self._thread.start()

    def stop(self, timeout: float = 1.0) -> None:
        """Stop sending sizes; `send` must not block any more."""
        self._news.put(_STOP)
        self._thread.join(timeout)

    def changed(self, size: WindowSize) -> None:
        """Record a new size.  Signal handlers may call this."""
        self._news.put(size)

    def guest_listens(self) -> None:
        """Record that a guest, perhaps a new one, has started to receive sizes."""
        self._news.put(_GUEST_LISTENS)

    def _work(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._pass_on()
        except Exception as error:  # noqa: BLE001 - the run ends with it
            self._on_failure(error)

    def _pass_on(self) -> None:
        while (news := self._news.get()) is not _STOP:
            if isinstance(news, WindowSize):
                self._wanted = news
            else:
                self._listens = True
                self._told = self._first
            # While the user resizes the window, only the last size is sent.
            if self._listens and self._wanted != self._told and self._news.empty():
                self._send(self._wanted)
                self._told = self._wanted
