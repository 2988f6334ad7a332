"""The console device (virtio 1.2, 5.3): ports, each of which is a stream between guest and host.

The host's end of a port is a file descriptor.  Bytes go between it and the driver's buffers without
a copy, and never faster than both sides take them: the device reads from the host only what the
guest has room for, and gives a buffer of the guest back when the host has taken all of it.

Not offered are VIRTIO_CONSOLE_F_SIZE, because Linux reads the size of a console in another order
than the specification has, and VIRTIO_CONSOLE_F_EMERG_WRITE.
"""

import errno
import fcntl
import os
import struct
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, Final

from ringlet.devices.virtio.buffers import gather, scatter, skip
from ringlet.devices.virtio.device import VirtioDevice
from ringlet.devices.virtio.queue import Chain, Queue
from ringlet.errors import InternalError

F_MULTIPORT: Final = 1 << 1

# Control events (5.3.6.2)
DEVICE_READY, DEVICE_ADD, PORT_READY = 0, 1, 3
CONSOLE_PORT, PORT_OPEN, PORT_NAME = 4, 6, 7
_CONTROL: Final = struct.Struct("<IHH")
_CONFIG: Final = struct.Struct("<HHII")

PORTS_MAX: Final = 31
"""The most ports of one device."""
PENDING: Final = 256
"""Control messages that wait for the driver's buffers; with more, none of its own are read."""
DATA_SIZE: Final = 128
CONTROL_SIZE: Final = 32
_CONTROL_RECEIVE, _CONTROL_TRANSMIT = 2, 3
_BATCH: Final = 32
"""The most buffers of the driver that one call fills."""
_IOV_MAX: Final = 1024
_GONE: Final = {errno.EPIPE, errno.ECONNRESET, errno.EIO}  # the other side has closed its end
_ROUNDS: Final = 16
"""Calls in a row for one port, before the others have their turn."""


@dataclass(slots=True)
class Port:
    """A port: its name for the guest's udev, and the host's end.

    `stream` is a socket, a terminal or the writing end of a pipe.  The device owns it, makes it
    non-blocking, and closes it at the end, when the other side has closed its end, or in
    `Console.connect_port`.  A `console` is a terminal (hvc0) of Linux, which stops the whole guest
    while its output is not taken: without a stream the output is lost.
    `opened` is told that a program of the guest has opened or closed the port, on the device's
    thread or, when the driver resets the device, on the guest's.
    """

    name: str
    stream: int | None = None
    console: bool = False
    opened: Callable[[bool], None] = field(default=lambda is_open: None)


@dataclass(slots=True)
class PortState:
    """What was said about a port, and how many bytes of the next buffer the host has taken."""

    guest_open: bool = False
    told_open: bool = False
    sent: int = 0


@dataclass(slots=True)
class ConsoleState:
    """The ports, and the control messages that wait for buffers."""

    ready: bool
    pending: list[bytes]
    ports: list[PortState]


class _Line:
    """A port at work."""

    def __init__(self, number: int, port: Port) -> None:
        self.number = number
        self.port = port
        self.stream: int | None = None
        self.speaks = False  # whether the stream can be read
        self.batch = 1
        self.state = PortState()
        self.chains: deque[Chain] = deque()  # `state.sent` bytes of the first are sent


def _queues(number: int) -> int:
    """Return the index of a port's receive queue; the transmit queue follows (5.3.2)."""
    return 0 if number == 0 else 2 + 2 * number


