"""The socket device (virtio 1.2, 5.10): connections, credit, shutdown, hostile packets, state."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

import pytest
from tests.unit.devices.virtio.conftest import Failed, MakeRig
from tests.unit.devices.virtio.driver import PATIENCE, PLAIN, Part, eventually

from ringlet.devices.virtio.device import VirtioDevice
from ringlet.devices.virtio.pci import VirtioPci
from ringlet.devices.virtio.vsock import CONNECTIONS, REFUSALS, Vsock
from ringlet.devices.virtio.vsock_connection import BUFFER
from ringlet.devices.virtio.vsock_listener import BACKLOG, Listener
from ringlet.devices.virtio.vsock_packets import (
    HEADER_SIZE,
    SHUTDOWN_BOTH,
    SHUTDOWN_RECEIVE,
    SHUTDOWN_SEND,
    Header,
    Op,
    unpack,
)

IN, OUT, EVENT = 0, 1, 2
GUEST, HOST = 3, 2
PORT = 1024
ROOM = 0x1000
PLENTY = 1 << 20


class Guest:
    """A driver with `listener` of the host at PORT."""

    def __init__(
        self, make_rig: MakeRig, device: Callable[[Failed], VirtioDevice] = Vsock
    ) -> None:
        self.rig = make_rig(device)
        self.listener: Listener = self.vsock.listen(PORT)
        self.rooms: dict[int, Part] = {}
        self.rig.start(PLAIN, size=64)
        self.scratch = self.rig.buffer(0x10000 + HEADER_SIZE)[0]
        self.streams: list[socket.socket] = []

    @property
    def vsock(self) -> Vsock:
        assert isinstance(self.rig.device, Vsock)
        return self.rig.device

    def offer(self, count: int = 1, size: int = ROOM) -> None:
        """Give the device buffers for packets."""
        for _ in range(count):
            room = self.rig.buffer(size)
            self.rooms[self.rig.rings[IN].chain([], [room])] = room
        self.rig.ring(IN)

    def send(
        self, op: int, data: bytes = b"", *, port: int = 5000, host_port: int = PORT,
        flags: int = 0, alloc: int = PLENTY, forwarded: int = 0, source: int = GUEST,
        target: int = HOST, kind: int = 1, size: int | None = None,
    ) -> None:  # fmt: skip
        """Send a packet and wait until the device has taken it."""
        length = len(data) if size is None else size
        packet = Header(
            source, target, port, host_port, length, kind, op, flags, alloc, forwarded
        ).pack()
        whole = packet + data
        self.rig.memory.view(self.scratch, len(whole))[:] = whole
        self.rig.rings[OUT].chain([(self.scratch, len(whole))])
        self.rig.ring(OUT)
        self.rig.came_back(OUT)

    def heard(self, count: int = 1) -> list[tuple[Header, bytes]]:
        """Return `count` packets of the device."""
        packets: list[tuple[Header, bytes]] = []
        while len(packets) < count:
            for head, written in self.rig.came_back(IN, 1):
                data = self.rig.read(self.rooms[head], written)
                packets.append((unpack(data[:HEADER_SIZE]), data[HEADER_SIZE:]))
        return packets

    def ops(self, count: int = 1) -> list[Op]:
        return [Op(header.op) for header, _ in self.heard(count)]

    def silent(self) -> bool:
        """Return whether the device has sent nothing."""
        self.rig.at_rest()
        return self.rig.rings[IN].waits() == 0

    def call(self, **options: int) -> socket.socket:
        """Connect to the host's listener, and return the host's end."""
        self.send(Op.REQUEST, **options)  # type: ignore[arg-type]  # all are numbers
        sock = self.listener.accept(PATIENCE)
        sock.settimeout(PATIENCE)
        self.streams.append(sock)
        return sock


def too_many_files(*args: object) -> NoReturn:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


@pytest.fixture
def guest(make_rig: MakeRig) -> Iterator[Guest]:
    guest = Guest(make_rig)
    yield guest
    for stream in guest.streams:
        stream.close()


@pytest.fixture
def host(guest: Guest) -> socket.socket:
    """The host's end of a stream, of which the guest has had the answer."""
    guest.offer(8)
    sock = guest.call()
    assert guest.ops() == [Op.RESPONSE]
    return sock


