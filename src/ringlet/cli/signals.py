"""Signals that end the command, wherever it is: `Stopped` is raised in the main thread.

What the command has begun is then undone by the same `finally` and `with` as after any exception.
"""

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SOON_S: Final = 0.005


class Stopped(BaseException):
    """Signal `number` asks the command to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_status = status_of(number)


def status_of(number: int) -> int:
    """Return the exit status by which a shell reports a process that a signal ended."""
    return 128 + number


def ending() -> list[signal.Signals]:
    """Return the signals that end the command: all but those it was started to ignore (nohup)."""
    return [number for number in _ENDING if signal.getsignal(number) is not signal.SIG_IGN]


class Asked:
    """Whether a signal has asked for the end.

    `number` is the signal's, or 0.  `depth` is how deep in `held` the main thread is, and `waits`
    whether the signal has come there.
    """

    number = 0
    depth = 0
    waits = False


@contextlib.contextmanager
def stoppable() -> Iterator[type[Asked]]:
    """Let signals raise `Stopped` in the body; the first alone: what it undoes is not disturbed.

    It may come out as another exception, made of it by whatever code it struck.
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
    """Let the body be done as a whole: a signal is heeded after it.  For the main thread."""
    Asked.depth += 1
    try:
        yield
    finally:
        Asked.depth -= 1
        if Asked.waits and not Asked.depth:
            Asked.waits = False
            raise Stopped(Asked.number)


def _on_signal(number: int, frame: FrameType | None) -> None:
    if number != signal.SIGALRM:
        if Asked.number:
            return
        Asked.number = number
    if Asked.depth:
        Asked.waits = True
    else:
        raise Stopped(Asked.number)


def _on_unraisable(info: "UnraisableHookArgs") -> None:
    """Raise `Stopped` anew if it was raised where nothing can be, as in a finalizer."""
    if isinstance(info.exc_value, Stopped):
        signal.setitimer(signal.ITIMER_REAL, _SOON_S)
    else:
        sys.__unraisablehook__(info)
