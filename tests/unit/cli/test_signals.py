"""Signals that end the command: what is cleaned up, and what is left alone."""

import signal
import time
from collections.abc import Iterator

import pytest

from ringlet.cli.signals import Stopped, ending, held, stoppable

HUP, INT, TERM, QUIT = signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGQUIT


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Check that the signals' handlers are restored."""
    numbers = (HUP, INT, TERM, QUIT, signal.SIGALRM)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.mark.parametrize("number", [HUP, INT, TERM, QUIT, signal.SIGALRM])
def test_a_signal_is_raised_where_the_main_thread_is(number: signal.Signals) -> None:
    with stoppable() as asked, pytest.raises(Stopped) as caught:
        signal.raise_signal(number)

    assert caught.value.exit_status == 128 + number
    assert asked.number == number


def test_cleanup_is_not_disturbed_by_another_signal() -> None:
    undone: list[str] = []

    def work() -> None:
        try:
            signal.raise_signal(TERM)
        finally:
            signal.raise_signal(INT)
            undone.append("all")

    with stoppable(), pytest.raises(Stopped) as caught:
        work()

    assert (caught.value.exit_status, undone) == (128 + TERM, ["all"])


def test_a_signal_waits_for_the_end_of_a_held_body() -> None:
    done: list[str] = []

    def work() -> None:
        with held():
            with held():
                signal.raise_signal(TERM)
                done.append("inner")
            done.append("outer")
        done.append("more")

    with stoppable(), pytest.raises(Stopped):
        work()

    assert done == ["inner", "outer"]


def test_a_signal_that_waited_is_raised_once() -> None:
    with stoppable():
        with pytest.raises(Stopped), held():
            signal.raise_signal(TERM)
        with held():
            pass


def test_an_ignored_signal_stays_ignored() -> None:
    previous = signal.signal(HUP, signal.SIG_IGN)
    try:
        with stoppable():
            signal.raise_signal(HUP)
            numbers = ending()
    finally:
        signal.signal(HUP, previous)

    assert numbers == [INT, TERM, QUIT]


class Finalized:
    """Receives a signal where an exception cannot propagate."""

    def __del__(self) -> None:
        signal.raise_signal(TERM)


def test_a_signal_within_a_finalizer_is_raised_after_it(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        Finalized()
        time.sleep(10)

    with stoppable(), pytest.raises(Stopped):
        work()

    assert capsys.readouterr().err == ""


def test_other_errors_of_finalizers_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    class Faulty:
        def __del__(self) -> None:
            raise ValueError("faulty")

    with stoppable():
        Faulty()

    assert "ValueError: faulty" in capsys.readouterr().err
