"""Signals while a machine runs, which this process sends to itself."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import cast

import pytest

from ringlet.cli import supervise as module
from ringlet.cli.supervise import supervise
from ringlet.machine import outcome
from ringlet.machine.outcome import End, EndKind
from ringlet.machine.vm import Vm


class FakeVm:
    """A machine that runs until it is stopped, or turns itself off when its button is pressed."""

    def __init__(
        self, *, heeds: bool, obeys: bool = True, running: Callable[[], None] = lambda: None
    ) -> None:
        self.pressed = 0
        self._heeds, self._obeys, self._running = heeds, obeys, running
        self._end: End | None = None
        self._ended = threading.Event()
        self._stopping: Callable[[End], object] = lambda end: None

    def attach_stop(self, stopping: Callable[[End], object]) -> None:
        self._stopping = stopping

    def press_power_button(self) -> bool:
        self.pressed += self._heeds
        if self._heeds and self._obeys:
            self.finish(outcome.powered_off())
        elif self._heeds:
            os.kill(os.getpid(), signal.SIGTERM)  # the user is impatient
        return self._heeds

    def finish(self, end: End) -> None:
        self._end = self._end or end
        self._ended.set()

    def stop(self, end: End) -> None:
        self.finish(end)
        self._stopping(end)

    def run(self) -> End:
        self._running()
        assert self._ended.wait(20)
        assert self._end is not None
        return self._end


def signalled(number: signal.Signals) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def run(machine: FakeVm) -> End:
    return supervise(cast("Vm", machine))


def test_machine_ends_by_itself() -> None:
    machine = FakeVm(heeds=True)
    machine.finish(outcome.powered_off())

    assert run(machine).kind is EndKind.POWER_OFF
    assert machine.pressed == 0


def test_sigterm_presses_the_button(capsys: pytest.CaptureFixture[str]) -> None:
    machine = FakeVm(heeds=True, running=signalled(signal.SIGTERM))

    assert run(machine) == outcome.stopped(signal.SIGTERM)
    assert machine.pressed == 1
    assert "a second signal cuts its power" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_ends_a_guest_that_does_not_heed_it(number: signal.Signals) -> None:
    machine = FakeVm(heeds=False, running=signalled(number))

    assert run(machine) == outcome.stopped(number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_other_signals_cut_the_power(number: signal.Signals) -> None:
    machine = FakeVm(heeds=True, running=signalled(number))

    assert run(machine) == outcome.stopped(number)
    assert machine.pressed == 0


def test_second_signal_cuts_the_power() -> None:
    machine = FakeVm(heeds=True, obeys=False, running=signalled(signal.SIGTERM))

    assert run(machine) == outcome.stopped(signal.SIGTERM)
    assert machine.pressed == 1


def test_guest_that_takes_too_long_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TURNING_OFF_S", 0.05)
    machine = FakeVm(heeds=True, running=signalled(signal.SIGTERM))
    monkeypatch.setattr(machine, "press_power_button", lambda: True)

    assert run(machine) == outcome.stopped(signal.SIGTERM)
