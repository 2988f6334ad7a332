"""The debug exit port: a write ends the run with a status made from the value.

This port is not a chip; emulators offer it so that test programs can end with a result.  A write
of v gives the status (v << 1) | 1, which is never 0, so an accidental write does not look like
success.
"""

from collections.abc import Callable


class DebugExit:
    """One port, up to 4 bytes wide; `on_exit` gets the exit status, 0 to 255."""

    def __init__(self, on_exit: Callable[[int], None]) -> None:
        self._on_exit = on_exit

    def read(self, offset: int, size: int) -> int:
        """Return 0: the port has nothing to read."""
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """End the run with status (value << 1) | 1, of which the host keeps eight bits."""
        self._on_exit((value << 1 | 1) & 0xFF)
