"""A port of the host at which programs of the guest may call through the socket device."""

import queue
import socket
from collections.abc import Callable
from typing import Final

BACKLOG: Final = 64
"""Streams that a listener has not accepted yet."""


class Listener:
    """A port of the host where the guest's programs may call."""

    def __init__(self, port: int, close: Callable[[int], object]) -> None:
        self.port = port
        self._close = close
        self._calls: queue.Queue[socket.socket] = queue.Queue(BACKLOG)

    def accept(self, timeout: float | None = None) -> socket.socket:
        """Return the next stream.  Raises TimeoutError after `timeout` seconds."""
        try:
            return self._calls.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError(f"nobody has called port {self.port}") from None

    def call(self) -> socket.socket | None:
        """Return the other end of a stream for `accept`.

        Returns None if too many wait, or the process has too many files.
        """
        try:
            ours, theirs = socket.socketpair()
        except OSError:
            return None
        try:
            self._calls.put_nowait(theirs)
        except queue.Full:
            ours.close()
            theirs.close()
            return None
        return ours

    def close(self) -> None:
        """End listening, and close the streams that nobody has accepted."""
        self._close(self.port)
        while not self._calls.empty():
            self._calls.get_nowait().close()
