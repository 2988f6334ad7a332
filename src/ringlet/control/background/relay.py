"""Shares one guest's agent among many clients: each of them speaks to it as if it were alone.

A client is a stream socket on which another process, or this one, has an `Agent`.  The relay gives
each operation of a client a channel of its own in the guest.  Credit passes from end to end, so
that a client which does not read holds up no other.  What the guest and the clients send is checked
here as far as it could harm another client; each client checks the rest of what it gets.
"""

import collections
import contextlib
import errno
import os
import secrets
import select
import signal
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from ringlet.control.agent.agent import START_TIMEOUT, Agent
from ringlet.control.agent.connection import GREETING_PERIOD
from ringlet.control.agent.frames import FrameReader, violation
from ringlet.errors import AgentError, unexpected
from ringlet.guest.protocol import (
    HEADER,
    HEADER_SIZE,
    INPUT_WINDOW,
    VERSION,
    WORD,
    Kind,
    Stage,
    decode_hello,
    hello,
)

MAX_CLIENTS: Final = 64
"""Connections to one machine at once; a further one is closed."""
MAX_OPERATIONS: Final = 4096
"""Operations that wait for the guest's answer; a further one is refused."""
MAX_UNREAD: Final = 1 << 27
"""Bytes that a client has not read; more close its connection."""
ENOUGH: Final = 1 << 22
"""Bytes that the guest has not read, from which on nothing is read from the clients."""

_ENDS: Final = (Kind.END_IN, Kind.END_OUT, Kind.END_ERR)
_FROM_CLIENT: Final = frozenset(
    {Kind.DATA_IN, *_ENDS, Kind.CREDIT_OUT, Kind.CREDIT_ERR, Kind.SIGNAL, Kind.RESIZE}
)
_WORDS_FROM_CLIENT: Final = _FROM_CLIENT - {Kind.DATA_IN, *_ENDS}
_FROM_GUEST: Final = frozenset(
    {Kind.DATA_OUT, Kind.DATA_ERR, *_ENDS, Kind.CREDIT_IN, Kind.STARTED, Kind.EXIT, Kind.ERROR,
     Kind.RESULT, Kind.CLOSED}
)  # fmt: skip
_LAST: Final = frozenset({Kind.ERROR, Kind.RESULT, Kind.CLOSED})
_NOW: Final = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_REFUSAL: Final = struct.Struct("<II")


