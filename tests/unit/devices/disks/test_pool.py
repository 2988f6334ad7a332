"""Counting requests, and threads for them."""

import errno
import threading

from ringlet.devices.backends.disks.pool import Countdown, Gate, Pool


def test_a_gate_closes_when_all_have_left() -> None:
    gate, closed = Gate(), threading.Event()
    gate.enter()
    gate.hold()

    def close() -> None:
        gate.close()
        closed.set()

    closing = threading.Thread(target=close)
    closing.start()

    gate.leave()
    assert not closed.wait(0.05)
    gate.leave()

    assert closed.wait(10)
    closing.join()
    assert gate.enter() == errno.ESHUTDOWN
    assert not gate.close()


def test_a_gate_has_a_bound() -> None:
    gate = Gate(limit=2)

    assert [gate.enter(), gate.enter(), gate.enter()] == [0, 0, errno.EBUSY]
    gate.leave()
    assert gate.enter() == 0


def test_a_defect_in_one_call_is_told_and_the_others_are_made() -> None:
    told: list[str] = []
    made = threading.Event()
    pool = Pool("test", told.append, threads=1)

    def fail() -> None:
        raise ZeroDivisionError

    pool.call(fail)
    pool.call(made.set)
    pool.close()

    assert made.is_set()
    assert len(told) == 1
    assert "ZeroDivisionError" in told[0]


def test_the_last_part_tells_the_first_failure() -> None:
    left = Countdown(3)

    assert [left.count(0), left.count(errno.EIO), left.count(errno.ENOSPC)] == [
        None, None, errno.EIO,
    ]  # fmt: skip
