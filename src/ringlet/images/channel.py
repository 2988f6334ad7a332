"""The protocol between the host and the guest's init, over four serial ports.

    ttyS0   the console: the kernel's messages, and the shell if there is no command
    ttyS1   to the guest: the command's standard input, in frames
            from the guest: the command's standard output
    ttyS2   from the guest: the command's standard error
    ttyS3   from the guest: the line "init" when init starts, "ready" when init accepts input on
            ttyS1, "next" to request a frame there, and "exit STATUS" when the command and its
            output, or the shell, have ended; or "agent" instead of "ready", when the agent has a
            port of its own to run the command by, and nothing after that
            to the guest, after "init": "size ROWS COLUMNS", the size of the shell's window

Output is unchanged bytes.  Input needs an end, which a serial line does not have, so it comes in
frames: a length in decimal, a newline, and that many bytes.  A frame of length 0 is the end.  The
host sends a frame only when the guest has requested it, because Linux's terminals drop input that
comes too fast: they hold 64 KiB, and lower RTS only after a delay.
"""

import re
from collections.abc import Callable, Iterator
from typing import Final

END_OF_INPUT: Final = b"0\n"
FRAME_SIZE: Final = 32768
"""The most bytes in a frame; the guest's terminal holds one frame, the guest's memory another."""

_LONGEST_LINE: Final = 64
_EXCLUSIVE: Final = {b"ready": (b"agent",), b"agent": (b"ready",)}
_EXIT: Final = re.compile(rb"exit (\d{1,3})")


def frames(data: bytes) -> Iterator[bytes]:
    """Yield `data` as frames; none if it is empty, because an empty frame ends the input."""
    for start in range(0, len(data), FRAME_SIZE):
        part = data[start : start + FRAME_SIZE]
        yield b"%d\n%b" % (len(part), part)


def size_line(rows: int, columns: int) -> bytes:
    """Return the line that tells the guest the size of its window in characters."""
    return b"size %d %d\n" % (rows, columns)


class StatusPort:
    """The host's end of ttyS3.  It calls each function at most once, except `on_next`.

    The guest may send anything; unknown lines are dropped.
    """

    def __init__(
        self,
        *,
        on_init: Callable[[], None],
        on_ready: Callable[[], None],
        on_exit: Callable[[int], None],
        on_next: Callable[[], None],
        on_agent: Callable[[], None] = lambda: None,
    ) -> None:
        self._words = {b"init": on_init, b"ready": on_ready, b"agent": on_agent}
        self._on_next = on_next
        self._on_exit: Callable[[int], None] | None = on_exit
        self._line = b""

    def __call__(self, data: bytes) -> None:
        """Process bytes from the guest."""
        for byte in data:
            if byte == ord("\n"):
                self._take(self._line.rstrip(b"\r"))
                self._line = b""
            elif len(self._line) < _LONGEST_LINE:
                self._line += bytes([byte])

    def _take(self, line: bytes) -> None:
        status = _EXIT.fullmatch(line)
        if line == b"next":
            self._on_next()
        elif line in self._words:
            reach = self._words.pop(line)
            for word in _EXCLUSIVE.get(line, ()):
                self._words.pop(word, None)
            reach()
        elif status is not None and int(status[1]) < 256 and self._on_exit is not None:
            told, self._on_exit = self._on_exit, None
            told(int(status[1]))