# --- connections


def test_configuration(guest: Guest) -> None:
    assert guest.rig.config(0, 8) == GUEST


def test_guest_calls(guest: Guest) -> None:
    guest.offer()
    guest.call()
    ((answer, data),) = guest.heard()
    assert answer == Header(HOST, GUEST, PORT, 5000, 0, 1, Op.RESPONSE, 0, BUFFER, 0)
    assert data == b""


def test_nobody_listens(guest: Guest) -> None:
    guest.offer()
    guest.send(Op.REQUEST, host_port=9)
    ((answer, _),) = guest.heard()
    assert (answer.op, answer.source_port, answer.target_port) == (Op.RST, 9, 5000)


def test_host_calls(guest: Guest) -> None:
    guest.offer(4)
    results: list[socket.socket] = []
    caller = threading.Thread(
        target=lambda: results.append(guest.vsock.connect_guest(77, PATIENCE))
    )
    caller.start()
    ((request, _),) = guest.heard()
    assert (request.op, request.target_port) == (Op.REQUEST, 77)
    guest.send(Op.RESPONSE, port=77, host_port=request.source_port)
    caller.join(PATIENCE)
    (stream,) = results
    guest.streams.append(stream)
    stream.send(b"hello")
    ((packet, data),) = guest.heard()
    assert (packet.op, data) == (Op.RW, b"hello")


def test_guest_refuses(guest: Guest) -> None:
    guest.offer(4)
    errors: list[Exception] = []

    def call() -> None:
        try:
            guest.vsock.connect_guest(77, PATIENCE)
        except ConnectionRefusedError as error:
            errors.append(error)

    caller = threading.Thread(target=call)
    caller.start()
    ((request, _),) = guest.heard()
    guest.send(Op.RST, port=77, host_port=request.source_port)
    caller.join(PATIENCE)
    assert "nothing listens at vsock port 77" in str(errors[0])


def test_guest_does_not_answer(guest: Guest) -> None:
    guest.offer(4)
    with pytest.raises(TimeoutError, match="does not answer at vsock port 77"):
        guest.vsock.connect_guest(77, 0.05)
    assert guest.ops(2) == [Op.REQUEST, Op.RST]
    assert guest.vsock._connections == {}


def test_guest_without_a_driver(make_rig: MakeRig) -> None:
    rig = make_rig(Vsock)
    assert isinstance(rig.device, Vsock)
    with pytest.raises(ConnectionRefusedError):
        rig.device.connect_guest(1, PATIENCE)


def test_caller_is_told_when_the_device_ends(guest: Guest) -> None:
    errors: list[Exception] = []

    def call() -> None:
        try:
            guest.vsock.connect_guest(77)
        except ConnectionRefusedError as error:
            errors.append(error)

    caller = threading.Thread(target=call)
    caller.start()
    guest.rig.at_rest()
    guest.rig.pci.close()
    caller.join(PATIENCE)
    assert len(errors) == 1
    call()
    assert len(errors) == 2


def test_port_of_the_host_is_taken_once(guest: Guest) -> None:
    with pytest.raises(ValueError, match="port 1024 of the host is in use"):
        guest.vsock.listen(PORT)
    guest.listener.close()
    guest.vsock.listen(PORT)


def test_nobody_calls(guest: Guest) -> None:
    with pytest.raises(TimeoutError, match="nobody has called port 1024"):
        guest.listener.accept(0.01)


# --- data and credit


def test_both_ways(guest: Guest, host: socket.socket) -> None:
    guest.send(Op.RW, b"from the guest")
    assert host.recv(100) == b"from the guest"
    host.send(b"from the host")
    ((header, data),) = guest.heard()
    assert (header.op, header.size, data) == (Op.RW, 13, b"from the host")
    assert header.forwarded == 14


