"""Direct processes on hosts whose Linux does less for them."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from ringlet.core.state import Exit
from ringlet.direct.linux import WAKES_HERE, linux_version
from ringlet.direct.zygote import Zygote
from ringlet.machine.host import LEAST_KERNEL
from tests.unit.direct.board import SYSCALL, DirectBoard, suicide
from tests.unit.direct.guest import SIGSYS, DirectGuest
from tests.unit.direct.stops import LOOP

PATIENCE = 10


@dataclass
class Observed:
    """On which processors a thread of a processor and its direct process may run, in a loop."""

    thread: set[int] = field(default_factory=set)
    process: set[int] = field(default_factory=set)

    def look(self, thread: int, board: DirectBoard) -> bool:
        """Tell whether both are kept on the same one."""
        self.thread = os.sched_getaffinity(thread)
        self.process = os.sched_getaffinity(board.made[-1]) if board.made else set()
        return len(self.thread) == 1 and self.thread == self.process


def observe(board: DirectBoard, change: set[int] | None = None) -> Observed:
    """Run a loop; wait until both are kept, change where the thread may run, and stop it."""
    seen = Observed()
    runner = threading.get_native_id()

    def watch() -> None:
        end = time.monotonic() + PATIENCE
        while not seen.look(runner, board) and time.monotonic() < end:
            time.sleep(0.01)
        if change is not None:
            os.sched_setaffinity(runner, change)
        board.p.kick()

    watcher = threading.Thread(target=watch)
    watcher.start()
    assert board.user(LOOP) == Exit.EXIT_INTERRUPTED
    watcher.join()
    return seen


@pytest.fixture
def older_host() -> DirectBoard:
    return DirectBoard(Zygote(linux=LEAST_KERNEL))


def test_both_are_kept_on_one_processor_and_then_let_go(older_host: DirectBoard) -> None:
    before = os.sched_getaffinity(0)

    seen = observe(older_host)

    assert seen.thread == seen.process
    assert len(seen.thread) == 1
    assert os.sched_getaffinity(0) == before


def test_processors_that_another_program_chose_meanwhile_stay(older_host: DirectBoard) -> None:
    every = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(every)})
    try:
        observe(older_host, every)

        assert os.sched_getaffinity(0) == every
    finally:
        os.sched_setaffinity(0, every)


@pytest.mark.skipif(linux_version() < WAKES_HERE, reason="Linux before 6.6 does not see to it")
def test_nobody_is_kept_where_linux_sees_to_it() -> None:
    board = DirectBoard(Zygote())
    before = os.sched_getaffinity(0)
    seen: list[set[int]] = []
    runner = threading.get_native_id()

    def watch() -> None:
        time.sleep(0.3)
        seen.append(os.sched_getaffinity(runner))
        board.p.kick()

    watcher = threading.Thread(target=watch)
    watcher.start()
    board.user(LOOP)
    watcher.join()

    assert seen == [before]


@pytest.fixture
def make() -> Iterator[Callable[[bytes], DirectGuest]]:
    guests: list[DirectGuest] = []

    def one(code: bytes) -> DirectGuest:
        guests.append(DirectGuest(Zygote(linux=LEAST_KERNEL), code))
        return guests[-1]

    yield one
    for guest in guests:
        guest.close()


def test_death_in_a_hand_over_is_seen(make: Callable[[bytes], DirectGuest]) -> None:
    guest = make(SYSCALL)
    assert guest.go() == SIGSYS

    guest.process.kill(signal.SIGKILL)

    assert not guest.hands_over()


def test_death_of_a_running_process_is_seen(make: Callable[[bytes], DirectGuest]) -> None:
    guest = make(LOOP)
    killer = threading.Timer(0.05, guest.process.kill, [signal.SIGKILL])
    killer.start()

    assert not guest.hands_over()


def test_programs_whose_process_has_died_go_on(older_host: DirectBoard) -> None:
    assert older_host.user(suicide()) == Exit.EXIT_HLT
    assert older_host.calls(SYSCALL)
