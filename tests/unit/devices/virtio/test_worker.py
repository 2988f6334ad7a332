"""The thread of a device: watches, calls, pauses, and its end."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from tests.unit.devices.virtio.driver import PATIENCE, eventually

from ringlet.devices.virtio.worker import Worker
from ringlet.errors import InternalError


@pytest.fixture
def failures() -> list[Exception]:
    return []


@pytest.fixture
def worker(failures: list[Exception]) -> Iterator[Worker]:
    worker = Worker("test", failures.append)
    worker.start()
    yield worker
    worker.close()


def ask(worker: Worker) -> None:
    """Return when the thread has done what it was asked before."""
    done = threading.Event()
    worker.call(done.set)
    assert done.wait(PATIENCE)


def test_calls_are_made_in_order(worker: Worker) -> None:
    made: list[int] = []
    for i in range(100):
        worker.call(lambda i=i: made.append(i))  # type: ignore[misc]  # a default binds it
    ask(worker)
    assert made == list(range(100))


def test_hang_up_is_told_whatever_can_be_read(worker: Worker) -> None:
    ours, theirs = socket.socketpair()
    told = threading.Event()

    def gone() -> None:
        worker.unwatch(ours.fileno())
        told.set()

    worker.call(lambda: worker.watch_hangup(ours.fileno(), gone))
    theirs.sendall(b"early")
    theirs.shutdown(socket.SHUT_WR)
    ask(worker)
    assert not told.wait(0.05)

    theirs.close()
    assert told.wait(PATIENCE)
    ask(worker)
    assert worker._mask(ours.fileno()) == 0
    ours.close()


def test_later_calls_are_made_in_the_order_of_their_times(worker: Worker) -> None:
    made: list[tuple[str, float]] = []

    def note(name: str) -> None:
        made.append((name, time.monotonic()))

    def plan() -> None:
        worker.call_later(0.06, lambda: note("last"))
        worker.call_later(0.02, lambda: note("first"))
        worker.call_later(0.02, lambda: note("second"))

    begin = time.monotonic()
    worker.call(plan)
    assert eventually(lambda: len(made) == 3)

    assert [name for name, _ in made] == ["first", "second", "last"]
    assert made[0][1] - begin >= 0.02
    assert made[2][1] - begin >= 0.06


def test_later_call_waits_for_the_end_of_a_pause(worker: Worker) -> None:
    made: list[int] = []
    worker.call(lambda: worker.call_later(0.01, lambda: made.append(1)))
    ask(worker)
    worker.pause()
    early = len(made)
    time.sleep(0.05)
    assert len(made) == early
    worker.resume()
    assert eventually(lambda: made == [1])


def test_thread_that_waits_for_a_later_call_ends(worker: Worker) -> None:
    worker.call(lambda: worker.call_later(3600, lambda: None))
    ask(worker)

    begin = time.monotonic()
    worker.close()

    assert time.monotonic() - begin < PATIENCE


def test_readable_and_writable_are_watched_apart(worker: Worker) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    seen: list[str] = []

    def read() -> None:
        seen.append(ours.recv(10).decode())

    def write() -> None:
        seen.append("room")
        worker.unwatch(ours.fileno(), readable=False)

    def watch() -> None:
        worker.watch(ours.fileno(), read)
        worker.watch(ours.fileno(), write, writable=True)

    worker.call(watch)
    assert eventually(lambda: seen == ["room"])
    theirs.send(b"in")
    assert eventually(lambda: seen == ["room", "in"])
    worker.call(lambda: worker.unwatch(ours.fileno()))
    ask(worker)
    theirs.send(b"more")
    ask(worker)
    assert seen == ["room", "in"]
    ours.close()
    theirs.close()


def test_hang_up_of_what_nobody_watches_does_not_wake_the_thread(worker: Worker) -> None:
    ours, theirs = socket.socketpair()
    worker.call(lambda: worker.watch(ours.fileno(), lambda: None))
    worker.call(lambda: worker.unwatch(ours.fileno(), writable=False))
    ask(worker)
    theirs.close()
    before = time.process_time()
    time.sleep(0.1)
    assert time.process_time() - before < 0.05
    ours.close()


def test_pause_waits_for_a_call_and_holds_the_next(worker: Worker) -> None:
    begun, made = threading.Event(), []

    def slow() -> None:
        begun.set()
        time.sleep(0.05)
        made.append("slow")

    worker.call(slow)
    assert begun.wait(PATIENCE)
    worker.pause()
    assert made == ["slow"]
    worker.call(lambda: made.append("later"))
    time.sleep(0.02)
    assert made == ["slow"]
    worker.resume()
    ask(worker)
    assert made == ["slow", "later"]


def test_pauses_nest(worker: Worker) -> None:
    made: list[int] = []
    worker.pause()
    worker.pause()
    worker.call(lambda: made.append(1))
    worker.resume()
    time.sleep(0.02)
    assert made == []
    worker.resume()
    ask(worker)
    assert made == [1]


def test_resume_without_pause_is_a_defect(worker: Worker) -> None:
    with pytest.raises(InternalError, match="without a pause"):
        worker.resume()


def test_pauses_amid_notifications_never_hang(worker: Worker) -> None:
    """A pause's own notification may be read by the turn that it interrupts."""
    bell = os.eventfd(0, os.EFD_NONBLOCK)
    rung: list[int] = []
    worker.call(lambda: worker.watch(bell, lambda: rung.append(os.eventfd_read(bell))))
    ask(worker)
    ended = threading.Event()

    def disturb() -> None:
        while not ended.is_set():
            os.eventfd_write(bell, 1)
            worker.call(lambda: None)
            time.sleep(0)

    other = threading.Thread(target=disturb)
    other.start()
    for _ in range(2000):
        worker.pause()
        before = len(rung)
        assert len(rung) == before
        worker.resume()
    ended.set()
    other.join()
    ask(worker)
    os.close(bell)


def test_two_threads_may_pause(worker: Worker) -> None:
    def pauses() -> None:
        for _ in range(300):
            worker.pause()
            worker.resume()

    others = [threading.Thread(target=pauses) for _ in range(2)]
    for other in others:
        other.start()
    for other in others:
        other.join(PATIENCE)
    assert not any(other.is_alive() for other in others)
    ask(worker)


def test_exception_ends_the_thread_and_is_told(worker: Worker, failures: list[Exception]) -> None:
    def wrong() -> None:
        raise ValueError("no")

    worker.call(wrong)
    assert eventually(lambda: len(failures) == 1)
    assert eventually(lambda: not worker._thread.is_alive())
    worker.pause()  # a thread that ended is at rest
    worker.resume()


def test_close_while_paused(worker: Worker) -> None:
    worker.pause()
    worker.close()
    assert not worker._thread.is_alive()
    worker.close()


def test_close_before_start_and_in_a_call() -> None:
    idle = Worker("idle", lambda error: None)
    idle.pause()
    idle.close()
    other = Worker("other", lambda error: None)
    other.start()

    def pause_itself() -> None:
        other.pause()
        other.resume()

    other.call(pause_itself)
    ask(other)
    other.close()


def test_asynchronous_signals_are_left_to_others(worker: Worker) -> None:
    masks: list[set[signal.Signals]] = []
    worker.call(lambda: masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, [])))  # type: ignore[arg-type]
    ask(worker)
    assert {signal.SIGINT, signal.SIGTERM, signal.SIGALRM} <= masks[0]
    assert signal.SIGSEGV not in masks[0]
