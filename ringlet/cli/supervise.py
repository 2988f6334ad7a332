"""Runs a machine in a thread of its own while this one waits for it and for signals."""

import signal
import threading
from types import FrameType
from typing import Final

from ringlet.machine import outcome
from ringlet.machine.machine import Machine
from ringlet.machine.outcome import End

_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SYNCHRONOUS: Final = {
    signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS,
}  # fmt: skip
_GRACE_S: Final = 2.0
"""How long a vCPU that was told to stop may take: it may be writing to a full pipe."""


class _Run:
    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.end: End | None = None
        self.error: BaseException | None = None
        self.done = threading.Event()

    def work(self) -> None:
        # Signals that tell of a fault are the vCPU's own; all others belong to the main thread.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - _SYNCHRONOUS)
        try:
            self.end = self.machine.run()
        except BaseException as error:  # noqa: BLE001 - raised again by the main thread
            self.error = error
        finally:
            self.done.set()


def supervise(machine: Machine) -> End:
    """Run `machine` and return how it ended; SIGINT, SIGTERM and SIGHUP end it with 128 + signal.

    Call it from the main thread.  What `Machine.run` raises is raised here.
    """
    run = _Run(machine)
    told = threading.Event()
    asked: list[End] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        asked.append(outcome.stopped(number))
        machine.stop(asked[0])
        told.set()

    previous = {number: signal.signal(number, on_signal) for number in _ENDING}
    thread = threading.Thread(target=run.work, name="vcpu0", daemon=True)
    try:
        thread.start()
        while not run.done.wait(None if not asked else _GRACE_S):
            if asked:
                break
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if run.error is not None:
        raise run.error
    return run.end or asked[0]
