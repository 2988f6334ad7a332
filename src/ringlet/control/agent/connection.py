"""The connection to an agent: a thread that reads frames, and frames that are sent.

Nothing that the guest does or omits makes a caller wait without end: a guest that does not read
leaves frames in a queue with a bound, and whoever waits for an answer has a deadline or ends with
the connection.
"""

import collections
import errno
import os
import secrets
import select
import socket
import threading
from collections.abc import Callable
from typing import Final

from ringlet.control.agent.channel import Channel, Output
from ringlet.control.agent.frames import FrameReader, violation
from ringlet.errors import AgentError, AgentTimeoutError, ConfigError, remedy, unexpected
from ringlet.guest.protocol import (
    HEADER,
    HEADER_SIZE,
    MAX_PAYLOAD,
    VERSION,
    Kind,
    Request,
    hello,
)

MAX_QUEUED: Final = 1 << 27
"""Bytes of frames that the guest has not read; more than the input windows of all channels."""
MAX_QUEUED_CONTROL: Final = 1 << 20
"""Bytes of frames that need no credit, and that the guest has not read."""
GREETING_PERIOD: Final = 1000
"""Milliseconds after which the host greets again, until it is answered."""

_CONTROL: Final = frozenset(
    {Kind.END_IN, Kind.END_OUT, Kind.END_ERR, Kind.CREDIT_OUT, Kind.CREDIT_ERR, Kind.SIGNAL,
     Kind.RESIZE}
)  # fmt: skip
_ENDS_OF_FILES: Final = frozenset({Kind.END_IN, Kind.END_OUT, Kind.END_ERR})
"""What the garbage collection of a file sends."""
_DATA: Final = {Kind.DATA_OUT: Output.OUT, Kind.DATA_ERR: Output.ERR}
_ENDS: Final = {Kind.END_OUT: Output.OUT, Kind.END_ERR: Output.ERR}
_RESULTS: Final = frozenset({Kind.EXIT, Kind.ERROR, Kind.RESULT})
_NOW: Final = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


