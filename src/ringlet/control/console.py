"""A guest's serial console, for a program: what it prints, and what it is told."""

import asyncio
import re
import threading
import time
from collections.abc import Callable
from typing import Final

from ringlet.devices.backends.backlog import Backlog

KEPT: Final = 1 << 20
"""The most bytes of output kept for `expect`; of more, the oldest are forgotten."""


class Console:
    """The program's end of COM1.  All methods are for any thread.

    Text is UTF-8; what is not becomes U+FFFD.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self.backlog = Backlog(wake)
        self._seen = bytearray()
        self._ended = False
        self._changed = threading.Condition()

    def send(self, text: str | bytes) -> None:
        """Type `text`.  Waits while the guest reads nothing and 64 KiB are on their way."""
        self.backlog.put(text.encode() if isinstance(text, str) else text)

    def expect(self, pattern: str | re.Pattern[str], timeout: float | None = 30.0) -> str:
        """Return what was printed since the last call, up to and with the first match of `pattern`.

        A string is looked for as it is.  Raises TimeoutError, with the end of what was printed, and
        EOFError if the guest has ended without it.
        """
        wanted = re.compile(re.escape(pattern)) if isinstance(pattern, str) else pattern
        end = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while True:
                text = self._seen.decode(errors="replace")
                match = wanted.search(text)
                if match is not None:
                    # In bytes what was consumed in characters, however they were spelt.
                    rest = text[match.end() :].encode()
                    self._seen[:] = rest
                    return text[: match.end()]
                if self._ended:
                    raise EOFError(f"the guest has ended; it printed last: {text[-200:]!r}")
                left = None if end is None else end - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError(f"no {wanted.pattern!r}; printed last: {text[-200:]!r}")
                self._changed.wait(left)

    async def wait_for(self, pattern: str | re.Pattern[str], seconds: float | None = 30.0) -> str:
        """`expect` for coroutines."""
        return await asyncio.to_thread(self.expect, pattern, seconds)

    def output(self) -> str:
        """Return what was printed since the last `expect`, and leave it there."""
        with self._changed:
            return self._seen.decode(errors="replace")

    # --- the machine's side

    def take(self, data: bytes) -> None:
        """Be the sink of the serial port."""
        with self._changed:
            self._seen += data
            del self._seen[:-KEPT]
            self._changed.notify_all()

    def end(self) -> None:
        """Nothing more will be printed."""
        self.backlog.close()
        with self._changed:
            self._ended = True
            self._changed.notify_all()