def test_packet_with_more_bytes_than_it_says(guest: Guest, host: socket.socket) -> None:
    guest.send(Op.RW, b"take this, not that", size=9)
    guest.send(Op.RW, b"!")
    assert host.recv(100) == b"take this!"


def test_data_is_cut_to_the_guests_buffers(guest: Guest) -> None:
    guest.offer(1)
    host = guest.call()
    guest.heard()
    guest.offer(3, HEADER_SIZE + 4)
    host.send(b"abcdefghij")
    assert [data for _, data in guest.heard(3)] == [b"abcd", b"efgh", b"ij"]


@pytest.mark.parametrize("alloc", [0, 1, 10, 1000])
def test_host_sends_what_the_guest_has_credit_for(guest: Guest, alloc: int) -> None:
    guest.offer(16)
    host = guest.call(alloc=alloc)
    guest.heard()
    host.send(bytes(5000))
    guest.rig.at_rest()
    got = sum(len(d) for _, d in guest.heard(1)) if alloc else 0
    guest.rig.at_rest()
    assert got == alloc
    assert guest.silent()
    guest.send(Op.CREDIT_UPDATE, alloc=alloc + 7, forwarded=alloc)
    assert len(guest.heard()[0][1]) == alloc + 7


def test_counters_wrap(guest: Guest) -> None:
    """Credit is computed in 32 bits: here the guest counts on from near their end."""
    guest.offer(4)
    host = guest.call(alloc=100)
    guest.heard()
    connection = next(iter(guest.vsock._connections.values()))
    connection._sent = 0xFFFF_FFF0
    guest.send(Op.CREDIT_UPDATE, alloc=100, forwarded=0xFFFF_FFF0)
    host.send(bytes(150))
    assert len(guest.heard()[0][1]) == 100
    guest.send(Op.CREDIT_UPDATE, alloc=100, forwarded=(0xFFFF_FFF0 + 100) & 0xFFFF_FFFF)
    assert len(guest.heard()[0][1]) == 50


@pytest.mark.parametrize(("alloc", "forwarded"), [(0xFFFF_FFFF, 0), (100, 0xFFFF_0000), (5, 7)])
def test_credit_lies_harm_nobody(guest: Guest, alloc: int, forwarded: int) -> None:
    guest.offer(8)
    host = guest.call(alloc=alloc, forwarded=forwarded)
    guest.heard()
    host.send(bytes(100))
    guest.rig.at_rest()
    guest.send(Op.RW, b"still here")
    assert host.recv(100) == b"still here"


def test_credit_request_is_answered(guest: Guest, host: socket.socket) -> None:
    guest.send(Op.RW, b"12345")
    assert host.recv(5) == b"12345"
    guest.send(Op.CREDIT_REQUEST)
    ((header, _),) = guest.heard()
    assert (header.op, header.alloc, header.forwarded) == (Op.CREDIT_UPDATE, BUFFER, 5)


