"""Runs a machine in its own thread while the main thread waits for the machine and for signals."""

import signal
from functools import partial
from queue import SimpleQueue
from types import FrameType
from typing import Final

from ringlet.cli.signals import ending
from ringlet.machine import outcome
from ringlet.machine.outcome import End
from ringlet.machine.runner import Runner
from ringlet.machine.vm import Vm

_GRACE_S: Final = 2.0
"""How long to wait for a vCPU that was told to stop; it may be blocked on a full pipe."""


def supervise(machine: Vm) -> End:
    """Run `machine` and return how it ended; a signal ends it with 128 + its number.

    Must be called from the main thread.  Exceptions of `Vm.run` are raised again here.
    """
    # A signal does not end a wait for an event, and a signal handler may use no other queue.
    news: SimpleQueue[None] = SimpleQueue()
    run = Runner(machine, partial(news.put, None))
    asked: list[End] = []
    signals: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        # A second signal may arrive while the handler of the first holds a lock.
        if not signals:
            signals.append(number)
            machine.stop(outcome.stopped(number))

    def on_stop(end: End) -> None:
        asked.append(end)
        news.put(None)

    machine.attach_stop(on_stop)
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
