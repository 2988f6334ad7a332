"""Turns the signals that end the command into the exception `Stopped` in the main thread.

The same `finally` and `with` then clean up as after any other exception.
"""

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_SOON_S: Final = 0.005


class Stopped(BaseException):
    """The exception raised when signal `number` asks the command to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_status = status_of(number)


def status_of(number: int) -> int:
    """Return the exit status by which a shell reports a process that a signal ended."""
    return 128 + number


def ending() -> list[signal.Signals]:
    """Return the signals that end the command: all but those ignored at its start (nohup)."""
    return [number for number in _ENDING if signal.getsignal(number) is not signal.SIG_IGN]


class Asked:
    """The signal, if any, that has asked the command to end.

    `number` is the signal's number, or 0.  `depth` counts the main thread's nested `held` blocks.
    `waits` is true if the signal arrived in one of them.
    """

    number = 0
    depth = 0
    waits = False


@contextlib.contextmanager
def stoppable() -> Iterator[type[Asked]]:
    """Let the first signal raise `Stopped` in the body; later signals do not disturb the cleanup.

    The code that the signal interrupts may turn `Stopped` into another exception.
    """
    previous = {n: signal.signal(n, _on_signal) for n in (*ending(), signal.SIGALRM)}
    hook, sys.unraisablehook = sys.unraisablehook, _on_unraisable
    Asked.number = 0
    try:
        yield Asked
    finally:
        sys.unraisablehook = hook
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Run the body to its end before a signal takes effect.  Only the main thread may use this."""
    Asked.depth += 1
    try:
        yield
    finally:
        Asked.depth -= 1
        if Asked.waits and not Asked.depth:
            Asked.waits = False
            raise Stopped(Asked.number)


def let_go() -> None:
    """Let signals take effect in a child that was forked in a `held` body.

    Raises Stopped if one has come meanwhile.
    """
    Asked.depth = 0
    if Asked.waits:
        Asked.waits = False
        raise Stopped(Asked.number)


def _on_signal(number: int, frame: FrameType | None) -> None:
    if not Asked.number:
        Asked.number = number
    elif number != signal.SIGALRM:  # which `_on_unraisable` has set
        return
    if Asked.depth:
        Asked.waits = True
    else:
        raise Stopped(Asked.number)


def _on_unraisable(info: "UnraisableHookArgs") -> None:
    """Raise `Stopped` again if it was raised where exceptions are lost, as in a finalizer."""
    if isinstance(info.exc_value, Stopped):
        signal.setitimer(signal.ITIMER_REAL, _SOON_S)
    else:
        sys.__unraisablehook__(info)
