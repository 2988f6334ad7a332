"""Calls into the guest's thread, and pauses, with a machine that only runs what is posted."""

import threading
import time
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import cast

import pytest

from ringlet.control.guest_thread import GuestThread
from ringlet.errors import ConfigError, GuestEnded
from ringlet.machine.vm import Vm


class FakeVm:
    """A machine whose guest does nothing but count."""

    def __init__(self, thread: GuestThread) -> None:
        self.posted: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.ended = False
        self.turns = 0
        self.ident = 0
        self._thread = thread
        self._runner = threading.Thread(target=self._run)

    def post(self, call: Callable[[], None]) -> None:
        self.posted.put(call)

    def start(self) -> None:
        self._runner.start()

    def _run(self) -> None:
        self._thread.begins()
        self.ident = threading.get_ident()
        while not self.ended:
            self.turns += 1
            if not self.posted.empty():
                self.posted.get()()
            time.sleep(0.0005)
        self._thread.end()

    def stop(self) -> None:
        self.ended = True
        self._runner.join(10)
        assert not self._runner.is_alive()


@pytest.fixture
def thread() -> GuestThread:
    return GuestThread()


@pytest.fixture
def machine(thread: GuestThread) -> Iterator[FakeVm]:
    machine = FakeVm(thread)
    thread.attach(cast("Vm", machine))
    machine.start()
    yield machine
    machine.stop()


def test_calls_are_made_on_the_guests_thread(thread: GuestThread, machine: FakeVm) -> None:
    assert thread.call(threading.get_ident) == machine.ident
    assert thread.call(lambda: thread.call(threading.get_ident)) == machine.ident


def test_errors_are_the_callers(thread: GuestThread, machine: FakeVm) -> None:
    def wrong() -> None:
        raise ConfigError("no")

    with pytest.raises(ConfigError, match="no"):
        thread.call(wrong)
    assert thread.call(lambda: 1) == 1


def test_paused_guest_stands_still_and_answers(thread: GuestThread, machine: FakeVm) -> None:
    thread.pause()
    before = machine.turns
    answers = [thread.call(lambda: 7) for _ in range(3)]

    assert thread.paused
    assert answers == [7, 7, 7]
    assert machine.turns == before
    thread.resume()
    end = time.monotonic() + 10
    while machine.turns == before:
        assert time.monotonic() < end


def test_paused_guest_can_be_ended(thread: GuestThread, machine: FakeVm) -> None:
    thread.pause()
    machine.stop()

    assert not thread.paused
    with pytest.raises(GuestEnded):
        thread.pause()


def test_calls_that_wait_learn_of_the_end(thread: GuestThread) -> None:
    machine = FakeVm(thread)
    thread.attach(cast("Vm", machine))
    ended = threading.Timer(0.05, thread.end)
    ended.start()

    with pytest.raises(GuestEnded):
        thread.call(lambda: 1)
    with pytest.raises(GuestEnded):
        thread.call(lambda: 1)
    ended.join()


def test_calls_that_wait_are_made_by_the_next_machine(thread: GuestThread) -> None:
    thread.attach(cast("Vm", FakeVm(thread)))  # one that resets before it runs anything
    results: list[int] = []
    caller = threading.Thread(target=lambda: results.append(thread.call(lambda: 5)))
    caller.start()
    time.sleep(0.05)
    next_one = FakeVm(thread)
    thread.attach(cast("Vm", next_one))
    next_one.start()
    caller.join(10)
    next_one.stop()

    assert results == [5]
