"""Calls into the guest's thread, which alone may use the processor and the devices."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, TypeVar

from ringlet.errors import ConfigError, GuestEnded
from ringlet.machine.vm import Vm

T = TypeVar("T")
_POLL_S: Final = 0.1
"""How often a paused guest checks whether its run was ended."""


class GuestThread:
    """Runs calls on the guest's thread, and pauses the guest there.  Any thread may use this.

    A call waits for an instruction at which the guest can stop; within microseconds it does.
    """

    def __init__(self) -> None:
        self._machine: Vm | None = None
        self._waiting: deque[tuple[Callable[[], object], Future[object]]] = deque()
        self._changed = threading.Condition()
        self._paused = False
        self._ended = False
        self._ident = 0

    @property
    def paused(self) -> bool:
        """Return whether the guest is paused."""
        return self._paused

    def attach(self, machine: Vm) -> None:
        """Use `machine` from now on: the first one, or the next one after a reset."""
        with self._changed:
            self._machine = machine
            if self._waiting or self._paused:
                machine.post(self._serve)

    def begins(self) -> None:
        """Record that the calling thread is the guest's."""
        self._ident = threading.get_ident()

    def call(self, function: Callable[[], T]) -> T:
        """Return what `function` returns on the guest's thread, or raise what it raises there.

        Raises GuestEnded if the guest has ended, ConfigError if it was not started.
        """
        if threading.get_ident() == self._ident:
            return function()
        future: Future[object] = Future()
        with self._changed:
            if self._ended:
                raise GuestEnded("the guest has ended; its processor and memory are gone")
            if self._machine is None:
                raise ConfigError("this machine was not started; call start()")
            self._waiting.append((function, future))
            self._machine.post(self._serve)
            self._changed.notify_all()
        return future.result()  # type: ignore[return-value]  # it is the function's result

    def pause(self) -> None:
        """Stop the guest until `resume`; its clocks go on.  Raises GuestEnded."""

        def stop() -> None:
            self._paused = True

        self.call(stop)

    def resume(self) -> None:
        """Let a paused guest go on; a guest that is not paused is left as it is."""
        with self._changed:
            self._paused = False
            self._changed.notify_all()

    def end(self) -> None:
        """Record that the guest has ended: calls that wait, and later ones, raise GuestEnded."""
        with self._changed:
            self._ended = True
            self._paused = False
            self._machine = None
            waiting, self._waiting = self._waiting, deque()
        for _, future in waiting:
            future.set_exception(GuestEnded("the guest has ended"))

    def _serve(self) -> None:
        """Run the calls that wait; while the guest is paused, wait for more."""
        machine = self._machine
        while True:
            with self._changed:
                while not self._waiting:
                    if not self._paused or machine is None or machine.ended:
                        return
                    self._changed.wait(_POLL_S)
                function, future = self._waiting.popleft()
            try:
                future.set_result(function())
            except BaseException as error:  # noqa: BLE001 - the caller's thread raises it
                future.set_exception(error)
