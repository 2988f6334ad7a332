"""The transfer of the window's size to a guest."""

import queue
from collections.abc import Iterator

import pytest

from ringlet.cli.terminal import WindowSize
from ringlet.cli.window import Window

FIRST, SECOND, THIRD = WindowSize(24, 80), WindowSize(30, 100), WindowSize(50, 132)


class Guest:
    """Receives sizes; it waits a little for the next one, so that a late size is not missed."""

    def __init__(self) -> None:
        self.sizes: queue.Queue[WindowSize] = queue.Queue()
        self.failures: list[Exception] = []
        self.window = Window(self.sizes.put, FIRST, self.failures.append)
        self.window.start()

    def next(self) -> WindowSize:
        return self.sizes.get(timeout=10)

    def hears_nothing(self) -> bool:
        try:
            self.sizes.get(timeout=0.05)
        except queue.Empty:
            return True
        return False


@pytest.fixture
def guest() -> Iterator[Guest]:
    guest = Guest()
    yield guest
    guest.window.stop()


def test_a_change_is_sent(guest: Guest) -> None:
    guest.window.guest_listens()
    guest.window.changed(SECOND)

    assert guest.next() == SECOND
    guest.window.changed(FIRST)
    assert guest.next() == FIRST


def test_a_change_before_the_guest_listens_is_sent_when_it_does(guest: Guest) -> None:
    guest.window.changed(SECOND)
    guest.window.changed(THIRD)
    quiet = guest.hears_nothing()
    guest.window.guest_listens()

    assert quiet
    assert guest.next() == THIRD
    assert guest.hears_nothing()


def test_a_size_that_the_guest_knows_is_not_sent(guest: Guest) -> None:
    guest.window.changed(FIRST)
    guest.window.guest_listens()

    assert guest.hears_nothing()


def test_a_guest_that_starts_again_gets_the_size_again(guest: Guest) -> None:
    guest.window.guest_listens()
    guest.window.changed(SECOND)
    first = guest.next()
    guest.window.guest_listens()

    assert (first, guest.next()) == (SECOND, SECOND)


def test_an_unchanged_window_can_be_stopped() -> None:
    failures: list[Exception] = []
    window = Window(lambda size: None, FIRST, failures.append)
    window.start()
    window.stop()

    assert not window._thread.is_alive()
    assert failures == []


def test_what_sending_raises_is_told() -> None:
    def send(size: WindowSize) -> None:
        raise ZeroDivisionError

    failures: queue.Queue[Exception] = queue.Queue()
    window = Window(send, FIRST, failures.put)
    window.start()
    window.guest_listens()
    window.changed(SECOND)

    assert isinstance(failures.get(timeout=10), ZeroDivisionError)
