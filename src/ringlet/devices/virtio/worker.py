"""The thread of a device: it waits for notifications and does the device's work."""

import contextlib
import heapq
import itertools
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from ringlet.devices.virtio.threads import block_signals
from ringlet.errors import InternalError

_GONE: Final = select.EPOLLHUP | select.EPOLLERR


class Worker:
    """A thread that calls functions when descriptors are ready, one call at a time.

    An exception of a call ends the thread and is passed to `failed`.
    """

    def __init__(self, name: str, failed: Callable[[Exception], None]) -> None:
        self._failed = failed
        self._calls: deque[Callable[[], None]] = deque()
        self._readers: dict[int, Callable[[], None]] = {}
        self._writers: dict[int, Callable[[], None]] = {}
        self._later: list[tuple[float, int, Callable[[], None]]] = []  # a heap, the next one first
        self._numbers = itertools.count()  # calls of one moment are made in their order
        self._hangups: dict[int, Callable[[], None]] = {}
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.epoll()
        self._poll.register(self._wake, select.EPOLLIN)
        self._pauses = 0
        self._changed = threading.Condition()
        self._parked = False
        self._ended = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def watch(self, fd: int, call: Callable[[], None], *, writable: bool = False) -> None:
        """Call `call` whenever `fd` is readable, or else writable, until `unwatch`.

        Each may be watched for.  Once the thread runs, only the thread itself asks for this.
        """
        before = self._mask(fd)
        (self._writers if writable else self._readers)[fd] = call
        self._update(fd, before)

    def watch_hangup(self, fd: int, call: Callable[[], None]) -> None:
        """Call `call` whenever the other side of `fd` is closed, until `unwatch`.

        What can be read does not matter, nor that the other side has only ended what it sends.
        Only the thread itself asks for this.
        """
        before = self._mask(fd)
        self._hangups[fd] = call
        self._update(fd, before)

    def unwatch(self, fd: int, *, readable: bool = True, writable: bool = True) -> None:
        """Forget `fd`, wholly before it is closed, or what it is not to be watched for.

        A hang-up belongs to what is readable.
        """
        before = self._mask(fd)
        if readable:
            self._readers.pop(fd, None)
            self._hangups.pop(fd, None)
        if writable:
            self._writers.pop(fd, None)
        self._update(fd, before)

    def call(self, call: Callable[[], None]) -> None:
        """Let the thread call `call` soon, unless it has ended.  Any thread may ask for this."""
        with self._changed:
            if not self._ended:
                self._calls.append(call)
                os.eventfd_write(self._wake, 1)

    def call_later(self, seconds: float, call: Callable[[], None]) -> None:
        """Let the thread call `call` once, in `seconds` or when it goes on after a pause.

        Once the thread runs, only the thread itself asks for this.
        """
        heapq.heappush(self._later, (time.monotonic() + seconds, next(self._numbers), call))

    def pause(self) -> None:
        """Return when the thread waits and will do nothing until `resume`; pauses nest."""
        with self._changed:
            self._pauses += 1
            if not self._thread.is_alive() or threading.current_thread() is self._thread:
                return
            os.eventfd_write(self._wake, 1)
            self._changed.wait_for(lambda: self._parked or self._ended)

    def resume(self) -> None:
        """End the effect of one `pause`."""
        with self._changed:
            if not self._pauses:
                raise InternalError("a device's thread was resumed without a pause", {})
            self._pauses -= 1
            self._changed.notify_all()

    @property
    def wanted_away(self) -> bool:
        """Return whether a long call on the thread should return, because someone waits."""
        return bool(self._pauses) or self._ended

    def close(self) -> None:
        """End the thread and wait for its end."""
        with self._changed:
            if self._ended:
                return
            self._ended = True
            self._changed.notify_all()
        os.eventfd_write(self._wake, 1)
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()
        self._poll.close()
        os.close(self._wake)
        self._calls.clear()
        self._later.clear()
        self._readers.clear()
        self._writers.clear()
        self._hangups.clear()

    # --- the thread

    def _run(self) -> None:
        block_signals()
        try:
            while not self._ended:
                self._turn()
        except Exception as error:  # noqa: BLE001 - the machine reports it
            self._failed(error)
        finally:
            with self._changed:
                self._parked = True
                self._changed.notify_all()

    def _turn(self) -> None:
        for fd, events in self._poll.poll(self._patience()):
            if self._pauses or self._ended:
                break
            self._dispatch(fd, events)
        # What was written before this is seen below; what is written later wakes the next poll.
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        self._park()
        if self._ended:
            return
        while self._calls and not self._pauses:
            self._calls.popleft()()
        if self._calls:
            os.eventfd_write(self._wake, 1)
        while not self._pauses and self._later and self._patience() == 0:
            heapq.heappop(self._later)[2]()

    def _patience(self) -> float | None:
        """Return the seconds until a call of `call_later`; None if there is none."""
        return max(0.0, self._later[0][0] - time.monotonic()) if self._later else None

    def _dispatch(self, fd: int, events: int) -> None:
        """Call what waits for `fd`; after an error or a hang-up both may go on."""
        if events & ~select.EPOLLOUT and (call := self._readers.get(fd)) is not None:
            call()
        if events & ~select.EPOLLIN and (call := self._writers.get(fd)) is not None:
            call()
        if events & _GONE and (call := self._hangups.get(fd)) is not None:
            call()

    def _mask(self, fd: int) -> int:
        readable = select.EPOLLIN if fd in self._readers else 0
        gone = _GONE if fd in self._hangups else 0  # always told of, once anything is asked for
        return readable | gone | (select.EPOLLOUT if fd in self._writers else 0)

    def _update(self, fd: int, before: int) -> None:
        """Tell the poll; what nobody waits for is unknown to it, or a hang-up would wake it."""
        mask = self._mask(fd)
        if not before and mask:
            self._poll.register(fd, mask)
        elif before and not mask:
            self._poll.unregister(fd)
        elif mask != before:
            self._poll.modify(fd, mask)

    def _park(self) -> None:
        with self._changed:
            while self._pauses and not self._ended:
                self._parked = True
                self._changed.notify_all()
                self._changed.wait()
            self._parked = False
