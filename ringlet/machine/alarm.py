"""An alarm clock: a thread that calls back once a moment on the host's clock has come."""

import threading
from collections.abc import Callable

from ringlet.devices.wiring import Clock


class Alarm:
    """Calls `ring` from a thread of its own, once for each `set`; the thread starts when needed."""

    def __init__(self, clock: Clock, ring: Callable[[], None]) -> None:
        self._clock = clock
        self._ring = ring
        self._changed = threading.Condition()
        self._due: int | None = None
        self._closed = False
        self._thread: threading.Thread | None = None

    def set(self, due: int | None) -> None:
        """Ring at `due` (ns on the clock), in place of what was set before; None: not at all."""
        if due is None and self._due is None:
            return
        with self._changed:
            # The thread looks at `_due` again when it wakes: only an earlier moment wakes it.
            wake = due is not None and (self._due is None or due < self._due)
            self._due = due
            if wake:
                self._changed.notify()
        if self._thread is None and due is not None:
            self._thread = threading.Thread(target=self._work, name="ringlet-alarm", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End the thread; nothing rings afterwards."""
        with self._changed:
            self._closed = True
            self._due = None
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        with self._changed:
            while not self._closed:
                if self._due is None:
                    self._changed.wait()
                    continue
                left = self._due - self._clock()
                if left > 0:
                    self._changed.wait(left / 1e9)
                    continue
                self._due = None
                self._ring()
