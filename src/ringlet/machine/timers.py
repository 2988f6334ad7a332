"""Devices that act by themselves at certain times."""

from typing import Protocol


class Timer(Protocol):
    """A device that acts by itself.  Times are those of the machine's clock, in ns."""

    def update(self) -> None: ...

    def tick(self) -> int | None: ...

    def next_event(self) -> int | None: ...


class Timers:
    """Several timers combined into one."""

    def __init__(self) -> None:
        self._timers: list[Timer] = []

    def add(self, timer: Timer) -> None:
        """Add a timer."""
        self._timers.append(timer)

    def update(self) -> None:
        """Update all timers."""
        for timer in self._timers:
            timer.update()

    def tick(self) -> int | None:
        """Do `update` and return `next_event`."""
        return _earliest([timer.tick() for timer in self._timers])

    def next_event(self) -> int | None:
        """Return the earliest time at which a timer must be updated; None if there is none."""
        return _earliest([timer.next_event() for timer in self._timers])


def _earliest(moments: list[int | None]) -> int | None:
    return min((moment for moment in moments if moment is not None), default=None)
