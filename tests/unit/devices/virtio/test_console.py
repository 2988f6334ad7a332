"""The console device (virtio 1.2, 5.3): control messages, streams, flow control, state."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator

import pytest
from tests.unit.devices.virtio.conftest import MakeRig
from tests.unit.devices.virtio.driver import PATIENCE, PLAIN, Part, eventually

from ringlet.devices.virtio import console as c
from ringlet.devices.virtio.pci import VirtioPci
from ringlet.errors import InternalError

FEATURES = PLAIN | c.F_MULTIPORT
CONTROL_IN, CONTROL_OUT = 2, 3
# Port 1's queues
IN, OUT = 4, 5


class Guest:
    """A driver with two ports: "first", which is a console, and "agent", the host's end of which
    is `host`."""

    def __init__(self, make_rig: MakeRig) -> None:
        self.host, theirs = socket.socketpair()
        self.host.settimeout(PATIENCE)
        self.opened: list[bool] = []
        ports = [
            c.Port("first", console=True),
            c.Port("agent", theirs.detach(), opened=self.opened.append),
        ]
        self.rig = make_rig(lambda failed: c.Console(ports, failed))
        self.rooms: dict[int, Part] = {}

    @property
    def console(self) -> c.Console:
        assert isinstance(self.rig.device, c.Console)
        return self.rig.device

    def offer(self, index: int, size: int = 64, count: int = 1) -> None:
        """Give the device buffers."""
        for _ in range(count):
            room = self.rig.buffer(size)
            self.rooms[self.rig.rings[index].chain([], [room])] = room
        self.rig.ring(index)

    def received(self, index: int, count: int = 1) -> list[bytes]:
        """Return the contents of `count` buffers."""
        return [
            self.rig.read(self.rooms[head], written)
            for head, written in self.rig.came_back(index, count)
        ]

    def tell(self, port: int, event: int, value: int = 1) -> None:
        """Send a control message."""
        self.rig.send(CONTROL_OUT, [struct.pack("<IHH", port, event, value)])
        self.rig.came_back(CONTROL_OUT)

    def heard(self, count: int) -> list[tuple[int, int, int, bytes]]:
        """Return control messages."""
        return [
            (*struct.unpack("<IHH", data[:8]), data[8:])
            for data in self.received(CONTROL_IN, count)
        ]

    def open_agent(self) -> None:
        """Go all the way to an open port 1."""
        self.rig.start(FEATURES)
        self.offer(CONTROL_IN, count=8)
        self.tell(0, c.DEVICE_READY)
        self.tell(1, c.PORT_READY)
        self.heard(4)
        self.tell(1, c.PORT_OPEN)
        self.rig.at_rest()


@pytest.fixture
def guest(make_rig: MakeRig) -> Iterator[Guest]:
    guest = Guest(make_rig)
    yield guest
    guest.host.close()


@pytest.fixture
def agent(guest: Guest) -> Guest:
    guest.open_agent()
    return guest


def test_configuration(guest: Guest) -> None:
    assert guest.rig.config(4, 4) == 2
    assert guest.rig.device.queue_limits == (128, 128, 32, 32, 128, 128)
    assert guest.rig.offered() & 0b111 == c.F_MULTIPORT


@pytest.mark.parametrize("count", [0, c.PORTS_MAX + 1])
def test_number_of_ports(count: int) -> None:
    with pytest.raises(InternalError, match="so many ports"):
        c.Console([c.Port("x")] * count, lambda error: None)


# --- control


def test_conversation(guest: Guest) -> None:
    """5.3.6.2: the device adds ports, the driver is ready, the device names and opens them."""
    guest.rig.start(FEATURES)
    guest.offer(CONTROL_IN, count=8)
    guest.tell(0, c.DEVICE_READY)
    assert guest.heard(2) == [(0, c.DEVICE_ADD, 1, b""), (1, c.DEVICE_ADD, 1, b"")]
    guest.tell(1, c.PORT_READY)
    assert guest.heard(2) == [(1, c.PORT_NAME, 1, b"agent\0"), (1, c.PORT_OPEN, 1, b"")]
    guest.tell(0, c.PORT_READY)
    assert guest.heard(2) == [(0, c.CONSOLE_PORT, 1, b""), (0, c.PORT_NAME, 1, b"first\0")]


def test_messages_wait_for_buffers(guest: Guest) -> None:
    guest.rig.start(FEATURES)
    guest.tell(0, c.DEVICE_READY)
    guest.rig.at_rest()
    guest.offer(CONTROL_IN)
    assert guest.heard(1) == [(0, c.DEVICE_ADD, 1, b"")]
    guest.offer(CONTROL_IN)
    assert guest.heard(1) == [(1, c.DEVICE_ADD, 1, b"")]


def test_driver_without_buffers_is_not_heard_any_more(guest: Guest) -> None:
    """The messages that wait are bounded: the driver's own stay in its queue."""
    guest.rig.start(FEATURES)
    rings = guest.rig.rings[CONTROL_OUT]
    sent = back = 0
    part = guest.rig.buffer(struct.pack("<IHH", 0, c.DEVICE_READY, 1))
    while sent - back < rings.size and sent < 1000:
        rings.chain([part])
        sent += 1
        guest.rig.ring(CONTROL_OUT)
        guest.rig.at_rest()
        back += len(rings.used())
    assert sent < 1000
    assert len(guest.console.save().pending) <= c.PENDING + 2
    for _ in range(40):
        guest.offer(CONTROL_IN, count=len(guest.rig.rings[CONTROL_IN].free))
        guest.rig.at_rest()
        guest.rig.rings[CONTROL_IN].used()
    assert eventually(lambda: rings.waits() + back == sent)


