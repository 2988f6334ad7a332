"""Devices that act by themselves when a moment has come."""

from typing import Protocol


class Timer(Protocol):
    """One of them.  Moments are those of the machine's clock, in ns."""

    def update(self) -> None: ...

    def tick(self) -> int | None: ...

    def next_event(self) -> int | None: ...


class Timers:
    """Several of them as one."""

    def __init__(self) -> None:
        self._timers: list[Timer] = []

    def add(self, timer: Timer) -> None:
        """Add one."""
        self._timers.append(timer)

    def update(self) -> None:
        """Let all of them do what is due."""
        for timer in self._timers:
            timer.update()

    def tick(self) -> int | None:
        """`update` and `next_event` in one."""
        return _earliest([timer.tick() for timer in self._timers])

    def next_event(self) -> int | None:
        """Return when the first of them has something to do; None if none has."""
        return _earliest([timer.next_event() for timer in self._timers])


def _earliest(moments: list[int | None]) -> int | None:
    return min((moment for moment in moments if moment is not None), default=None)
