"""The thread of a device: it waits for notifications and does the device's work."""

import os
import select
import threading
from collections import deque
from collections.abc import Callable

from ringlet.devices.virtio.threads import block_signals
from ringlet.errors import InternalError


class Worker:
    """A thread that calls functions when descriptors are ready, one call at a time.

    An exception of a call ends the thread and is passed to `failed`.
    """

    def __init__(self, name: str, failed: Callable[[Exception], None]) -> None:
        self._failed = failed
        self._calls: deque[Callable[[], None]] = deque()
        self._watched: dict[int, Callable[[], None]] = {}
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
        """Call `call` whenever `fd` is readable, or writable, until `unwatch`."""
        mask = select.EPOLLOUT if writable else select.EPOLLIN
        if fd in self._watched:
            self._poll.modify(fd, mask)
        else:
            self._poll.register(fd, mask)
        self._watched[fd] = call

    def unwatch(self, fd: int) -> None:
        """Forget `fd`.  Call this before it is closed."""
        if self._watched.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def call(self, call: Callable[[], None]) -> None:
        """Let the thread call `call` soon.  Any thread may ask for this."""
        self._calls.append(call)
        os.eventfd_write(self._wake, 1)

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
        for fd, _events in self._poll.poll():
            if self._pauses or self._ended:
                break
            if fd != self._wake and fd in self._watched:
                self._watched[fd]()
        self._park()
        if self._ended:
            return
        try:
            os.eventfd_read(self._wake)
        except BlockingIOError:
            return
        while self._calls and not self._pauses:
            self._calls.popleft()()
        if self._calls:
            os.eventfd_write(self._wake, 1)

    def _park(self) -> None:
        with self._changed:
            while self._pauses and not self._ended:
                self._parked = True
                self._changed.notify_all()
                self._changed.wait()
            self._parked = False