@pytest.mark.parametrize(
    ("port", "event"), [(2, 3), (0xFFFF_FFFF, 6), (0, 99), (1, 1), (1, 4), (0, 0xFFFF)]
)
def test_unknown_messages_change_nothing(guest: Guest, port: int, event: int) -> None:
    guest.rig.start(FEATURES)
    guest.offer(CONTROL_IN, count=4)
    guest.tell(port, event)
    guest.rig.at_rest()
    assert guest.rig.rings[CONTROL_IN].used() == []
    assert not guest.rig.needs_reset


def test_short_message_breaks_the_device(guest: Guest) -> None:
    guest.rig.start(FEATURES)
    guest.rig.send(CONTROL_OUT, [bytes(7)])
    assert eventually(lambda: guest.rig.needs_reset)
    assert "a control message of 7 bytes" in guest.rig.complaints[0]


def test_host_hears_of_open_and_close(agent: Guest) -> None:
    agent.tell(1, c.PORT_OPEN, 0)
    agent.tell(1, c.PORT_OPEN, 0)
    agent.tell(1, c.PORT_OPEN, 1)
    assert eventually(lambda: agent.opened == [True, False, True])


def test_reset_closes_the_port(agent: Guest) -> None:
    agent.rig.set(20, 1, 0)
    assert agent.opened == [True, False]


def test_port_0_without_multiport(make_rig: MakeRig) -> None:
    host, theirs = socket.socketpair()
    rig = make_rig(lambda failed: c.Console([c.Port("x", theirs.detach())], failed))
    rig.start(PLAIN)
    rig.send(1, [b"old driver"])
    rig.came_back(1)
    assert host.recv(100) == b"old driver"
    _, (room,) = rig.send(0, [], [16])
    host.send(b"answer")
    ((_, written),) = rig.came_back(0)
    assert rig.read(room, written) == b"answer"
    host.close()


# --- streams


def test_from_guest_to_host(agent: Guest) -> None:
    head, _ = agent.rig.send(OUT, [b"from ", b"the guest"])
    assert agent.rig.came_back(OUT) == [(head, 0)]
    assert agent.host.recv(100) == b"from the guest"


def test_from_host_to_guest(agent: Guest) -> None:
    agent.offer(IN, 4, 3)
    agent.host.send(b"abcdefghij")
    assert agent.received(IN, 3) == [b"abcd", b"efgh", b"ij"]