class _Peer:
    """A stream socket with the frames that wait for its reader."""

    def __init__(self, stream: socket.socket) -> None:
        stream.setblocking(False)
        self.stream = stream
        self.frames = FrameReader()
        self.queue: collections.deque[memoryview] = collections.deque()
        self.queued = 0

    def put(self, number: int, kind: Kind, payload: bytes | memoryview = b"") -> None:
        """Send a frame now, or queue what there is no room for.  Raises OSError."""
        header = HEADER.pack(number, kind << 24 | len(payload))
        sent = 0
        if not self.queue:
            with contextlib.suppress(BlockingIOError, InterruptedError):
                sent = self.stream.sendmsg([header, payload], [], _NOW)
        if sent < HEADER_SIZE + len(payload):
            rest = memoryview(header + bytes(payload))[sent:]
            self.queued += len(rest)
            self.queue.append(rest)

    def flush(self) -> None:
        """Send what waits, as far as there is room.  Raises OSError."""
        with contextlib.suppress(BlockingIOError, InterruptedError):
            while self.queue:
                sent = self.stream.send(self.queue[0], _NOW)
                self.queued -= sent
                if sent < len(self.queue[0]):
                    self.queue[0] = self.queue[0][sent:]
                    return
                self.queue.popleft()

    def receive(self) -> bool:
        """Take what has come; return False at the end of the stream.  Raises OSError."""
        try:
            count = self.stream.recv_into(self.frames.space(), 0, socket.MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return True
        self.frames.received(count)
        return count > 0


class _Client(_Peer):
    """A client; `channels` maps its channels to the guest's."""

    def __init__(self, stream: socket.socket) -> None:
        super().__init__(stream)
        self.nonce: bytes | None = None
        self.greeted = False
        self.channels: dict[int, int] = {}


@dataclass(slots=True)
class _Route:
    """An operation: whose it is, None after its client has gone, and that client's channel."""

    client: _Client | None
    number: int
    credit: int = INPUT_WINDOW
    ended: set[Kind] = field(default_factory=set)


class Relay:
    """Shares the agent at `stream`, a connected stream socket, which the relay closes.

    It has a thread of its own.  Any thread may call its methods.  When the connection to the agent
    ends, all clients' connections end, too; when the agent starts again, they have to come anew.
    `complain` is told if the guest breaks the protocol.
    """

    def __init__(self, stream: socket.socket, complain: Callable[[str], None]) -> None:
        self._complain = complain
        self.ready = threading.Event()
        """Set once the agent has answered, and when the relay has ended."""
        self._guest = _Peer(stream)
        self._clients: dict[int, _Client] = {}
        self._routes: dict[int, _Route] = {}
        self._last = 0
        self._nonce = b""
        self._answered = False
        self._news: collections.deque[socket.socket] = collections.deque()
        self._lock = threading.Lock()
        self._closing = False
        self._over = False
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = threading.Thread(target=self._serve, name="relay", daemon=True)
        self._thread.start()

    def join(self, client: socket.socket) -> None:
        """Give the agent to a client; the relay closes the socket, at once if it has ended."""
        with self._lock:
            if self._over:
                client.close()
                return
            self._news.append(client)
            os.eventfd_write(self._wake, 1)

    def agent(self, start_timeout: float | None = START_TIMEOUT) -> Agent:
        """Return an Agent for this process."""
        ours, theirs = socket.socketpair()
        self.join(theirs)
        return Agent(ours, start_timeout=start_timeout)

    def close(self) -> None:
        """End all connections.  May be called twice."""
        with self._lock:
            self._closing = True
            if not self._over:
                os.eventfd_write(self._wake, 1)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    @property
    def over(self) -> bool:
        """Whether the relay has ended."""
        return self._over

    # --- the thread

    def _serve(self) -> None:
        try:
            with contextlib.suppress(OSError):  # the guest has ended
                self._loop()
        except AgentError as error:
            self._complain(str(error))
        except Exception as error:  # noqa: BLE001 - the machine goes on without its agent
            self._complain(str(unexpected(error)))
        with self._lock:
            self._over = True
            waiting = [*self._news]
            os.close(self._wake)
        for stream in (*waiting, *(c.stream for c in self._clients.values()), self._guest.stream):
            stream.close()
        self._clients.clear()
        self._routes.clear()
        self.ready.set()

    def _loop(self) -> None:
        guest = self._guest
        self._greet(new=True)
        while not self._closing:
            events = self._events()
            if self._wake in events:
                os.eventfd_read(self._wake)
                self._welcome()
            happened = events.get(guest.stream.fileno(), 0)
            if happened & select.POLLOUT:
                guest.flush()
            if happened & ~select.POLLOUT and not self._from_guest():
                return
            for fd, client in list(self._clients.items()):
                if fd in events and self._clients.get(fd) is client:
                    self._serve_client(client, events[fd])
            if not events and not self._answered:
                self._greet()

    def _events(self) -> dict[int, int]:
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        guest = self._guest
        poll.register(guest.stream, select.POLLIN | (select.POLLOUT if guest.queue else 0))
        reads = select.POLLIN if guest.queued < ENOUGH else 0
        for fd, client in self._clients.items():
            poll.register(fd, reads | (select.POLLOUT if client.queue else 0))
        return dict(poll.poll(None if self._answered else GREETING_PERIOD))

    # --- the guest, which may be hostile

    def _greet(self, *, new: bool = False) -> None:
        if new:
            self._nonce = secrets.token_bytes(8)
            self._answered = False
        if not self._guest.queue:
            self._guest.put(0, Kind.HELLO, hello(self._nonce)[HEADER_SIZE:])

    def _from_guest(self) -> bool:
        guest = self._guest
        open_ = guest.receive()
        if not self._answered and not self._find_hello():
            return open_
        for number, kind, payload in guest.frames.take():
            if kind is Kind.HELLO:  # the agent has started again
                for client in list(self._clients.values()):
                    self._drop(client)
                self._routes.clear()
                self._greet(new=True)
                return open_
            self._pass_to_client(number, kind, payload)
        return open_

    def _find_hello(self) -> bool:
        frames = self._guest.frames
        found = frames.find_hello(self._nonce)
        if found is None:
            if frames.announced:
                frames.announced = False
                self._greet()
            return False
        if not found[0] <= VERSION <= found[1]:
            raise violation(f"versions {found[0]} to {found[1]}")
        self._answered = True
        self.ready.set()
        for client in list(self._clients.values()):
            self._answer(client)
        return True

    def _pass_to_client(self, number: int, kind: Kind, payload: memoryview) -> None:
        route = self._routes.get(number)
        if route is None or kind not in _FROM_GUEST:
            raise violation(f"a frame of kind {kind.name} for channel {number}")
        client = route.client
        if kind is Kind.CREDIT_IN and len(payload) == WORD.size:
            route.credit = min(route.credit + WORD.unpack(payload)[0], INPUT_WINDOW)
        if kind in _LAST:
            del self._routes[number]
            if client is not None:
                del client.channels[route.number]
        if client is None:
            return
        self._put(client, route.number, kind, payload)

    # --- the clients

    def _welcome(self) -> None:
        while self._news:
            stream = self._news.popleft()
            if len(self._clients) >= MAX_CLIENTS:
                stream.close()
                continue
            self._clients[stream.fileno()] = _Client(stream)

    def _serve_client(self, client: _Client, happened: int) -> None:
        try:
            if happened & select.POLLOUT:
                client.flush()
            if happened & ~select.POLLOUT:
                open_ = client.receive()
                for number, kind, payload in client.frames.take():
                    self._from_client(client, number, kind, payload)
                if not open_:
                    self._drop(client)
        except (OSError, AgentError, ValueError):
            self._drop(client)

    def _from_client(
        self, client: _Client, number: int, kind: Kind, payload: memoryview
    ) -> None:
        """Pass a frame on to the guest.  Raises ValueError for one that the agent would refuse."""
        if kind is Kind.HELLO:
            if client.nonce is None:
                client.nonce = decode_hello(payload)[0]
                self._answer(client)
            return  # a client greets until it is answered
        if not client.greeted:
            raise ValueError("no greeting")
        if kind is Kind.OPEN:
            self._open(client, number, payload)
            return
        if kind not in _FROM_CLIENT or not number:
            raise ValueError("a frame of a wrong kind")
        if kind in _WORDS_FROM_CLIENT and len(payload) != WORD.size:
            raise ValueError("a word of a wrong length")
        target = client.channels.get(number)
        if target is None:
            return  # it has ended, which the client will hear
        route = self._routes[target]
        if kind is Kind.DATA_IN:
            route.credit -= len(payload)
            if route.credit < 0 or not payload or kind in route.ended:
                raise ValueError("input without credit")
        elif kind in _ENDS:
            route.ended.add(kind)
        self._guest.put(target, kind, payload)

    def _open(self, client: _Client, number: int, payload: memoryview) -> None:
        if not number or number in client.channels:
            raise ValueError("a channel that is open")
        if len(self._routes) >= MAX_OPERATIONS:
            self._put(client, number, Kind.ERROR, _REFUSAL.pack(errno.EUSERS, Stage.START))
            return
        self._last = self._last % 0xFFFFFFFF + 1
        while self._last in self._routes:
            self._last = self._last % 0xFFFFFFFF + 1
        self._routes[self._last] = _Route(client, number)
        client.channels[number] = self._last
        self._guest.put(self._last, Kind.OPEN, payload)

    def _answer(self, client: _Client) -> None:
        if self._answered and client.nonce is not None and not client.greeted:
            client.greeted = True
            self._put(client, 0, Kind.HELLO, hello(client.nonce)[HEADER_SIZE:])

    def _put(
        self, client: _Client, number: int, kind: Kind, payload: bytes | memoryview
    ) -> None:
        try:
            client.put(number, kind, payload)
        except OSError:
            self._drop(client)
            return
        if client.queued > MAX_UNREAD:
            self._drop(client)

    def _drop(self, client: _Client) -> None:
        """Close a client's connection; what it has begun gets SIGHUP, as the agent does it."""
        if self._clients.pop(client.stream.fileno(), None) is None:
            return
        client.stream.close()
        for target in client.channels.values():
            route = self._routes.get(target)
            if route is None:
                continue
            route.client = None
            for number in (signal.SIGHUP, signal.SIGCONT):
                self._guest.put(target, Kind.SIGNAL, WORD.pack(number))
            for kind in _ENDS:
                if kind not in route.ended:
                    self._guest.put(target, kind)
        client.channels.clear()
