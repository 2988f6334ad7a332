"""Runs a machine in a thread of its own while this one waits for it and for signals."""

import signal
import threading
from types import FrameType
from typing import Final

from ringlet.machine import outcome
from ringlet.machine.machine import Machine
from ringlet.machine.outcome import End
from ringlet.machine.runner import Runner

_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_GRACE_S: Final = 2.0
"""How long a vCPU that was told to stop may take: it may be writing to a full pipe."""


def supervise(machine: Machine) -> End:
    """Run `machine` and return how it ended; SIGINT, SIGTERM and SIGHUP end it with 128 + signal.

    Call it from the main thread.  What `Machine.run` raises is raised here.
    """
    run = Runner(machine)
    told = threading.Event()
    asked: list[End] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        asked.append(outcome.stopped(number))
        machine.stop(asked[0])
        told.set()

    previous = {number: signal.signal(number, on_signal) for number in _ENDING}
    try:
        run.start()
        while not run.done.wait(None if not asked else _GRACE_S):
            if asked:
                break
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if run.error is not None:
        raise run.error
    return run.end or asked[0]