def test_nothing_is_read_before_a_program_has_opened_the_port(guest: Guest) -> None:
    guest.rig.start(FEATURES)
    guest.offer(CONTROL_IN, count=8)
    guest.offer(IN)
    guest.host.send(b"early")
    guest.tell(0, c.DEVICE_READY)
    guest.tell(1, c.PORT_READY)
    guest.rig.at_rest()
    assert guest.rig.rings[IN].waits() == 0
    guest.tell(1, c.PORT_OPEN)
    assert guest.received(IN) == [b"early"]


def test_closed_port_keeps_what_comes_until_it_is_opened_again(agent: Guest) -> None:
    agent.offer(IN, count=2)
    agent.host.send(b"one")
    assert agent.received(IN) == [b"one"]
    agent.tell(1, c.PORT_OPEN, 0)
    agent.rig.at_rest()
    agent.host.send(b"two")
    agent.rig.at_rest()
    assert agent.rig.rings[IN].waits() == 0
    agent.tell(1, c.PORT_OPEN, 1)
    assert agent.received(IN) == [b"two"]


def test_guest_without_buffers_holds_the_host_up(agent: Guest) -> None:
    agent.host.settimeout(0.05)
    data = bytes(range(256)) * 256
    sent = 0
    for _ in range(1000):
        try:
            sent += agent.host.send(data[sent % 256 : sent % 256 + 60000])
        except TimeoutError:
            break
    assert sent < 1000 * 60000
    before = time.process_time()
    time.sleep(0.1)
    assert time.process_time() - before < 0.05, "the device's thread spins"
    got = b""
    while len(got) < sent:
        agent.rig._next_buffer = 0x200000
        agent.offer(IN, 4096, 8)
        eventually(lambda: agent.rig.rings[IN].waits() == 8, 0.2)
        got += b"".join(
            agent.rig.read(agent.rooms[head], n) for head, n in agent.rig.rings[IN].used()
        )
    assert len(got) == sent
    assert got == (data * (sent // len(data) + 1))[:sent]


def test_host_that_does_not_read_holds_the_guest_up(agent: Guest) -> None:
    rings = agent.rig.rings[OUT]
    data = os.urandom(0x8000)
    part = agent.rig.buffer(data)
    sent = 0
    while len(rings.free) and sent < 500:
        rings.chain([part])
        agent.rig.ring(OUT)
        sent += 1
        agent.rig.at_rest()
        rings.used()
    assert sent < 500, "the device takes without end"
    before = time.process_time()
    time.sleep(0.1)
    assert time.process_time() - before < 0.05, "the device's thread spins"
    got = bytearray()
    while len(got) < sent * len(data):
        got += agent.host.recv(1 << 20)
    assert got == data * sent
    agent.rig.at_rest()
    rings.used()
    assert len(rings.free) == rings.size


def test_host_that_goes_is_told_and_another_may_come(agent: Guest) -> None:
    agent.offer(CONTROL_IN, count=4)
    agent.offer(IN, count=4)
    agent.host.send(b"last")
    agent.host.close()
    assert agent.received(IN) == [b"last"]
    assert agent.heard(1) == [(1, c.PORT_OPEN, 0, b"")]
    agent.host, theirs = socket.socketpair()
    agent.host.settimeout(PATIENCE)
    agent.console.connect_port("agent", theirs.detach())
    assert agent.heard(1) == [(1, c.PORT_OPEN, 1, b"")]
    agent.host.send(b"next")
    assert agent.received(IN) == [b"next"]


def test_what_the_guest_sends_without_a_host_waits(agent: Guest) -> None:
    agent.host.close()
    head, _ = agent.rig.send(OUT, [b"waits"])
    agent.rig.at_rest()
    assert agent.rig.rings[OUT].waits() == 0
    agent.host, theirs = socket.socketpair()
    agent.host.settimeout(PATIENCE)
    agent.console.connect_port("agent", theirs.detach())
    assert agent.host.recv(100) == b"waits"
    assert agent.rig.came_back(OUT) == [(head, 0)]


def test_stream_that_comes_at_the_end_is_closed(agent: Guest) -> None:
    host, theirs = socket.socketpair()
    host.settimeout(PATIENCE)
    agent.rig.device.worker.pause()
    agent.console.connect_port("agent", theirs.detach())
    agent.rig.pci.close()
    assert host.recv(1) == b""
    host.close()


def test_unknown_port(guest: Guest) -> None:
    with pytest.raises(KeyError):
        guest.console.connect_port("nobody", 0)


def test_pipe_for_one_direction(make_rig: MakeRig) -> None:
    """A pipe's writing end hangs up when its reader goes."""
    read, write = os.pipe()
    rig = make_rig(lambda failed: c.Console([c.Port("x", write)], failed))
    rig.start(PLAIN)
    rig.send(1, [b"through a pipe"])
    rig.came_back(1)
    assert os.read(read, 100) == b"through a pipe"
    os.close(read)
    rig.send(1, [b"lost"])
    rig.at_rest()
    assert not rig.needs_reset


def test_output_of_a_console_is_lost_without_a_host(guest: Guest) -> None:
    """Linux spins until it is taken, with interrupts off."""
    guest.rig.start(FEATURES)
    head, _ = guest.rig.send(1, [b"nobody"])
    assert guest.rig.came_back(1) == [(head, 0)]
    assert guest.rig.device.counters.values["bytes_lost"] == 6


def test_writing_end_of_a_pipe_is_not_read(make_rig: MakeRig) -> None:
    read, write = os.pipe()
    rig = make_rig(lambda failed: c.Console([c.Port("x", write)], failed))
    rig.start(PLAIN)
    rig.send(0, [], [16])
    rig.at_rest()
    rig.send(1, [b"still open"])
    rig.came_back(1)
    assert os.read(read, 100) == b"still open"
    os.close(read)


# --- state


def test_state_in_mid_traffic(agent: Guest) -> None:
    """The host has taken a part of a buffer; the new machine's host gets the rest, once."""
    data = os.urandom(0x80000)
    head, _ = agent.rig.send(OUT, [data])
    agent.rig.at_rest()
    agent.rig.at_rest()
    agent.rig.device.pause()
    state = agent.rig.pci.save()
    assert isinstance(state.device, c.ConsoleState)
    sent = state.device.ports[1].sent
    assert 0 < sent < len(data)
    agent.host.settimeout(0.2)
    taken = bytearray()
    while len(taken) < sent:
        taken += agent.host.recv(1 << 20)

    host, theirs = socket.socketpair()
    host.settimeout(PATIENCE)
    opened: list[bool] = []
    other = c.Console(
        [c.Port("first", console=True), c.Port("agent", theirs.detach(), opened=opened.append)],
        lambda error: pytest.fail(str(error)),
    )
    fresh = VirtioPci(other, agent.rig.pci._around)
    fresh.restore(state)
    rest = bytearray()
    while len(rest) < len(data) - sent:
        rest += host.recv(1 << 20)
    assert taken + rest == data
    assert agent.rig.came_back(OUT) == [(head, 0)]
    assert opened == [True]
    fresh.close()
    host.close()
    agent.rig.device.resume()


def test_pause_and_resume_lose_nothing(agent: Guest) -> None:
    data = os.urandom(0x80000)
    agent.rig.send(OUT, [data])
    got = bytearray()
    for _ in range(20):
        agent.rig.device.pause()
        agent.rig.device.resume()
        got += agent.host.recv(0x4000)
    while len(got) < len(data):
        got += agent.host.recv(1 << 20)
    assert got == data


def test_restored_guest_hears_that_the_host_is_gone(agent: Guest) -> None:
    agent.offer(CONTROL_IN, count=4)
    agent.rig.device.pause()
    state = agent.rig.pci.save()
    other = c.Console([c.Port("first"), c.Port("agent")], lambda error: None)
    fresh = VirtioPci(other, agent.rig.pci._around)
    fresh.restore(state)
    assert agent.heard(1) == [(1, c.PORT_OPEN, 0, b"")]
    fresh.close()
    agent.rig.device.resume()