def test_many_answers_leave_one_call_for_the_thread(
    guest: Guest, host: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest.offer(20)
    worker = guest.vsock.worker
    calls: list[Callable[[], None]] = []
    call = worker.call

    def counted(what: Callable[[], None]) -> None:
        calls.append(what)
        call(what)

    monkeypatch.setattr(worker, "call", counted)
    packet = Header(GUEST, HOST, 5000, PORT, 0, 1, Op.CREDIT_REQUEST, 0, PLENTY, 0).pack()
    guest.rig.memory.view(guest.scratch, len(packet))[:] = packet
    for _ in range(20):
        guest.rig.rings[OUT].chain([(guest.scratch, len(packet))])
    guest.rig.ring(OUT)

    assert guest.ops(20) == [Op.CREDIT_UPDATE] * 20
    assert len(calls) == 1
    guest.rig.at_rest()
    host.sendall(b"goes on")
    guest.offer()
    assert guest.heard()[0][1] == b"goes on"


def test_guest_hears_of_room(guest: Guest, host: socket.socket) -> None:
    """The host reads: the guest is told of it before its credit is used up."""
    sent = 0
    while sent < BUFFER:
        guest.send(Op.RW, bytes(0x8000))
        sent += 0x8000
        left = 0x8000
        while left:
            left -= len(host.recv(left))
    headers = [header for header, _ in guest.heard(1)]
    assert headers[0].op == Op.CREDIT_UPDATE
    assert headers[0].forwarded >= BUFFER // 2


def test_host_that_does_not_read_costs_the_credit_and_no_more(
    guest: Guest, host: socket.socket
) -> None:
    data = os.urandom(0x8000)
    sent = 0
    connection = next(iter(guest.vsock._connections.values()))
    while connection.buffered + len(data) <= BUFFER:
        guest.send(Op.RW, data)
        sent += len(data)
    assert guest.silent() or guest.ops() == [Op.CREDIT_UPDATE]
    got = bytearray()
    while len(got) < sent:
        got += host.recv(1 << 20)
    assert got == data * (sent // len(data))
    assert eventually(lambda: connection.buffered == 0)


def test_more_than_the_credit_ends_the_stream(guest: Guest, host: socket.socket) -> None:
    connection = next(iter(guest.vsock._connections.values()))
    for _ in range(100):
        if not guest.vsock._connections:
            break
        guest.send(Op.RW, bytes(0x8000))
    assert not guest.vsock._connections
    assert Op.RST in guest.ops(1)
    assert connection.buffered <= BUFFER


def test_guest_without_buffers_holds_the_host_up(guest: Guest) -> None:
    guest.offer(1)
    host = guest.call()
    guest.heard()
    host.setblocking(False)
    sent = 0
    try:
        while sent < 100 << 20:
            sent += host.send(bytes(0x10000))
    except BlockingIOError:
        pass
    assert sent < 100 << 20
    before = time.process_time()
    time.sleep(0.1)
    assert time.process_time() - before < 0.05, "the device's thread spins"
    got = 0
    while got < sent:
        guest.rig._next_buffer = 0x280000
        guest.offer(8)
        assert eventually(lambda: guest.rig.rings[IN].waits() > 0)
        for header, data in guest.heard(1):
            assert header.op == Op.RW
            got += len(data)
        guest.send(Op.CREDIT_UPDATE, forwarded=got)
    assert got == sent


def test_streams_do_not_wait_for_each_other(guest: Guest, host: socket.socket) -> None:
    other = guest.call(port=6000)
    assert guest.ops() == [Op.RESPONSE]
    for _ in range(8):
        guest.send(Op.RW, bytes(0x8000))
    guest.send(Op.RW, b"past it", port=6000)
    assert other.recv(100) == b"past it"


# --- the end of a stream


def test_host_closes(guest: Guest, host: socket.socket) -> None:
    host.send(b"bye")
    host.close()
    (_, data), (header, _) = guest.heard(2)
    assert data == b"bye"
    assert (header.op, header.flags) == (Op.SHUTDOWN, SHUTDOWN_BOTH)
    guest.send(Op.RST)
    assert guest.vsock._connections == {}


def test_host_ends_what_it_sends(guest: Guest, host: socket.socket) -> None:
    host.shutdown(socket.SHUT_WR)
    ((header, _),) = guest.heard()
    assert (header.op, header.flags) == (Op.SHUTDOWN, SHUTDOWN_SEND)
    guest.send(Op.RW, b"the guest may go on")
    assert host.recv(100) == b"the guest may go on"
    guest.send(Op.SHUTDOWN, flags=SHUTDOWN_BOTH)
    assert guest.ops() == [Op.RST]
    assert host.recv(1) == b""


def test_guest_ends_what_it_sends(guest: Guest, host: socket.socket) -> None:
    guest.send(Op.RW, b"last")
    guest.send(Op.SHUTDOWN, flags=SHUTDOWN_SEND)
    assert host.recv(100) == b"last"
    assert host.recv(100) == b""
    host.send(b"answer")
    assert guest.heard()[0][1] == b"answer"


def test_guest_ends_what_it_receives(guest: Guest, host: socket.socket) -> None:
    guest.send(Op.SHUTDOWN, flags=SHUTDOWN_RECEIVE)
    guest.rig.at_rest()
    with pytest.raises(BrokenPipeError):
        host.send(b"x")
    guest.send(Op.RW, b"still sends")
    assert host.recv(100) == b"still sends"


def test_shutdown_comes_after_the_data_before_it(guest: Guest, host: socket.socket) -> None:
    """The guest closes while the host has not read yet: the RST waits for the host."""
    connection = next(iter(guest.vsock._connections.values()))
    sent = 0
    while not connection.buffered:
        guest.send(Op.RW, bytes(0x8000))
        sent += 0x8000
    guest.send(Op.SHUTDOWN, flags=SHUTDOWN_BOTH)
    guest.rig.at_rest()
    assert list(guest.vsock._connections.values()) == [connection]
    got = 0
    while data := host.recv(1 << 20):
        got += len(data)
    assert got == sent
    assert guest.heard(1)[-1][0].op in {Op.RST, Op.CREDIT_UPDATE}
    assert eventually(lambda: guest.vsock._connections == {})


def test_what_was_sent_before_a_reset_still_arrives(guest: Guest, host: socket.socket) -> None:
    connection = next(iter(guest.vsock._connections.values()))
    sent = 0
    while not connection.buffered:
        guest.send(Op.RW, bytes(0x8000))
        sent += 0x8000
    guest.send(Op.RST)
    got = 0
    while data := host.recv(1 << 20):
        got += len(data)
    assert got == sent
    assert eventually(lambda: not guest.vsock._left)


def test_data_for_a_host_that_is_gone(guest: Guest, host: socket.socket) -> None:
    host.close()
    guest.heard(1)
    guest.send(Op.RW, b"x")
    assert guest.ops() == [Op.RST]


def test_data_after_the_guests_shutdown(guest: Guest, host: socket.socket) -> None:
    guest.send(Op.SHUTDOWN, flags=SHUTDOWN_SEND)
    guest.send(Op.RW, b"x")
    assert guest.ops() == [Op.RST]
    assert guest.vsock._connections == {}


def test_reset_of_the_device_ends_all(guest: Guest, host: socket.socket) -> None:
    guest.rig.set(20, 1, 0)
    assert host.recv(1) == b""
    assert guest.vsock._connections == {}


# --- hostile packets


@pytest.mark.parametrize("op", [0, 2, 4, 5, 6, 7, 8, 0xFFFF])
def test_packet_for_no_stream_is_refused(guest: Guest, op: int) -> None:
    guest.offer()
    guest.send(op)
    assert guest.ops() == [Op.RST]


def test_reset_for_no_stream_is_not_answered(guest: Guest) -> None:
    guest.offer()
    guest.send(Op.RST)
    assert guest.silent()


@pytest.mark.parametrize("op", [0, 1, 2, 8, 0xFFFF])
def test_wrong_packet_ends_a_stream(guest: Guest, host: socket.socket, op: int) -> None:
    guest.send(op)
    assert guest.ops() == [Op.RST]
    assert host.recv(1) == b""


@pytest.mark.parametrize("kind", [0, 2, 3, 0xFFFF])
def test_other_type_is_refused(guest: Guest, kind: int) -> None:
    guest.offer()
    guest.send(Op.REQUEST, kind=kind)
    ((header, _),) = guest.heard()
    assert (header.op, header.kind) == (Op.RST, kind)


@pytest.mark.parametrize(
    ("source", "target"), [(2, 2), (4, 2), (0, 2), (3, 3), (3, 1), (3, 1 << 32 | 2), (1 << 63, 2)]
)
def test_spoofed_addresses_are_dropped(guest: Guest, source: int, target: int) -> None:
    guest.offer()
    guest.send(Op.REQUEST, source=source, target=target)
    assert guest.silent()
    assert guest.vsock._connections == {}
    assert guest.rig.device.counters.values["malformed"] == 1


@pytest.mark.parametrize("size", [1, 100, 0x10000, 0xFFFF_FFFF])
def test_packet_that_says_more_than_it_has(guest: Guest, host: socket.socket, size: int) -> None:
    guest.send(Op.RW, b"", size=size)
    guest.send(Op.RW, b"right")
    assert host.recv(100) == b"right"


@pytest.mark.parametrize("size", [1, 43])
def test_part_of_a_header(guest: Guest, size: int) -> None:
    guest.rig.send(OUT, [bytes(size)])
    guest.rig.came_back(OUT)
    assert guest.rig.device.counters.values["malformed"] == 1


@pytest.mark.parametrize("size", [1, HEADER_SIZE])
def test_buffer_without_room_breaks_the_device(guest: Guest, size: int) -> None:
    guest.offer(1, size)
    guest.send(Op.REQUEST, host_port=9)
    assert eventually(lambda: guest.rig.needs_reset)
    assert f"a buffer of {size} bytes for packets" in guest.rig.complaints[0]


def test_number_of_streams_is_bounded(guest: Guest) -> None:
    for port in range(CONNECTIONS):
        guest.send(Op.REQUEST, port=port)
        guest.streams.append(guest.listener.accept(PATIENCE))
    guest.send(Op.REQUEST, port=CONNECTIONS)
    guest.rig.at_rest()
    assert len(guest.vsock._connections) == CONNECTIONS
    assert len(guest.vsock._refusals) == 1


def test_backlog_is_bounded(guest: Guest) -> None:
    for port in range(BACKLOG + 1):
        guest.send(Op.REQUEST, port=port)
    assert len(guest.vsock._connections) == BACKLOG
    assert len(guest.vsock._refusals) == 1


def test_call_while_the_process_has_too_many_files(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest.offer(2)
    with monkeypatch.context() as full:
        full.setattr(socket, "socketpair", too_many_files)
        guest.send(Op.REQUEST)
        assert guest.ops() == [Op.RST]

    guest.call()
    assert guest.ops() == [Op.RESPONSE]


def test_refusals_are_bounded(guest: Guest) -> None:
    for port in range(REFUSALS + 10):
        guest.send(Op.RW, port=port)
    assert len(guest.vsock._refusals) == REFUSALS


# --- state


def test_pause_and_resume_keep_streams(guest: Guest, host: socket.socket) -> None:
    guest.rig.device.pause()
    guest.rig.pci.save()
    guest.rig.device.resume()
    guest.send(Op.RW, b"goes on")
    assert host.recv(100) == b"goes on"
    assert guest.rig.rings[EVENT].used() == []


def test_restored_guest_hears_that_its_streams_ended(guest: Guest, host: socket.socket) -> None:
    """5.10.6.7: VIRTIO_VSOCK_EVENT_TRANSPORT_RESET; after it both sides may call again."""
    head, (room,) = guest.rig.send(EVENT, [], [4])
    guest.rig.memory.view(*room)[:] = b"\xff" * 4
    guest.rig.device.pause()
    state = guest.rig.pci.save()
    other = Vsock(lambda error: pytest.fail(str(error)))
    listener = other.listen(PORT)
    fresh = VirtioPci(other, guest.rig.pci._around)
    fresh.restore(state)
    assert guest.rig.came_back(EVENT) == [(head, 4)]
    assert guest.rig.read(room) == bytes(4)
    old, guest.rig.pci = guest.rig.pci, fresh
    guest.send(Op.RW, b"of before")
    assert guest.ops() == [Op.RST]
    guest.send(Op.REQUEST)
    listener.accept(PATIENCE).close()
    fresh.close()
    guest.rig.pci = old
    guest.rig.device.resume()
