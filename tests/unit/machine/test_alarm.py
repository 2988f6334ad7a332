"""The alarm clock, with real time kept short."""

import threading
import time

from ringlet.machine.alarm import Alarm


def test_rings_once_when_due() -> None:
    rung = threading.Event()
    alarm = Alarm(time.monotonic_ns, rung.set)
    due = time.monotonic_ns() + 5_000_000
    alarm.set(due)
    heard = rung.wait(5)
    late = time.monotonic_ns() - due
    rung.clear()
    again = rung.wait(0.02)
    alarm.close()

    assert heard
    assert late >= 0
    assert not again


def test_an_earlier_moment_replaces_a_later_one() -> None:
    rung = threading.Event()
    alarm = Alarm(time.monotonic_ns, rung.set)
    alarm.set(time.monotonic_ns() + 3600 * 10**9)
    alarm.set(time.monotonic_ns())
    heard = rung.wait(5)
    alarm.close()

    assert heard


def test_none_means_not_at_all() -> None:
    rung = threading.Event()
    alarm = Alarm(time.monotonic_ns, rung.set)
    alarm.set(time.monotonic_ns() + 10_000_000)
    alarm.set(None)
    heard = rung.wait(0.05)
    alarm.close()

    assert not heard


def test_close_ends_a_waiting_thread() -> None:
    before = threading.active_count()
    alarm = Alarm(time.monotonic_ns, lambda: None)
    alarm.set(time.monotonic_ns() + 3600 * 10**9)
    alarm.close()

    assert threading.active_count() == before
