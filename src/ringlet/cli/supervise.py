"""Runs a machine in its own thread while the main thread waits for the machine and for signals."""

import signal
from functools import partial
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Final

from ringlet.cli.signals import ending
from ringlet.cli.streams import complain
from ringlet.machine import outcome
from ringlet.machine.outcome import End, EndKind
from ringlet.machine.runner import Runner
from ringlet.machine.vm import Vm

_GRACE_S: Final = 2.0
"""How long to wait for a vCPU that was told to stop; it may be blocked on a full pipe."""
_TURNING_OFF_S: Final = 10.0
"""How long a guest may take to turn itself off after SIGTERM, as `ringlet stop` allows."""
_ENDED: Final = 0


def supervise(machine: Vm) -> End:
    """Run `machine` and return how it ended; a signal ends it with 128 + its number.

    SIGTERM presses the power button of a guest that heeds it, and ends the others at once, as every
    other signal and a second one do.  Must be called from the main thread.  Exceptions of `Vm.run`
    are raised again here.
    """
    # A signal does not end a wait for an event, and a signal handler may use no other queue.
    news: SimpleQueue[int] = SimpleQueue()  # numbers of signals, or _ENDED
    run = Runner(machine, partial(news.put, _ENDED))
    asked: list[End] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        news.put(number)

    def on_stop(end: End) -> None:
        asked.append(end)
        news.put(_ENDED)

    machine.attach_stop(on_stop)
    previous = {number: signal.signal(number, on_signal) for number in ending()}
    try:
        run.start()
        pressed = _wait(machine, news)
        run.done.wait(_GRACE_S)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if run.error is not None:
        raise run.error
    end = run.end or asked[0]
    return outcome.stopped(pressed) if pressed and end.kind is EndKind.POWER_OFF else end


def _wait(machine: Vm, news: SimpleQueue[int]) -> int:
    """Wait until the machine has ended or was told to, and tell it what signals ask for.

    Return the signal for which the power button was pressed, or 0.
    """
    number, pressed = news.get(), 0
    if number == signal.SIGTERM and machine.press_power_button():
        complain("the guest is turning itself off; a second signal cuts its power")
        pressed = number
        try:
            number = news.get(timeout=_TURNING_OFF_S)
        except Empty:
            number = pressed
    if number != _ENDED:
        machine.stop(outcome.stopped(number))
    return pressed
