"""Runs a machine in a thread."""

import signal
import threading
from collections.abc import Callable
from typing import Final

from ringlet.machine.outcome import End
from ringlet.machine.vm import Vm

SYNCHRONOUS: Final = {
    signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS,
}  # fmt: skip
"""The signals of faults, which the guest's thread handles."""


class Runner:
    """Runs `machine` in a thread of its own; once `done` is set, `end` or `error` has the result.

    That thread then calls `on_done`.
    """

    def __init__(self, machine: Vm, on_done: Callable[[], object] = lambda: None) -> None:
        self.machine = machine
        self._on_done = on_done
        self.end: End | None = None
        self.error: BaseException | None = None
        self.done = threading.Event()

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._work, name="vcpu0", daemon=True).start()

    def _work(self) -> None:
        # The vCPU handles the signals of faults; the main thread handles all others.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - SYNCHRONOUS)
        try:
            self.end = self.machine.run()
        except BaseException as error:  # noqa: BLE001 - the waiting thread raises it again
            self.error = error
        finally:
            self.done.set()
            self._on_done()
