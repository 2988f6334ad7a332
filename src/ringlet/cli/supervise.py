"""Runs a machine in a thread of its own while this one waits for it and for signals."""

import signal
from functools import partial
from queue import SimpleQueue
from types import FrameType
from typing import Final

from ringlet.cli.signals import ending
from ringlet.machine import outcome
from ringlet.machine.machine import Machine
from ringlet.machine.outcome import End
from ringlet.machine.runner import Runner

_GRACE_S: Final = 2.0
"""How long a vCPU that was told to stop may take: it may be writing to a full pipe."""


def supervise(machine: Machine) -> End:
    """Run `machine` and return how it ended; SIGINT, SIGTERM and SIGHUP end it with 128 + signal.

    Call it from the main thread.  What `Machine.run` raises is raised here.
    """
    # A wait for an event is not ended by a signal; and only this queue may be used by its handler.
    news: SimpleQueue[None] = SimpleQueue()
    run = Runner(machine, partial(news.put, None))
    asked: list[End] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        # A second one may come while the first is here, within a lock.
        if not asked:
            asked.append(outcome.stopped(number))
            machine.stop(asked[0])
            news.put(None)

    previous = {number: signal.signal(number, on_signal) for number in ending()}
    try:
        run.start()
        news.get()
        run.done.wait(_GRACE_S)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if run.error is not None:
        raise run.error
    return run.end or asked[0]
