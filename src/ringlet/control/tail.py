"""Keeps the end of a guest's console output, to say what a guest that reset or halted was doing."""

import re
from collections.abc import Callable
from typing import Final

KEPT: Final = 8 << 10
"""The most bytes of console output that are kept to find a panic's message in."""

LINES: Final = 24
"""The most lines of it that an error shows."""

_PANIC: Final = re.compile(rb"Kernel panic - not syncing: ([^\r\n]{0,200})([\r\n]?)")
_HALTED: Final = b"reboot: System halted"
# What `give_up` of ringlet/images/init.sh prints.
_COMPLAINT: Final = re.compile(rb"^ringlet: ([^\r\n]{1,300})[^\r\n]*\r?$", re.MULTILINE)
# Escape sequences of a terminal, control characters but the newline, and changes of direction.
_CONTROL: Final = re.compile(
    r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)


class Tail:
    """The end of what a guest printed.  The guest may print anything, so nothing is sure."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._panic = ""

    def clear(self) -> None:
        """Forget everything, as a new machine starts."""
        self._kept.clear()
        self._panic = ""

    def before(self, sink: Callable[[bytes], None]) -> Callable[[bytes], None]:
        """Return a sink that keeps its data's end here and then passes them to `sink`."""

        def pass_on(data: bytes) -> None:
            self.take(data)
            sink(data)

        return pass_on

    def take(self, data: bytes) -> None:
        """Append what the guest printed."""
        self._kept += data
        found = None if self._panic else _PANIC.search(self._kept)
        if found is not None and found[2]:
            # What a panic prints afterwards may push the message out.
            self._panic = _plain(found[1])
        del self._kept[:-KEPT]

    def panic(self) -> str:
        """Return why the kernel panicked, as it said itself, or an empty text."""
        if not self._panic and (found := _PANIC.search(self._kept)) is not None:
            return _plain(found[1]) or "it gave no reason"
        return self._panic

    def halted(self) -> bool:
        """Return whether the kernel said last that it halted the machine."""
        return _HALTED in self._kept[-200:]

    def complaint(self) -> str:
        """Return why the guest's init gave up, as it said itself, or an empty text."""
        found = _COMPLAINT.findall(self._kept)
        return _plain(found[-1]) if found else ""

    def text(self) -> str:
        """Return the last lines as plain text."""
        return "\n".join(_plain(bytes(self._kept)).splitlines()[-LINES:])


def _plain(data: bytes) -> str:
    return _CONTROL.sub("", data.decode(errors="replace")).strip()
