"""Programs of the host that call the guest through a socket of the file system."""

import contextlib
import socket
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from ringlet.devices.backends.host_sockets import WAITING, HostSockets, wanted_port
from ringlet.devices.virtio.worker import Worker

Call = Callable[[int, socket.socket, Callable[[int], None]], None]
"""Calls a port of the guest, with the stream's socket; tells the host's port, or 0 if refused."""

ACCEPT_AGAIN_S: Final = 0.1
"""Seconds without callers, once the process or the host has too many files."""


class Callers:
    """The connections of `host` that have not said yet which port of the guest they want."""

    def __init__(self, host: HostSockets, worker: Worker, call: Call) -> None:
        self._host = host
        self._worker = worker
        self._call = call
        self._waiting: deque[socket.socket] = deque()
        self._listen()

    def close(self) -> None:
        """Close the connections, after the worker has ended."""
        while self._waiting:
            self._waiting.popleft().close()

    # --- the device's thread

    def _listen(self) -> None:
        self._worker.watch(self._host.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            sock = self._host.accept()
        except OSError:  # the caller waits, and would wake the thread again at once
            self._worker.unwatch(self._host.fileno())
            self._worker.call_later(ACCEPT_AGAIN_S, self._listen)
            return
        if sock is None:
            return
        if len(self._waiting) >= WAITING:
            self._forget(self._waiting[0]).close()
        self._waiting.append(sock)
        self._worker.watch(sock.fileno(), partial(self._hear, sock, bytearray()))

    def _hear(self, sock: socket.socket, said: bytearray) -> None:
        try:
            port = wanted_port(sock, said)
        except ValueError:
            self._forget(sock).close()
            return
        if port is not None:
            self._forget(sock)
            self._call(port, sock, partial(_tell, sock))

    def _forget(self, sock: socket.socket) -> socket.socket:
        self._worker.unwatch(sock.fileno())
        self._waiting.remove(sock)
        return sock


def _tell(sock: socket.socket, port: int) -> None:
    """Tell the caller that the guest has taken the stream; else the stream is closed."""
    if port:
        # The socket is new and has room; if the caller has gone, reading will tell.
        with contextlib.suppress(OSError):
            sock.send(b"OK %d\n" % port, socket.MSG_NOSIGNAL)