class Gate:
    """A lock for what a finalizer must do too, in a thread that may hold the lock already."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._later: collections.deque[Callable[[], None]] = collections.deque()

    def soon(self, action: Callable[[], None]) -> None:
        """Do `action` with the lock held: now, or when the thread that has it lets go."""
        self._later.append(action)
        self._catch_up()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        self._catch_up()

    def _catch_up(self) -> None:
        # Whoever adds an action after the last look here finds the lock free.
        while self._later and self._lock.acquire(blocking=False):
            try:
                while self._later:
                    self._later.popleft()()
            finally:
                self._lock.release()


class Connection:
    """Frames over `stream`, a connected stream socket, which it closes.

    It serves the socket with a thread of its own.  Any thread may call its methods.  Raises
    AgentError and HostError if the host has no more files or threads.
    """

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._frames = FrameReader()
        self._channels: dict[int, Channel] = {}
        self._last = 0
        self._lock = Gate()
        self._queue: collections.deque[memoryview] = collections.deque()
        self._queued = 0
        self._queued_control = 0
        self._error: AgentError | None = None
        self._cause: AgentError | None = None
        self._ready = threading.Event()
        self._nonce = secrets.token_bytes(8)
        stream.setblocking(False)
        try:
            self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except OSError as error:
            stream.close()
            raise _lost(error) from error
        self._thread = threading.Thread(target=self._serve, name="ringlet-agent", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            stream.close()
            os.close(self._wake)
            raise unexpected(error) from error

    # --- for the program

    @property
    def ended(self) -> bool:
        """Return whether the connection is closed or lost."""
        return self._error is not None

    def wait_ready(self, timeout: float | None) -> None:
        """Wait until the agent has answered.  Raises AgentTimeoutError and AgentError."""
        if not self._ready.wait(timeout):
            raise AgentTimeoutError(
                f"the agent in the guest has not answered within {timeout:g} s; "
                "see on the console whether the guest has started it"
            )
        self._require()

    def open(self, request: Request) -> Channel:
        """Ask for an operation.  Raises AgentError, and ConfigError if the request is too large."""
        payload = request.encode()
        if len(payload) > MAX_PAYLOAD:
            raise ConfigError(
                f"the command and its environment have {len(payload)} bytes, and at most "
                f"{MAX_PAYLOAD} can be sent; put them in a file"
            )
        with self._lock:
            self._require()
            self._last = self._last % 0xFFFFFFFF + 1
            while self._last in self._channels:
                self._last = self._last % 0xFFFFFFFF + 1
            channel = Channel(self._last, self._send)
            self._channels[channel.number] = channel
            self._put(channel.number, Kind.OPEN, payload)
        return channel

    def close(self) -> None:
        """Close the connection; whoever waits gets an AgentError.  May be called twice."""
        with self._lock:
            self._end_with(AgentError("the connection to the agent was closed"))
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _require(self) -> None:
        if self._error is not None:
            raise AgentError(str(self._error))

    # --- sending

    def _send(self, number: int, kind: Kind, payload: bytes | memoryview) -> None:
        def put() -> None:
            if self._error is None:
                self._put(number, kind, payload)

        if kind in _ENDS_OF_FILES:
            self._lock.soon(put)
        else:
            with self._lock:
                put()

    def _put(self, number: int, kind: Kind, payload: bytes | memoryview) -> None:
        """Send a frame now, or queue what the guest has no room for."""
        header = HEADER.pack(number, kind << 24 | len(payload))
        sent = 0
        if not self._queue:
            try:
                sent = self._stream.sendmsg([header, payload], [], _NOW)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                self._end_with(_lost(error))
                return
        if sent == HEADER_SIZE + len(payload):
            return
        rest = memoryview(header + bytes(payload))[sent:]
        self._queued += len(rest)
        self._queued_control += len(rest) if kind in _CONTROL else 0
        if self._queued > MAX_QUEUED or self._queued_control > MAX_QUEUED_CONTROL:
            self._end_with(
                AgentError("the agent in the guest reads nothing; the connection is closed")
            )
            return
        self._queue.append(rest)
        os.eventfd_write(self._wake, 1)

    def _flush(self) -> None:
        with self._lock:
            while self._queue:
                try:
                    sent = self._stream.send(self._queue[0], _NOW)
                except (BlockingIOError, InterruptedError):
                    return
                self._queued -= sent
                if sent < len(self._queue[0]):
                    self._queue[0] = self._queue[0][sent:]
                    return
                self._queue.popleft()
            self._queued_control = 0

    def _end_with(self, error: AgentError) -> None:
        """Have the thread end the connection; the first error is the one that is told."""
        if self._cause is None:
            self._cause = error
        if self._error is None:
            os.eventfd_write(self._wake, 1)

    # --- the thread

    def _serve(self) -> None:
        error: AgentError
        try:
            error = self._loop()
        except AgentError as violated:
            error = violated
        except OSError as lost:
            error = _lost(lost)
        except Exception as defect:  # noqa: BLE001  whoever waits must not wait forever
            error = AgentError(str(unexpected(defect)))
        with self._lock:
            self._error = error
            self._queue.clear()
            self._stream.close()
            os.close(self._wake)
        self._ready.set()
        for channel in list(self._channels.values()):
            channel.fail(error)
        self._channels.clear()

    def _loop(self) -> AgentError:
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        self._greet()
        while True:
            wanted = select.POLLIN | (select.POLLOUT if self._queue else 0)
            poll.register(self._stream, wanted)  # or change what is registered
            ready = self._ready.is_set()
            events = dict(poll.poll(None if ready else GREETING_PERIOD))
            if self._wake in events:
                os.eventfd_read(self._wake)
            if self._cause is not None:
                return self._cause
            happened = events.get(self._stream.fileno(), 0)
            if happened & select.POLLOUT:
                self._flush()
            if happened & ~select.POLLOUT and not self._receive():
                return AgentError("the connection to the agent in the guest has ended")
            if not events and not ready:
                self._greet()

    def _greet(self) -> None:
        with self._lock:
            if not self._queue:
                self._put(0, Kind.HELLO, hello(self._nonce)[HEADER_SIZE:])

    def _receive(self) -> bool:
        try:
            count = self._stream.recv_into(self._frames.space(), 0, socket.MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return True
        self._frames.received(count)
        if not self._ready.is_set() and not self._find_hello():
            return count > 0
        for number, kind, payload in self._frames.take():
            self._dispatch(number, kind, payload)
        return count > 0

    def _find_hello(self) -> bool:
        found = self._frames.find_hello(self._nonce)
        if found is None:
            if self._frames.announced:
                self._frames.announced = False
                self._greet()
            return False
        if not found[0] <= VERSION <= found[1]:
            raise AgentError(
                f"the agent in the guest speaks versions {found[0]} to {found[1]} of the protocol, "
                f"and Ringlet {VERSION}; put the agent of this version into the guest"
            )
        self._ready.set()
        return True

    def _dispatch(self, number: int, kind: Kind, payload: memoryview) -> None:
        """Give a frame of the guest to its channel.  Raises AgentError if it belongs to none."""
        if kind is Kind.HELLO:
            raise AgentError("the agent in the guest has started again; connect again")
        channel = self._channels.get(number)
        if channel is None:
            raise violation(f"a frame for channel {number}, which is not open")
        if (which := _DATA.get(kind)) is not None:
            channel.on_data(which, payload)
        elif kind in _RESULTS:
            channel.on_end(kind, payload)
            if kind is not Kind.EXIT:
                del self._channels[number]
        elif kind is Kind.CREDIT_IN:
            channel.on_credit(payload)
        elif kind is Kind.STARTED:
            channel.on_started(payload)
        elif payload:
            raise violation(f"a frame of kind {kind.name} with {len(payload)} bytes")
        elif (which := _ENDS.get(kind)) is not None:
            channel.on_output_end(which)
        elif kind is Kind.END_IN:
            channel.on_input_end()
        elif kind is Kind.CLOSED:
            channel.on_closed()
            del self._channels[number]
        else:
            raise violation(f"a frame of kind {kind.name}")


def _lost(error: OSError) -> AgentError:
    if error.errno in (errno.EPIPE, errno.ECONNRESET):
        return AgentError("the connection to the agent in the guest has ended")
    advice = remedy(error)
    return AgentError(
        f"the connection to the agent is lost: {error.strerror}" + (f"; {advice}" if advice else "")
    )
