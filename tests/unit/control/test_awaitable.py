"""Methods that wait in threads, for coroutines."""

import asyncio
import threading

import pytest

from ringlet.control.awaitable import Awaitables, in_thread


class Blocks:
    """Methods that wait for each other."""

    def __init__(self) -> None:
        self.meeting = threading.Barrier(40)
        self.value = 7

    def meet(self, number: int) -> int:
        self.meeting.wait(10)
        return number

    def fail(self) -> None:
        raise KeyError("mine")


def test_many_may_wait_at_once() -> None:
    """Each has a thread, so that none waits for another's."""
    things = Awaitables(Blocks())

    async def all_of_them() -> list[int]:
        return list(await asyncio.gather(*(things.meet(i) for i in range(40))))

    assert asyncio.run(all_of_them()) == list(range(40))


def test_errors_and_values_are_the_objects() -> None:
    things = Awaitables(Blocks())

    async def fail() -> None:
        await things.fail()

    with pytest.raises(KeyError, match="mine"):
        asyncio.run(fail())
    assert things.value == 7


def test_cancelled_wait_leaves_the_thread_alone() -> None:
    go = threading.Event()
    done = threading.Event()

    def work() -> None:
        go.wait(10)
        done.set()

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(in_thread(work), 0.02)

    asyncio.run(give_up())
    go.set()

    assert done.wait(10)
