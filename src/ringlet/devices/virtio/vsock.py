"""The socket device (virtio 1.2, 5.10): streams between programs of the guest and of the host.

The host's side of a stream is one end of a pair of sockets.  The guest's packets are taken as they
come, so no stream waits for another: what the host does not take at once is kept, up to the credit
that the guest has.  What the host sends is read only when the guest has credit and buffers for it.
"""

import os
import queue as queues
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Final

from ringlet.devices.backends.host_sockets import HostSockets
from ringlet.devices.virtio.buffers import first, gather, scatter, skip
from ringlet.devices.virtio.device import VirtioDevice
from ringlet.devices.virtio.queue import Chain, Queue
from ringlet.devices.virtio.vsock_callers import Callers
from ringlet.devices.virtio.vsock_connection import Connection, Phase
from ringlet.devices.virtio.vsock_listener import Listener
from ringlet.devices.virtio.vsock_packets import (
    HEADER_SIZE,
    HOST_CID,
    SHUTDOWN_BOTH,
    SHUTDOWN_RECEIVE,
    SHUTDOWN_SEND,
    STREAM,
    Header,
    Op,
    refusal,
    unpack,
)

GUEST_CID: Final = 3
CONNECTIONS: Final = 256
"""The most streams at a time; a further one is refused."""
REFUSALS: Final = 256
"""Refusals that wait for the driver's buffers; further ones are not sent."""
_QUEUE_SIZE: Final = 256
_BATCH: Final = 32
"""The most packets of one stream that one call fills."""
_ROUNDS: Final = 8
"""Calls in a row for one stream, before the others have their turn."""
_RECEIVE, _TRANSMIT, _EVENT = 0, 1, 2
_EPHEMERAL: Final = 1 << 30
_TRANSPORT_RESET: Final = bytes(4)


@dataclass(slots=True)
class VsockState:
    """Nothing of a stream is kept: a guest that is restored is told that all have ended."""

    guest_cid: int


