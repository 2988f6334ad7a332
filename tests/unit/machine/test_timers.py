"""Several timed devices as one."""

from ringlet.machine.timers import Timers


class Fake:
    def __init__(self, due: int | None) -> None:
        self.due = due
        self.updates = 0

    def update(self) -> None:
        self.updates += 1

    def tick(self) -> int | None:
        self.update()
        return self.due

    def next_event(self) -> int | None:
        return self.due


def test_the_earliest_counts() -> None:
    timers = Timers()
    assert timers.next_event() is None
    parts = [Fake(None), Fake(7), Fake(5)]
    for part in parts:
        timers.add(part)

    assert timers.next_event() == 5
    assert timers.tick() == 5
    timers.update()
    assert [part.updates for part in parts] == [2, 2, 2]
