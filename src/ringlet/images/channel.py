"""How a command in the guest is fed and heard: four serial ports, as the guest's init has them.

    ttyS0   the console: the kernel's messages, and the shell if there is no command
    ttyS1   to the guest: the command's standard input, in frames; from it: its standard output
    ttyS2   from the guest: its standard error
    ttyS3   from the guest: the line "init" from its init, first of all; "ready" when it takes
            input on ttyS1, "next" for each frame it wants there, and "exit STATUS" when the command
            and its output, or the shell, are done.  To the guest, from "init" on: "size ROWS
            COLUMNS", the shell's window.

Output is bytes as they are.  Input needs an end, which a serial line has not: it comes in frames,
a length in decimal and a newline before so many bytes, and a frame of length 0 is the end.  A frame
waits until the guest has asked for it, for Linux' terminals drop what comes too fast: they hold
64 KiB, and RTS falls only when somebody gets round to look at them.
"""

import re
from collections.abc import Callable, Iterator
from typing import Final

END_OF_INPUT: Final = b"0\n"
FRAME_SIZE: Final = 32768
"""The most bytes in a frame: the guest's terminal holds one, and the guest another in memory."""

_LONGEST_LINE: Final = 64
_EXIT: Final = re.compile(rb"exit (\d{1,3})")


def frames(data: bytes) -> Iterator[bytes]:
    """Return `data` as frames; none if it is empty, which would be the end of input."""
    for start in range(0, len(data), FRAME_SIZE):
        part = data[start : start + FRAME_SIZE]
        yield b"%d\n%b" % (len(part), part)


def size_line(rows: int, columns: int) -> bytes:
    """Return what tells the guest its window's size in characters."""
    return b"size %d %d\n" % (rows, columns)


class StatusPort:
    """What is connected to the guest's ttyS3; calls each function at most once, but `on_next`.

    The guest may send anything; what is not understood is dropped.
    """

    def __init__(
        self,
        *,
        on_init: Callable[[], None],
        on_ready: Callable[[], None],
        on_exit: Callable[[int], None],
        on_next: Callable[[], None],
    ) -> None:
        self._words = {b"init": on_init, b"ready": on_ready}
        self._on_next = on_next
        self._on_exit: Callable[[int], None] | None = on_exit
        self._line = b""

    def __call__(self, data: bytes) -> None:
        """Take bytes from the port."""
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
            self._words.pop(line)()
        elif status is not None and int(status[1]) < 256 and self._on_exit is not None:
            told, self._on_exit = self._on_exit, None
            told(int(status[1]))
