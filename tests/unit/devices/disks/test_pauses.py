"""How long a slow way is left alone."""

from __future__ import annotations

import time

import pytest

from ringlet.devices.backends.disks.pauses import Pause


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The time in ns, which the test sets."""
    now = [1_000]
    monkeypatch.setattr(time, "monotonic_ns", lambda: now[0])
    return now


def length(pause: Pause, clock: list[int]) -> int:
    """Return how long `pause` lasts from now on."""
    began = clock[0]
    while not pause.over:
        clock[0] += 1
    return clock[0] - began


def test_pause_is_twice_as_long_each_time_up_to_the_longest(clock: list[int]) -> None:
    pause = Pause(10, 35)
    lengths = [length(pause, clock)]
    for _ in range(4):
        pause.note(slow=True)
        lengths.append(length(pause, clock))

    assert lengths == [0, 10, 20, 35, 35]


def test_pause_is_short_again_after_what_was_fast(clock: list[int]) -> None:
    pause = Pause(10, 35)
    pause.note(slow=True)
    pause.note(slow=True)
    assert length(pause, clock) == 20
    pause.note(slow=False)

    assert pause.over
    pause.note(slow=True)
    assert length(pause, clock) == 10
