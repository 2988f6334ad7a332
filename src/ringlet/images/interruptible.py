"""Calls that a signal ends at once, though the C library answers none while it looks for a host."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from ringlet.devices.virtio.threads import block_signals

T = TypeVar("T", bound=AbstractContextManager[Any])


def interruptible(function: Callable[[], T]) -> T:
    """Return what `function` returns, which runs in a thread of its own.  Raises what it raises.

    If a signal handler raises an exception meanwhile, the result is closed when it comes.
    """
    future: Future[T] = Future()
    threading.Thread(
        target=_work, args=(function, future), name="ringlet-network", daemon=True
    ).start()
    try:
        return future.result()
    except BaseException:
        future.add_done_callback(_close)
        raise
    finally:
        del future  # an exception knows this frame, and would be kept by what it keeps


def _work(function: Callable[[], T], future: Future[T]) -> None:
    block_signals()
    try:
        future.set_result(function())
    except Exception as error:  # noqa: BLE001 - the caller raises it
        future.set_exception(error)
    finally:
        del future


def _close(future: Future[T]) -> None:
    if future.exception() is None:
        with future.result():
            """Nobody waits for it any longer."""
