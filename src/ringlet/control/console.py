"""A guest's serial console for a program: reads its output and sends it input."""

import re
import threading
import time
from collections.abc import Callable
from typing import Final

from ringlet.devices.backends.backlog import Backlog
from ringlet.errors import GuestEnded, GuestPanic, GuestTimeout

KEPT: Final = 1 << 20
"""The most bytes of output that are kept for `expect`; beyond this, the oldest are dropped."""

CURSOR_QUERY: Final = b"\x1b[6n"
"""What a program sends to ask a terminal where its cursor is."""


class Console:
    """The program's end of COM1.  Any thread may call its methods.

    Text is UTF-8; invalid bytes become U+FFFD.  `require_start` raises ConfigError if the machine
    was not started.
    """

    def __init__(
        self, wake: Callable[[], None], require_start: Callable[[], object] = lambda: None
    ) -> None:
        self.backlog = Backlog(wake)
        self._require_start = require_start
        self._seen = bytearray()
        self._ended = False
        self._panic: GuestPanic | None = None
        self._changed = threading.Condition()

    def send(self, text: str | bytes) -> None:
        """Send `text` to the guest.  Waits while 64 KiB that the guest has not read are queued.

        Raises GuestEnded if the guest has ended.
        """
        self._require_start()
        if not self.backlog.put(text.encode() if isinstance(text, str) else text):
            raise GuestEnded("the guest has ended and reads nothing more")

    def expect(self, pattern: str | re.Pattern[str], timeout: float | None = 30.0) -> str:
        """Return the output since the last call, up to and including the first match of `pattern`.

        A string is searched for literally.  Waits `timeout` seconds, or forever with None.  Raises
        GuestTimeout if no match appears in time, GuestPanic if the guest's kernel panics, and
        GuestEnded if the guest ends without a match; the message has the end of the output.
        """
        self._require_start()
        wanted = re.compile(re.escape(pattern)) if isinstance(pattern, str) else pattern
        end = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while True:
                text = self._seen.decode(errors="replace")
                match = wanted.search(text)
                if match is not None:
                    # Keep the bytes of the text that was not consumed.
                    rest = text[match.end() :].encode()
                    self._seen[:] = rest
                    return text[: match.end()]
                if self._ended:
                    if self._panic is not None:
                        raise self._panic
                    raise GuestEnded(f"the guest has ended; its last output: {text[-200:]!r}")
                left = None if end is None else end - time.monotonic()
                if left is not None and left <= 0:
                    raise GuestTimeout(f"no {_shown(pattern)}; the last output: {text[-200:]!r}")
                self._changed.wait(left)

    def output(self) -> str:
        """Return the output since the last `expect`, without consuming it."""
        with self._changed:
            return self._seen.decode(errors="replace")

    def __repr__(self) -> str:
        return f"<ringlet.Console: {len(self._seen)} bytes of output not yet expected>"

    # --- the machine's side

    def take(self, data: bytes) -> None:
        """Append `data`, the guest's output; the serial port calls this."""
        with self._changed:
            self._seen += data
            # A shell asks the terminal where its cursor is, and goes on without an answer.
            self._seen[:] = self._seen.replace(CURSOR_QUERY, b"")
            del self._seen[:-KEPT]
            self._changed.notify_all()

    def end(self, panic: GuestPanic | None = None) -> None:
        """Record that the guest has ended and prints nothing more, perhaps with a `panic`."""
        self.backlog.close()
        with self._changed:
            self._panic = self._panic or panic
            self._ended = True
            self._changed.notify_all()


def _shown(pattern: str | re.Pattern[str]) -> str:
    """Return a pattern as its user wrote it."""
    return repr(pattern) if isinstance(pattern, str) else f"/{pattern.pattern}/"