class Vsock(VirtioDevice):
    """The device; the host's CID is 2, the guest's `guest_cid`.

    `host` are sockets of the host that lead to the guest, and back.  They outlive the device.
    """

    kind: ClassVar[int] = 19
    class_code: ClassVar[int] = 0x02_80_00

    def __init__(
        self,
        failed: Callable[[Exception], None],
        name: str = "vsock",
        guest_cid: int = GUEST_CID,
        host: HostSockets | None = None,
    ) -> None:
        super().__init__(name, [_QUEUE_SIZE, _QUEUE_SIZE, 16], failed)
        self._guest_cid = guest_cid
        self._host = host
        self._listeners: dict[int, Listener] = {}
        self._connections: dict[tuple[int, int], Connection] = {}  # by host's and guest's port
        self._left: list[Connection] = []
        self._starved: dict[Connection, None] = {}  # those that wait for the driver's buffers
        self._speaking: dict[Connection, None] = {}  # those that owe a packet
        self._told: dict[Connection, None] = {}  # those that may receive again: nothing is owed
        self._resuming = False
        self._refusals: deque[bytes] = deque()
        self._next_port = _EPHEMERAL
        self._tell_reset = False
        self._asked: list[queues.SimpleQueue[int]] = []  # callers that wait for the guest
        self._closed = False
        self._callers = Callers(host, self.worker, self._call) if host is not None else None

    # --- for the host; any thread

    def listen(self, port: int) -> Listener:
        """Let the guest's programs call `port` of the host.  Raises ValueError if it is taken."""
        if port in self._listeners:
            raise ValueError(f"vsock port {port} of the host is in use; close its listener first")
        self._listeners[port] = Listener(port, lambda port: self._listeners.pop(port, None))
        return self._listeners[port]

    def connect_guest(self, port: int, timeout: float | None = None) -> socket.socket:
        """Return a stream to a program of the guest that listens at `port`.

        Raises ConnectionRefusedError if none does, or the guest has no driver yet, and TimeoutError
        after `timeout` seconds.
        """
        ours, theirs = socket.socketpair()
        answers: queues.SimpleQueue[int] = queues.SimpleQueue()
        self._asked.append(answers)
        if self._closed:
            answers.put(0)
        self.worker.call(partial(self._call, port, ours, answers.put))
        try:
            taken = answers.get(timeout=timeout)
        except queues.Empty:
            self.worker.call(partial(self._abandon, ours))
            theirs.close()
            raise TimeoutError(f"the guest does not answer at vsock port {port}") from None
        finally:
            self._asked.remove(answers)
        if not taken:
            ours.close()
            theirs.close()
            raise ConnectionRefusedError(f"nothing listens at vsock port {port} of the guest")
        return theirs

    # --- for the transport

    def read_config(self) -> bytes:
        """Return virtio_vsock_config (5.10.4)."""
        return self._guest_cid.to_bytes(8, "little")

    def rung(self, queue: Queue) -> None:
        """Handle the guest's packets, or go on with what waited for its buffers."""
        if queue.index == _TRANSMIT:
            self.drain(queue)
        elif queue.index == _RECEIVE:
            self._speak()
            starved, self._starved = self._starved, {}
            for connection in starved:
                self._receive(connection)
        else:
            self._send_event(queue)

    def stopped(self) -> None:
        """End all streams: the driver has forgotten them."""
        for connection in list(self._connections.values()):
            self._end(connection)
        self._refusals.clear()

    def close(self) -> None:
        """End the device and all streams."""
        self._closed = True
        super().close()
        for answers in list(self._asked):
            answers.put(0)
        for connection in self._left:
            connection.sock.close()
        self._left.clear()
        if self._callers is not None:
            self._callers.close()
        for listener in list(self._listeners.values()):
            listener.close()

    def save(self) -> VsockState:
        """Return a copy of the state."""
        return VsockState(self._guest_cid)

    def restore(self, state: object) -> None:
        """Restore `state`: the guest's streams end by VIRTIO_VSOCK_EVENT_TRANSPORT_RESET."""
        assert isinstance(state, VsockState)
        self._guest_cid = state.guest_cid
        self._tell_reset = True

    # --- packets of the guest

    def serve(self, queue: Queue, chain: Chain) -> None:
        """Handle a packet of the guest."""
        data, payload = gather(chain.readable, HEADER_SIZE)
        header = unpack(data) if len(data) == HEADER_SIZE else None
        if header is not None and self._is_own(header, chain.readable_size - HEADER_SIZE):
            self._packet(header, payload)
        else:
            self.counters.add("malformed")
        self.give(queue, chain, 0)
        self._speak()

    def _is_own(self, header: Header, size: int) -> bool:
        own = header.source_cid == self._guest_cid and header.target_cid == HOST_CID
        return own and header.size <= size

    def _packet(self, header: Header, payload: list[memoryview]) -> None:
        connection = self._connections.get((header.target_port, header.source_port))
        if connection is None and header.op == Op.REQUEST and header.kind == STREAM:
            self._requested(header)
        elif connection is None or header.kind != STREAM:
            self._refuse(header)
        elif header.op == Op.RST:
            self._end(connection)
        elif connection.phase is Phase.CALLING:
            self._answered(connection, header)
        else:
            connection.hear(header)
            self._in_stream(connection, header, payload)

    def _in_stream(self, connection: Connection, header: Header, payload: list[memoryview]) -> None:
        op = header.op
        if op == Op.RW:
            self._data(connection, first(payload, header.size), header.size)
        elif op == Op.SHUTDOWN:
            connection.guest_shutdown |= header.flags & SHUTDOWN_BOTH
            self._go_on(connection)
        elif op == Op.CREDIT_REQUEST:
            self._owe(connection, Op.CREDIT_UPDATE)
        elif op != Op.CREDIT_UPDATE:
            self._reset(connection)
            return
        if (header.target_port, header.source_port) in self._connections:
            self._receive(connection)

    def _requested(self, header: Header) -> None:
        ours = None if self._is_full() else self._dial(header.target_port)
        if ours is None:
            self._refuse(header)
            return
        connection = self._add(Connection(header.target_port, header.source_port, ours))
        connection.hear(header)
        self.counters.add("accepted")
        self._owe(connection, Op.RESPONSE)
        self._receive(connection)

    def _dial(self, port: int) -> socket.socket | None:
        """Return a stream to whoever listens at `port` of the host; None if nobody does."""
        listener = self._listeners.get(port)
        if listener is not None:
            return listener.call()
        return self._host.dial(port) if self._host is not None else None

    def _answered(self, connection: Connection, header: Header) -> None:
        if header.op != Op.RESPONSE:
            self._reset(connection)
            return
        self.worker.unwatch(connection.sock.fileno())
        connection.phase = Phase.OPEN
        connection.hear(header)
        answered, connection.answered = connection.answered, None
        assert answered is not None
        answered(connection.host_port)
        self._receive(connection)

    def _data(self, connection: Connection, payload: list[memoryview], size: int) -> None:
        try:
            fits = connection.put(payload, size)
        except OSError:
            self._reset(connection)
            return
        self.counters.add("bytes_out", size)
        if not fits or connection.guest_shutdown & SHUTDOWN_SEND:
            self._reset(connection)
        elif connection.buffered:
            self.worker.watch(
                connection.sock.fileno(), partial(self._flush, connection), writable=True
            )
        elif connection.tells_room:
            self._owe(connection, Op.CREDIT_UPDATE)

    # --- to the host

    def _flush(self, connection: Connection) -> None:
        """Pass on what is buffered, now that the host has room."""
        try:
            done = connection.flush()
        except OSError:
            if connection.phase is Phase.LEFT:
                self._discard(connection)
            else:
                self._reset(connection)
            self._speak()
            return
        if done:
            self.worker.unwatch(connection.sock.fileno(), readable=False)
            if connection.phase is Phase.LEFT:
                self._discard(connection)
                return
            self._go_on(connection)
        if connection.phase is Phase.OPEN and connection.tells_room:
            self._owe(connection, Op.CREDIT_UPDATE)
        self._speak()

    def _go_on(self, connection: Connection) -> None:
        """Pass the guest's shutdown on, or end the stream after it."""
        if connection.guest_shutdown:
            connection.apply_shutdown()
            if connection.over:
                self._reset(connection)

    # --- from the host

    def _receive(self, connection: Connection) -> None:
        """Pass on what the host has sent, as long as the guest has credit and buffers."""
        fd = connection.sock.fileno()
        queue = self.queues[_RECEIVE]
        for _ in range(_ROUNDS):
            if not self._may_receive(connection):
                self.worker.unwatch(fd, writable=False)
                return
            chains = self._take_some(queue, min(_BATCH, connection.credit // 4096 + 1))
            if not chains:
                self._starved[connection] = None
                self.worker.unwatch(fd, writable=False)
                if self.running and queue.arm():
                    continue
                return
            self._starved.pop(connection, None)
            if not self._fill(connection, queue, chains):
                return
            if self.worker.wanted_away:
                break
        self.worker.watch(fd, partial(self._receive, connection))

    def _may_receive(self, connection: Connection) -> bool:
        return (
            self.running
            and connection.phase is Phase.OPEN
            and connection.credit > 0
            and not connection.shutdown & SHUTDOWN_SEND
            and not connection.guest_shutdown & SHUTDOWN_RECEIVE
            and not connection.owed  # the answer goes first
        )

    def _take_some(self, queue: Queue, most: int) -> list[Chain]:
        chains: list[Chain] = []
        while len(chains) < most and (chain := self.take(queue)) is not None:
            if chain.writable_size <= HEADER_SIZE:
                self.fail(f"a buffer of {chain.writable_size} bytes for packets")
            else:
                chains.append(chain)
        return chains if self.running else []

    def _fill(self, connection: Connection, queue: Queue, chains: list[Chain]) -> bool:
        """Read into `chains` and send those with data; False: there is nothing more now."""
        rooms = [skip(chain.writable, HEADER_SIZE) for chain in chains]
        views = first([view for room in rooms for view in room], connection.credit)
        fd = connection.sock.fileno()
        got = -1
        try:
            got = os.readv(fd, views[:1024])
        except BlockingIOError:
            self.worker.watch(fd, partial(self._receive, connection))
        except OSError:
            got = 0
        left = max(got, 0)
        filled = []
        for chain in chains:
            if not left:
                break
            size = min(left, chain.writable_size - HEADER_SIZE)
            self._write_header(chain, connection, Op.RW, size)
            filled.append((chain, HEADER_SIZE + size))
            left -= size
        self.put_back(queue, len(chains) - len(filled))
        if got > 0:
            connection.count_sent(got)
            self.counters.add("bytes_in", got)
            self.give_all(queue, filled)
        elif got == 0:
            self._host_ended(connection)
        return got > 0

    def _write_header(self, chain: Chain, connection: Connection, op: Op, size: int = 0) -> None:
        scatter(connection.header(self._guest_cid, HOST_CID, op, size), chain.writable)

    def _host_ended(self, connection: Connection) -> None:
        """Tell the guest that the host sends no more, and perhaps that it takes no more."""
        self.worker.unwatch(connection.sock.fileno(), writable=False)
        connection.shutdown = SHUTDOWN_BOTH if connection.closed_by_host() else SHUTDOWN_SEND
        self._owe(connection, Op.SHUTDOWN)
        self._speak()

    def _send_event(self, queue: Queue) -> None:
        while self.running and self._tell_reset:
            chain = self.take(queue)
            if chain is not None:
                self._tell_reset = False
                self.give(queue, chain, scatter(_TRANSPORT_RESET, chain.writable))
            elif not self.running or not queue.arm():
                return

    # --- packets without data

    def _owe(self, connection: Connection, op: Op) -> None:
        if op not in connection.owed:
            connection.owed.append(op)
        self._speaking[connection] = None

    def _refuse(self, header: Header) -> None:
        if header.op != Op.RST and len(self._refusals) < REFUSALS:
            self._refusals.append(refusal(header, self._guest_cid))

    def _speak(self) -> None:
        """Send what is owed, as long as the guest has buffers."""
        queue = self.queues[_RECEIVE]
        while self.running and (self._refusals or self._speaking):
            chains = self._take_some(queue, 1)
            if not chains:
                if self.running and queue.arm():
                    continue
                return
            self._say(chains[0])
            self.give(queue, chains[0], HEADER_SIZE)

    def _say(self, chain: Chain) -> None:
        if self._refusals:
            scatter(self._refusals.popleft(), chain.writable)
            return
        connection = next(iter(self._speaking))
        self._write_header(chain, connection, connection.owed.pop(0))
        if not connection.owed:
            del self._speaking[connection]
            self._told[connection] = None
            if not self._resuming:  # one call for all, however many packets the guest sends
                self._resuming = True
                self.worker.call(self._resume)

    def _resume(self) -> None:
        told, self._told, self._resuming = self._told, {}, False
        for connection in told:
            if connection.phase is Phase.OPEN:
                self._receive(connection)

    # --- the life of a connection

    def _call(self, port: int, ours: socket.socket, answered: Callable[[int], None]) -> None:
        if not self.running or self._is_full():
            answered(0)
            ours.close()
            return
        while any(key[0] == self._next_port for key in self._connections):
            self._next_port += 1
        connection = self._add(Connection(self._next_port, port, ours, answered))
        self._next_port = self._next_port + 1 if self._next_port < 2 * _EPHEMERAL else _EPHEMERAL
        self.worker.watch_hangup(ours.fileno(), partial(self._abandon, ours))
        self._owe(connection, Op.REQUEST)
        self._speak()

    def _abandon(self, ours: socket.socket) -> None:
        """End a call that the guest has not answered in time, or before its caller has gone."""
        for connection in list(self._connections.values()):
            if connection.sock is ours:
                self._reset(connection)
                self._speak()

    def _is_full(self) -> bool:
        """Return whether there may be no further stream; a call without an answer gives way."""
        if len(self._connections) + len(self._left) < CONNECTIONS:
            return False
        old = next((one for one in self._connections.values() if one.waits_too_long), None)
        if old is not None:
            self._reset(old)
        return old is None

    def _add(self, connection: Connection) -> Connection:
        connection.sock.setblocking(False)
        self._connections[connection.host_port, connection.guest_port] = connection
        return connection

    def _reset(self, connection: Connection) -> None:
        """End a stream and tell the guest."""
        self._end(connection)
        header = connection.header(self._guest_cid, HOST_CID, Op.RST)
        if len(self._refusals) < REFUSALS:
            self._refusals.append(header)

    def _end(self, connection: Connection) -> None:
        """End a stream for the guest; what it has sent still reaches the host."""
        self._connections.pop((connection.host_port, connection.guest_port), None)
        self._starved.pop(connection, None)
        self._speaking.pop(connection, None)
        self._told.pop(connection, None)
        connection.owed.clear()
        answered, connection.answered = connection.answered, None
        if answered is not None:
            self.worker.unwatch(connection.sock.fileno())  # the caller may close it at once
            answered(0)
        connection.phase = Phase.LEFT
        if connection.buffered:
            self.worker.unwatch(connection.sock.fileno(), writable=False)
            self._left.append(connection)
        else:
            self._discard(connection)

    def _discard(self, connection: Connection) -> None:
        self.worker.unwatch(connection.sock.fileno())
        connection.sock.close()
        if connection in self._left:
            self._left.remove(connection)
