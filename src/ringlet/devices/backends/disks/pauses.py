"""How long a way that a slow disk makes slow is left alone."""

import time


class Pause:
    """A time in which something is not tried: twice as long whenever it is slow again.

    `first` and `longest` are in nanoseconds.
    """

    def __init__(self, first: int, longest: int) -> None:
        self._first = self._next = first
        self._longest = longest
        self._until = 0

    @property
    def over(self) -> bool:
        """Whether it may be tried."""
        return time.monotonic_ns() >= self._until

    def note(self, *, slow: bool) -> None:
        """Begin a pause if it was slow just now; else the next one will be short again."""
        if slow:
            self._until = time.monotonic_ns() + self._next
            self._next = min(2 * self._next, self._longest)
        else:
            self._next = self._first
