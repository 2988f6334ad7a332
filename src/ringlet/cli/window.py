"""Tells a guest how large its user's window is, whenever that has changed."""

import signal
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Final

from ringlet.cli.terminal import WindowSize

_STOP: Final = None
_GUEST_LISTENS: Final = True


class Window:
    """The window of a terminal.  `send` gets a size for the guest, and may wait.

    `size` is what a guest takes for the size when it starts.
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
        # The one queue that a signal handler may use, whatever it has interrupted.
        self._news: SimpleQueue[WindowSize | bool | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="window", daemon=True)

    def start(self) -> None:
        """Start to pass sizes on."""
        self._thread.start()

    def stop(self, timeout: float = 1.0) -> None:
        """Pass no more on; `send` must not wait any more."""
        self._news.put(_STOP)
        self._thread.join(timeout)

    def changed(self, size: WindowSize) -> None:
        """Take a new size; for signal handlers, too."""
        self._news.put(size)

    def guest_listens(self) -> None:
        """A guest, perhaps another than before, has started to take sizes."""
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
            # While a window is being drawn larger, its last size is enough.
            if self._listens and self._wanted != self._told and self._news.empty():
                self._send(self._wanted)
                self._told = self._wanted
