"""The network device on a tap: the headers of both sides, and frames that the host refuses."""

from __future__ import annotations

import fcntl
import socket
import struct
from collections.abc import Iterator

import pytest
from tests.unit.devices.virtio.conftest import MakeRig
from tests.unit.devices.virtio.driver import EVENTS, eventually
from tests.unit.devices.virtio.wire import ALL, HEADER, RX, TX, Guest, Wire

from ringlet.devices.backends.network.link import Framing
from ringlet.devices.virtio import net as n

OFFLOADS = n.F_CSUM | n.F_HOST_TSO4 | n.F_HOST_TSO6 | n.F_GUEST_TSO4 | n.F_GUEST_TSO6
SEGMENTS = struct.pack("<BBHHHH", 1, 1, 54, 1448, 34, 16)
"""flags NEEDS_CSUM, TCPv4 segments of 1448 bytes, and where the sum is (virtio 1.2, 5.1.6)."""


@pytest.fixture
def wire() -> Iterator[Wire]:
    wire = Wire(Framing.TAP, mtu=9000)
    yield wire
    wire.close()


@pytest.fixture
def guest(wire: Wire, make_rig: MakeRig) -> Guest:
    return Guest(make_rig, wire, ALL | OFFLOADS | EVENTS)


def test_a_tap_offers_sums_and_segments(guest: Guest) -> None:
    assert guest.rig.device.features & (ALL | OFFLOADS) == ALL | OFFLOADS
    assert guest.rig.config(10, 2) == 9000


@pytest.mark.parametrize(
    ("features", "asked"),
    [
        (0, 0), (n.F_GUEST_CSUM, 1), (n.F_GUEST_CSUM | n.F_GUEST_TSO4, 3),
        (n.F_GUEST_CSUM | n.F_GUEST_TSO6, 5), (n.F_GUEST_TSO4 | n.F_GUEST_TSO6, 0),
    ],
)  # fmt: skip
def test_the_host_leaves_to_the_guest_what_its_driver_takes(
    wire: Wire, make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch, features: int, asked: int
) -> None:
    """Segments need sums (5.1.3.1)."""
    calls: list[tuple[int, int, int]] = []
    monkeypatch.setattr(fcntl, "ioctl", lambda *call: calls.append(call))
    Guest(make_rig, wire, EVENTS | n.F_MAC | features)

    assert calls == [(wire.fd, 0x400454D0, asked)]


def test_the_drivers_header_goes_to_the_host_as_it_is(guest: Guest, wire: Wire) -> None:
    header = SEGMENTS + b"\0\0"
    guest.transmit(b"a" * 4000, header=header)
    guest.transmit(b"b" * 60)

    assert wire.take(2) == [header + b"a" * 4000, bytes(HEADER) + b"b" * 60]


def test_the_hosts_header_goes_to_the_driver_with_the_number_of_buffers(
    guest: Guest, wire: Wire
) -> None:
    guest.offer(1000, count=4)
    wire.send(SEGMENTS + b"\xff\xff" + b"a" * 3000)

    chains = guest.chains(4)
    assert chains[0][:HEADER] == SEGMENTS + b"\4\0"
    assert b"".join(chains)[HEADER:] == b"a" * 3000


def test_each_read_is_a_frame(guest: Guest, wire: Wire) -> None:
    guest.offer(2048, count=3)
    wire.send(*(bytes(HEADER) + bytes([i]) * 60 for i in range(3)))

    assert [data for _, data in guest.frames(3)] == [bytes([i]) * 60 for i in range(3)]


def test_a_frame_waits_for_buffers(guest: Guest, wire: Wire) -> None:
    wire.send(bytes(HEADER) + b"a" * 60, bytes(HEADER) + b"b" * 60)
    guest.rig.at_rest()
    guest.offer(2048)
    assert [data for _, data in guest.frames()] == [b"a" * 60]
    guest.offer(2048)
    assert [data for _, data in guest.frames()] == [b"b" * 60]


def test_a_frame_without_a_header_ends_the_link(guest: Guest, wire: Wire) -> None:
    guest.offer(2048)
    wire.host.send(b"x" * (HEADER - 1))

    assert eventually(lambda: not guest.link_is_up())
    assert wire.told == ["a frame of 11 bytes"]
    assert guest.rig.rings[RX].waits() == 0


def test_a_chain_shorter_than_a_header_is_dropped(guest: Guest, wire: Wire) -> None:
    guest.rig.rings[TX].chain([guest.rig.buffer(HEADER - 1)])
    guest.transmit(b"a" * 60)

    assert wire.take() == [bytes(HEADER) + b"a" * 60]
    guest.rig.came_back(TX, 2)
    assert guest.counters["dropped"] == 1


def test_a_frame_that_the_host_refuses_is_dropped_alone(
    guest: Guest, wire: Wire
) -> None:
    """A tap says EINVAL for a header that cannot be; this socket refuses what is too long."""
    wire.card.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    guest.transmit(b"a" * 60000)
    guest.transmit(b"b" * 60)

    assert wire.take() == [bytes(HEADER) + b"b" * 60]
    assert len(guest.rig.came_back(TX, 2)) == 2
    assert guest.counters["dropped"] == 1
    assert guest.link_is_up()


def test_a_tap_that_takes_nothing_holds_frames_up_and_loses_none(
    guest: Guest, wire: Wire
) -> None:
    rings = guest.rig.rings[TX]
    sent: list[bytes] = []
    while rings.free:
        sent.append(bytes(HEADER) + bytes([len(sent)]) * 9000)
        rings.chain([guest.rig.buffer(sent[-1])])
        guest.rig.ring(TX)
        guest.rig.at_rest()
        rings.used()
    assert len(sent) > 16

    assert wire.take(len(sent)) == sent
    assert len(guest.rig.came_back(TX, 16)) == 16


def test_the_end_of_a_tap_is_shown_and_told(guest: Guest, wire: Wire) -> None:
    guest.offer(2048)
    wire.host.close()

    assert eventually(lambda: not guest.link_is_up())
    assert wire.told == ["it was closed"]
