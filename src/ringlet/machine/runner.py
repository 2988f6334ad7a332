"""Runs a machine in a thread."""

import threading
from collections.abc import Callable

from ringlet.devices.virtio.threads import block_signals
from ringlet.machine.outcome import End
from ringlet.machine.vm import Vm


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
        block_signals()
        try:
            self.end = self.machine.run()
        except BaseException as error:  # noqa: BLE001 - the waiting thread raises it again
            self.error = error
        finally:
            self.done.set()
            self._on_done()
