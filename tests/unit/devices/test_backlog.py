"""The queue between a thread that reads for the guest and the machine's."""

import threading

from ringlet.devices.backends.backlog import Backlog


class Counter:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1


def test_bytes_come_out_in_order() -> None:
    backlog = Backlog(Counter())
    backlog.put(b"abc")
    backlog.put(b"def")

    assert [backlog.take(4), backlog.take(4), backlog.take(4)] == [b"abcd", b"ef", b""]


def test_only_bytes_added_to_an_empty_queue_are_announced() -> None:
    announced = Counter()
    backlog = Backlog(announced)
    backlog.put(b"a")
    backlog.put(b"b")
    first = announced.calls
    backlog.take(2)
    backlog.put(b"c")

    assert (first, announced.calls) == (1, 2)


def test_putting_nothing_announces_nothing() -> None:
    announced = Counter()

    assert Backlog(announced).put(b"")
    assert announced.calls == 0


def test_putting_more_than_fits_waits_until_bytes_are_taken() -> None:
    backlog = Backlog(Counter(), limit=4)
    thread = threading.Thread(target=backlog.put, args=(b"0123456789",))
    thread.start()
    got = b""
    while len(got) < 10:
        got += backlog.take(3)
        assert len(backlog._bytes) <= 4
    thread.join(10)

    assert got == b"0123456789"
    assert not thread.is_alive()


def test_closing_ends_waits() -> None:
    backlog = Backlog(Counter(), limit=1)
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(backlog.put(b"abc")))
    thread.start()
    backlog.close()
    thread.join(10)

    assert results == [False]
    assert not backlog.put(b"x")
    assert backlog.take(1) == b""
