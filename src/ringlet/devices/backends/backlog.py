"""A queue of bytes for a device: any thread adds bytes, the machine's thread takes them."""

import threading
from collections.abc import Callable
from typing import Final

LIMIT: Final = 1 << 16


class Backlog:
    """A queue of at most `limit` bytes, even if the guest reads nothing.

    The thread that adds bytes to an empty queue calls `on_data`, which must make the machine's
    thread poll the device.
    """

    def __init__(self, on_data: Callable[[], None], limit: int = LIMIT) -> None:
        self._on_data = on_data
        self._limit = limit
        self._bytes = bytearray()
        self._closed = False
        self._changed = threading.Condition()

    def put(self, data: bytes) -> bool:
        """Add `data`, waiting for room if necessary; return False if the queue is closed before."""
        view = memoryview(data)
        while view:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or len(self._bytes) < self._limit)
                if self._closed:
                    return False
                was_empty = not self._bytes
                part = view[: self._limit - len(self._bytes)]
                self._bytes += part
                view = view[len(part) :]
            if was_empty:
                self._on_data()
        return True

    def take(self, size: int) -> bytes:
        """Remove the first bytes, at most `size`, and return them without waiting."""
        with self._changed:
            data = bytes(self._bytes[:size])
            del self._bytes[:size]
            self._changed.notify_all()
        return data

    def close(self) -> None:
        """Drop all bytes and end all waits."""
        with self._changed:
            self._closed = True
            self._bytes.clear()
            self._changed.notify_all()
