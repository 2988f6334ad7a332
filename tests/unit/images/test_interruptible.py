"""A signal ends a call to the network, even while the C library looks for a host."""

import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

import pytest

from ringlet.errors import ImageError
from ringlet.images.catalog import Images
from ringlet.images.imports import pull
from ringlet.images.interruptible import interruptible
from ringlet.images.store import Store

LONG_S = 2.0
SOON_S = 0.1


class SignalledError(Exception):
    """What the signal handler raises."""


class Result:
    def __init__(self) -> None:
        self.closed = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:  # fmt: skip
        self.closed.set()


def on_alarm(number: int, frame: FrameType | None) -> None:
    raise SignalledError


@pytest.fixture
def alarm() -> Iterator[None]:
    """A signal that comes soon."""
    before = signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, SOON_S)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def look_up(*_: object, flags: int = 0, **__: object) -> None:
    """Let no signal through, as the C library's search for a host does, unless none is needed."""
    if flags & socket.AI_NUMERICHOST:
        raise socket.gaierror(socket.EAI_NONAME, "no address")
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    time.sleep(LONG_S)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


@pytest.mark.usefixtures("alarm")
def test_signal_ends_a_pull_that_looks_for_the_registry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    began = time.monotonic()

    with pytest.raises(SignalledError):
        pull("docker://registry.invalid/name", Images(Store(tmp_path)), lambda text: None)

    assert time.monotonic() - began < LONG_S / 2


@pytest.mark.usefixtures("alarm")
def test_result_that_comes_too_late_is_closed() -> None:
    late, result = threading.Event(), Result()

    def work() -> Result:
        late.wait()
        return result

    with pytest.raises(SignalledError):
        interruptible(work)
    late.set()

    assert result.closed.wait(LONG_S)


def test_result_and_errors_are_the_functions() -> None:
    result = Result()

    def fail() -> Result:
        raise ImageError("why")

    assert interruptible(lambda: result) is result
    assert not result.closed.is_set()
    with pytest.raises(ImageError, match="why"):
        interruptible(fail)