class Console(VirtioDevice):
    """The device with its ports, whose numbers are their places in `ports`."""

    kind: ClassVar[int] = 3
    class_code: ClassVar[int] = 0x07_80_00

    def __init__(
        self, ports: Sequence[Port], failed: Callable[[Exception], None], name: str = "console"
    ) -> None:
        if not 0 < len(ports) <= PORTS_MAX:
            raise InternalError("so many ports are none of a console", {"ports": len(ports)})
        limits = [DATA_SIZE, DATA_SIZE, CONTROL_SIZE, CONTROL_SIZE]
        super().__init__(name, limits + [DATA_SIZE] * (2 * len(ports) - 2), failed)
        self.features = F_MULTIPORT
        self._lines = [_Line(number, port) for number, port in enumerate(ports)]
        self._ready = False
        self._pending: deque[bytes] = deque()
        self._arriving: deque[tuple[_Line, int]] = deque()  # streams for the device's thread
        for line, port in zip(self._lines, ports, strict=True):
            if port.stream is not None:
                self._attach(line, port.stream)

    def connect_port(self, name: str, stream: int) -> None:
        """Give a port a new host's end, in place of the one that it may have.

        Any thread may call this.  Raises KeyError if there is no such port.
        """
        line = next((line for line in self._lines if line.port.name == name), None)
        if line is None:
            raise KeyError(name)
        self._arriving.append((line, stream))
        self.worker.call(self._arrived)

    # --- for the transport

    def read_config(self) -> bytes:
        """Return virtio_console_config (5.3.4)."""
        return _CONFIG.pack(0, 0, len(self._lines), 0)

    def started(self) -> None:
        """Begin; without VIRTIO_CONSOLE_F_MULTIPORT port 0 is open from the start."""
        if not self.has(F_MULTIPORT):
            self.worker.call(partial(self._opened, self._lines[0], True))

    def rung(self, queue: Queue) -> None:
        """Go on with what waited for the driver."""
        if queue.index == _CONTROL_RECEIVE:
            self._send_control()
            self._hear()
        elif queue.index == _CONTROL_TRANSMIT:
            self._hear()
        else:
            number = 0 if queue.index < _CONTROL_RECEIVE else queue.index // 2 - 1
            line = self._lines[number]
            if queue.index & 1:
                self._transmit(line)
            else:
                self._receive(line)

    def stopped(self) -> None:
        """Close the ports on the guest's side; a buffer that was sent in part is forgotten."""
        self._ready = False
        self._pending.clear()
        for line in self._lines:
            line.chains.clear()
            line.batch = 1
            if line.stream is not None:
                self.worker.unwatch(line.stream)
            if line.state.guest_open:
                line.port.opened(False)
            line.state = PortState()

    def paused(self) -> None:
        """Put buffers back that were sent in part; `sent` remembers how far."""
        for line in self._lines:
            self.put_back(self._transmit_queue(line), len(line.chains))
            line.chains.clear()

    def close(self) -> None:
        """End the device and close the streams."""
        super().close()
        while self._arriving:
            os.close(self._arriving.popleft()[1])
        for line in self._lines:
            if line.stream is not None:
                os.close(line.stream)
                line.stream = None

    def save(self) -> ConsoleState:
        """Return a copy of the state."""
        ports = [
            PortState(line.state.guest_open, line.state.told_open, line.state.sent)
            for line in self._lines
        ]
        return ConsoleState(self._ready, list(self._pending), ports)

    def restore(self, state: object) -> None:
        """Restore `state`; the guest is told of streams that are there or gone now."""
        assert isinstance(state, ConsoleState)
        self._ready = state.ready
        self._pending = deque(state.pending)
        for line, port in zip(self._lines, state.ports, strict=True):
            line.state = PortState(port.guest_open, port.told_open, port.sent)
            if port.guest_open:
                line.port.opened(True)
            if self._ready and port.told_open is not (line.stream is not None):
                self._tell_open(line)

    # --- control

    def _hear(self) -> None:
        """Handle the control messages of the driver, while there is room for what they cause."""
        queue = self.queues[_CONTROL_TRANSMIT]
        while self.running and not self.worker.wanted_away:
            queue.disarm()
            if len(self._pending) >= PENDING:
                return  # the driver has to give buffers first
            chain = self.take(queue)
            if chain is not None:
                self._control(queue, chain)
            elif not self.running or not queue.arm():
                return

    def _control(self, queue: Queue, chain: Chain) -> None:
        message, _ = gather(chain.readable, _CONTROL.size)
        self.give(queue, chain, 0)
        if len(message) < _CONTROL.size:
            self.fail(f"a control message of {len(message)} bytes")
            return
        number, event, value = _CONTROL.unpack(message)
        if event == DEVICE_READY:
            self._ready = bool(value)
            if self._ready:
                for line in self._lines:
                    self._say(line, DEVICE_ADD, 1)
        elif number < len(self._lines):
            self._about_port(self._lines[number], event, value)
        self._send_control()

    def _about_port(self, line: _Line, event: int, value: int) -> None:
        if event == PORT_READY and value:
            if line.port.console:
                self._say(line, CONSOLE_PORT, 1)
            self._say(line, PORT_NAME, 1, line.port.name.encode() + b"\0")
            if line.stream is not None:
                self._tell_open(line)
        elif event == PORT_OPEN:
            self._opened(line, bool(value))

    def _opened(self, line: _Line, is_open: bool) -> None:
        if line.state.guest_open is is_open:
            return
        line.state.guest_open = is_open
        line.port.opened(is_open)
        if is_open:
            self._receive(line)
        elif line.stream is not None:
            self.worker.unwatch(line.stream, writable=False)

    def _say(self, line: _Line, event: int, value: int, more: bytes = b"") -> None:
        self._pending.append(_CONTROL.pack(line.number, event, value) + more)

    def _tell_open(self, line: _Line) -> None:
        line.state.told_open = line.stream is not None
        self._say(line, PORT_OPEN, int(line.state.told_open))

    def _send_control(self) -> None:
        """Write the messages that wait to the driver's buffers, as long as it has some."""
        queue = self.queues[_CONTROL_RECEIVE]
        while self._pending:
            chain = self.take(queue)
            if chain is None:
                if self.running and queue.arm():
                    continue
                return
            self.give(queue, chain, scatter(self._pending.popleft(), chain.writable))

    # --- streams

    def _attach(self, line: _Line, stream: int) -> None:
        os.set_blocking(stream, False)
        line.stream = stream
        line.speaks = fcntl.fcntl(stream, fcntl.F_GETFL) & os.O_ACCMODE != os.O_WRONLY

    def _arrived(self) -> None:
        while self._arriving:
            self._replace(*self._arriving.popleft())

    def _replace(self, line: _Line, stream: int) -> None:
        self._detach(line)
        self._attach(line, stream)
        if self._ready:
            self._tell_open(line)
            self._send_control()
        self._receive(line)
        self._transmit(line)

    def _detach(self, line: _Line) -> None:
        """Close a stream whose other side is gone, and tell the guest."""
        if line.stream is None:
            return
        self.worker.unwatch(line.stream)
        os.close(line.stream)
        line.stream = None
        if self._ready and self.running:
            self._tell_open(line)
            self._send_control()
        if line.port.console:
            self._lose(line, self._transmit_queue(line))

    def _transmit_queue(self, line: _Line) -> Queue:
        return self.queues[_queues(line.number) + 1]

    def _may_work(self, line: _Line) -> bool:
        if line.stream is not None and not self.running:
            self.worker.unwatch(line.stream)
        return self.running and line.stream is not None and not self.worker.wanted_away

    def _receive(self, line: _Line) -> None:
        """Fill the driver's buffers with what the host has sent, while a program listens."""
        queue = self.queues[_queues(line.number)]
        queue.disarm()
        for _ in range(_ROUNDS):
            if not (line.state.guest_open and line.speaks and self._may_work(line)):
                return
            chains = self._take_some(queue, line.batch)
            if not chains:
                assert line.stream is not None
                self.worker.unwatch(line.stream, writable=False)
                if not (self.running and queue.arm()):
                    return
                queue.disarm()
                continue
            if not self._fill(line, queue, chains):
                return
        self._watch(line)

    def _take_some(self, queue: Queue, most: int) -> list[Chain]:
        chains: list[Chain] = []
        while len(chains) < most and (chain := self.take(queue)) is not None:
            if not chain.writable_size:
                self.fail(f"queue {queue.index}: a buffer without room")
                break
            chains.append(chain)
        return chains if self.running else []

    def _fill(self, line: _Line, queue: Queue, chains: list[Chain]) -> bool:
        """Read into `chains` and give back those with data; False: nothing more is there."""
        assert line.stream is not None
        got = 0
        end = False
        views = [view for chain in chains for view in chain.writable][:_IOV_MAX]
        try:
            got = os.readv(line.stream, views)
            end = not got
        except BlockingIOError:
            pass
        except OSError:  # a terminal or a socket whose other side is gone
            end = True
        filled = []
        left = got
        for chain in chains:
            if not left:
                break
            part = min(left, chain.writable_size)
            filled.append((chain, part))
            left -= part
        self.put_back(queue, len(chains) - len(filled))
        if end:
            self._detach(line)
            return False
        if not got:
            self._watch(line)
            return False
        self.counters.add("bytes_in", got)
        self.give_all(queue, filled)
        line.batch = min(2 * line.batch, _BATCH) if len(filled) == len(chains) else len(filled)
        return True

    def _watch(self, line: _Line) -> None:
        if line.stream is not None:
            self.worker.watch(line.stream, partial(self._receive, line))

    def _transmit(self, line: _Line) -> None:
        """Write to the host what the guest has sent, as far as the host takes it."""
        queue = self._transmit_queue(line)
        queue.disarm()
        if line.port.console and line.stream is None:
            self._lose(line, queue)
            return
        for _ in range(_ROUNDS):
            if not self._may_work(line):
                return
            while len(line.chains) < _BATCH and (chain := self.take(queue)) is not None:
                line.chains.append(chain)
            if not line.chains:
                assert line.stream is not None
                self.worker.unwatch(line.stream, readable=False)
                if not (self.running and queue.arm()):
                    return
                queue.disarm()
            elif not self._write(line):
                return
        self._watch_room(line)

    def _lose(self, line: _Line, queue: Queue) -> None:
        """Take the output of a console that nobody reads."""
        line.state.sent = 0
        while self.running and not self.worker.wanted_away:
            chain = line.chains.popleft() if line.chains else self.take(queue)
            if chain is not None:
                self.counters.add("bytes_lost", chain.readable_size)
                self.give(queue, chain, 0)
            elif not self.running or not queue.arm():
                return

    def _watch_room(self, line: _Line) -> None:
        if line.stream is not None:
            self.worker.watch(line.stream, partial(self._transmit, line), writable=True)

    def _write(self, line: _Line) -> bool:
        """Write what was taken from the guest; False: the host takes no more now, or is gone."""
        assert line.stream is not None
        state = line.state
        rest = skip((view for chain in line.chains for view in chain.readable), state.sent)
        try:
            done = os.writev(line.stream, rest[:_IOV_MAX]) if rest else 0
        except BlockingIOError:
            done = 0
        except OSError as error:
            if error.errno not in _GONE:
                self.counters.add("errors")
            self._detach(line)
            return False
        self.counters.add("bytes_out", done)
        state.sent += done
        sent = []
        while line.chains and line.chains[0].readable_size <= state.sent:
            chain = line.chains.popleft()
            state.sent = max(state.sent - chain.readable_size, 0) if line.chains else 0
            sent.append((chain, 0))
        self.give_all(self._transmit_queue(line), sent)
        if not sent and not done:
            self._watch_room(line)
        return bool(sent or done)
