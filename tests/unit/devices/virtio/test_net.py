"""The network device on a stream: frames both ways, buffers that are too few, the link's end."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
from tests.unit.devices.virtio.conftest import MakeRig
from tests.unit.devices.virtio.driver import EVENTS, PLAIN, eventually
from tests.unit.devices.virtio.test_device import CODE, make_code
from tests.unit.devices.virtio.wire import ALL, HEADER, MAC, RX, TX, VALID, Guest, Wire

from ringlet.devices.virtio import frames
from ringlet.devices.virtio import net as n
from ringlet.devices.virtio.pci import NOTIFY, VirtioPci

PLAIN_NET = ALL | PLAIN

@pytest.fixture
def wire() -> Iterator[Wire]:
    wire = Wire()
    yield wire
    wire.close()


@pytest.fixture(params=[ALL | EVENTS, PLAIN_NET], ids=["events", "plain"])
def guest(request: pytest.FixtureRequest, wire: Wire, make_rig: MakeRig) -> Guest:
    return Guest(make_rig, wire, request.param)


def frame(size: int, seed: int = 0) -> bytes:
    return bytes((i * 7 + seed) & 0xFF for i in range(size))


# --- configuration


def test_configuration(guest: Guest) -> None:
    config = guest.rig.config
    assert bytes(config(i, 1) for i in range(6)) == MAC
    assert config(6, 2) == 1  # VIRTIO_NET_S_LINK_UP
    assert config(10, 2) == 1500


def test_a_stream_takes_and_gives_complete_frames_alone(guest: Guest) -> None:
    offered = guest.rig.device.features
    assert offered & ALL == ALL
    assert not offered & (n.F_CSUM | n.F_HOST_TSO4 | n.F_HOST_TSO6 | n.F_GUEST_TSO4)


# --- to the guest


def test_a_frame_comes_with_a_header_that_says_its_sum_is_right(guest: Guest, wire: Wire) -> None:
    guest.offer(2048)
    wire.send(frame(60))

    (chain,) = guest.chains()
    assert chain == VALID + b"\1\0" + frame(60)
    assert eventually(lambda: guest.rig.messages == [(0xFEE0_0000, 1)])


def test_frames_that_come_together_go_to_buffers_of_their_own(guest: Guest, wire: Wire) -> None:
    guest.offer(2048, count=3)
    wire.send(frame(60, 1), frame(1514, 2), frame(61, 3))

    assert guest.frames(3) == [(VALID, frame(60, 1)), (VALID, frame(1514, 2)),
                               (VALID, frame(61, 3))]  # fmt: skip
    assert guest.counters["received"] == 3
    assert guest.counters["received_bytes"] == 60 + 1514 + 61


def test_a_frame_that_comes_in_pieces_is_given_whole(guest: Guest, wire: Wire) -> None:
    guest.offer(2048, count=2)
    stream = b"".join(struct.pack(">I", len(one)) + one for one in (frame(300), frame(70, 1)))
    for one, two in pairwise((0, 2, 3, 5, 200, 304, 306, len(stream))):
        wire.host.sendall(stream[one:two])
        guest.rig.at_rest()

    assert [data for _, data in guest.frames(2)] == [frame(300), frame(70, 1)]


def test_a_header_may_have_a_descriptor_of_its_own(guest: Guest, wire: Wire) -> None:
    guest.offer(HEADER, 20, 2000)
    wire.send(frame(100))

    assert guest.frames() == [(VALID, frame(100))]


def test_a_long_frame_is_spread_over_chains(guest: Guest, wire: Wire) -> None:
    guest.offer(112, count=4)
    wire.send(frame(300))

    chains = guest.chains(3)
    assert [len(chain) for chain in chains] == [112, 112, 300 - 100 - 112]
    assert chains[0][:HEADER] == VALID + b"\3\0"
    assert chains[0][HEADER:] + chains[1] + chains[2] == frame(300)


def test_a_long_frame_shows_no_part_before_the_rest_is_there(guest: Guest, wire: Wire) -> None:
    guest.offer(112, count=2)
    wire.send(frame(300))
    guest.rig.at_rest()
    assert guest.rig.rings[RX].waits() == 0

    guest.offer(112)
    assert guest.frames() == [(VALID, frame(300))]


def test_without_merging_a_frame_that_does_not_fit_is_lost_alone(
    wire: Wire, make_rig: MakeRig
) -> None:
    guest = Guest(make_rig, wire, EVENTS | n.F_MAC)
    guest.offer(112)
    wire.send(frame(300), frame(60, 1))

    (chain,) = guest.chains()
    assert chain[HEADER:] == frame(60, 1)
    assert guest.counters["received"] == 1


def test_a_frame_longer_than_all_buffers_is_lost_alone(guest: Guest, wire: Wire) -> None:
    guest.offer(64, count=16)
    wire.send(frame(16 * 64), frame(40, 1))

    assert guest.frames() == [(VALID, frame(40, 1))]


def test_the_longest_frame_that_buffers_hold_is_given(guest: Guest, wire: Wire) -> None:
    guest.offer(64, count=16)
    wire.send(frame(16 * 64 - HEADER))

    assert guest.frames() == [(VALID, frame(16 * 64 - HEADER))]


def test_a_frame_waits_for_buffers(guest: Guest, wire: Wire) -> None:
    wire.send(frame(60), frame(61))
    guest.rig.at_rest()

    guest.offer(2048)
    assert guest.frames() == [(VALID, frame(60))]
    guest.offer(2048)
    assert guest.frames() == [(VALID, frame(61))]


@pytest.mark.parametrize("size", [60, 1514])
def test_frames_come_in_order_with_few_buffers(guest: Guest, wire: Wire, size: int) -> None:
    """Buffers come one by one, and the card asks for a notification of each."""
    rings = guest.rig.rings[RX]
    wire.send(*(frame(size, i) for i in range(40)))
    seen = []
    for _ in range(40):
        while not rings.waits():
            assert guest.is_asked(RX)
            guest.offer(600)
            guest.rig.at_rest()
        assert rings.waits() == -(-(size + HEADER) // 600)
        seen += [data for _, data in guest.frames()]
    assert seen == [frame(size, i) for i in range(40)]


class Late(n.Net):
    """A card whose driver adds a buffer after the card looked for one and before it asks."""

    late: Callable[[], None] | None = None

    def _guarded(self, call: Callable[[], int]) -> int:
        result = super()._guarded(call)
        if result == frames.NO_ROOM and self.late is not None:
            late, self.late = self.late, None
            late()
        return result


@pytest.mark.parametrize("there", [0, 1])
@pytest.mark.parametrize("features", [ALL | EVENTS, PLAIN_NET], ids=["events", "plain"])
def test_a_buffer_that_comes_just_before_the_card_asks_is_not_missed(
    wire: Wire, make_rig: MakeRig, features: int, there: int
) -> None:
    """The driver does not notify: the card had not asked for that yet."""
    guest = Guest(make_rig, wire, features, make=Late)
    assert isinstance(guest.rig.device, Late)
    guest.offer(112, count=there)
    guest.rig.at_rest()
    guest.rig.device.late = lambda: guest.offer(112, count=2 - there, ring=False)
    wire.send(frame(150))

    assert guest.frames() == [(VALID, frame(150))]


def test_many_frames_that_the_link_has_given_at_once_all_arrive(
    wire: Wire, make_rig: MakeRig
) -> None:
    """After a turn others are served; the link is not readable any more then."""
    guest = Guest(make_rig, wire, size=256)
    guest.offer(128, count=200)
    wire.send(*(frame(60, i) for i in range(200)))

    assert [data for _, data in guest.frames(200)] == [frame(60, i) for i in range(200)]


@pytest.mark.parametrize("rooms", [(HEADER - 1,), (4, 100)])
def test_a_buffer_without_room_for_a_header_breaks_the_card(
    guest: Guest, wire: Wire, rooms: tuple[int, ...]
) -> None:
    guest.offer(*rooms)
    wire.send(frame(60))

    assert eventually(lambda: guest.rig.needs_reset)
    assert guest.rig.complaints == [
        "net0: a receive buffer without room for a header; the guest has to reset the device"
    ]
    assert wire.told == []


def test_a_buffer_that_is_not_writable_breaks_the_card(guest: Guest, wire: Wire) -> None:
    guest.rig.rings[RX].chain([guest.rig.buffer(2048)])
    guest.rig.ring(RX)
    wire.send(frame(60))

    assert eventually(lambda: guest.rig.needs_reset)
    assert "a receive buffer that cannot be written" in guest.rig.complaints[0]


# --- from the guest


def test_a_frame_is_sent_without_its_header(guest: Guest, wire: Wire) -> None:
    guest.transmit(frame(60))

    assert wire.take() == [frame(60)]
    assert guest.rig.came_back(TX) == [(0, 0)]
    assert (guest.counters["sent"], guest.counters["sent_bytes"]) == (1, 60)


def test_the_card_asks_for_a_notification_of_the_next_frame(guest: Guest, wire: Wire) -> None:
    for _ in range(3):
        guest.transmit(frame(60))
        wire.take()
        assert guest.is_asked(TX)


def test_a_frame_may_be_cut_anywhere(guest: Guest, wire: Wire) -> None:
    whole = bytes(HEADER) + frame(1514)
    cuts = (0, 1, 5, 20, 700, len(whole))
    guest.rig.rings[TX].chain([guest.rig.buffer(whole[a:z]) for a, z in pairwise(cuts)])
    guest.rig.ring(TX)

    assert wire.take() == [frame(1514)]


@pytest.mark.parametrize("size", [0, 5, HEADER])
def test_a_chain_without_a_frame_is_dropped(guest: Guest, wire: Wire, size: int) -> None:
    guest.rig.rings[TX].chain([guest.rig.buffer(bytes(size) or b"\0")])
    guest.transmit(frame(60))

    assert wire.take() == [frame(60)]
    guest.rig.at_rest()
    assert wire.silent()
    assert guest.counters["dropped"] == 1


def test_the_longest_frame_is_sent_and_a_longer_one_dropped(guest: Guest, wire: Wire) -> None:
    longest = frames.MAX_FRAME
    guest.transmit(frame(longest + 1), frame(longest, 1), frame(60))

    assert wire.take(2) == [frame(longest, 1), frame(60)]
    guest.rig.came_back(TX, 3)
    assert guest.counters["dropped"] == 1


def test_what_the_link_does_not_permit_is_dropped(guest: Guest, wire: Wire) -> None:
    wire.allowed = False
    guest.transmit(frame(60), frame(1514))
    guest.rig.came_back(TX, 2)
    guest.rig.at_rest()

    assert wire.silent()
    assert wire.shown == [frame(60), frame(64)]  # no more than it needs, and not the header
    assert guest.counters["dropped"] == 2


@pytest.mark.parametrize("features", [ALL | EVENTS, PLAIN_NET], ids=["events", "plain"])
def test_a_link_that_takes_nothing_holds_frames_up_and_loses_none(
    wire: Wire, make_rig: MakeRig, features: int
) -> None:
    guest = Guest(make_rig, wire, features, size=64)
    rings = guest.rig.rings[TX]
    sent: list[bytes] = []
    while rings.free:
        sent.append(frame(9000, len(sent)))
        rings.chain([guest.rig.buffer(bytes(HEADER) + sent[-1])])
        guest.rig.ring(TX)
        guest.rig.at_rest()
        rings.used()
    assert len(sent) > 64  # the socket and the card hold some

    assert wire.take(len(sent)) == sent
    guest.rig.came_back(TX, 64)
    guest.transmit(frame(60))
    assert wire.take() == [frame(60)]
    assert guest.counters["dropped"] == 0


def test_many_frames_are_sent_in_order(wire: Wire, make_rig: MakeRig) -> None:
    """More than a turn's."""
    guest = Guest(make_rig, wire, size=256)
    guest.transmit(*(frame(60, i) for i in range(250)))

    assert wire.take(250) == [frame(60, i) for i in range(250)]
    assert len(guest.rig.came_back(TX, 250)) == 250


# --- the link's end


def test_the_end_of_the_link_is_shown_to_the_driver_and_told_once(
    guest: Guest, wire: Wire
) -> None:
    guest.offer(2048)
    assert guest.link_is_up()
    wire.host.close()

    assert eventually(lambda: not guest.link_is_up())
    guest.transmit(frame(60))
    guest.rig.at_rest()
    assert wire.told == ["it was closed"]
    assert guest.rig.messages.count((0xFEE0_0000, 0)) == 1  # the configuration has changed
    assert not guest.rig.needs_reset


def test_sending_finds_the_end_of_the_link(wire: Wire, make_rig: MakeRig) -> None:
    """No buffers: the card does not read."""
    guest = Guest(make_rig, wire)
    wire.send(frame(60))
    guest.rig.at_rest()
    wire.host.close()
    guest.transmit(frame(60))

    assert eventually(lambda: not guest.link_is_up())
    assert len(wire.told) == 1
    assert len(guest.rig.came_back(TX)) == 1


@pytest.mark.parametrize("size", [0, frames.MAX_FRAME + 1, 0xFFFF_FFFF])
def test_what_is_no_frame_ends_the_link(guest: Guest, wire: Wire, size: int) -> None:
    guest.offer(2048, count=2)
    wire.host.sendall(struct.pack(">I", 60) + frame(60) + struct.pack(">I", size) + bytes(100))

    assert guest.frames() == [(VALID, frame(60))]
    assert eventually(lambda: not guest.link_is_up())
    assert wire.told == [f"a frame of {size} bytes"]


def test_a_link_lost_elsewhere_is_shown_once(guest: Guest, wire: Wire) -> None:
    assert isinstance(guest.rig.device, n.Net)
    guest.rig.device.link_lost()
    guest.rig.device.link_lost()

    assert not guest.link_is_up()
    assert guest.rig.messages == [(0xFEE0_0000, 0)]
    assert wire.told == []


# --- code, resets, state


@pytest.fixture
def on_code(wire: Wire, make_rig: MakeRig) -> Guest:
    """A guest whose next buffer is a page with code."""
    guest = Guest(make_rig, wire)
    make_code(guest.rig)
    head = guest.rig.rings[RX].chain([], [(CODE, 2048)])
    guest.rooms[head] = [(CODE, 2048)]
    guest.rig.ring(RX)
    return guest


def test_code_is_dropped_before_the_driver_sees_the_frame(on_code: Guest, wire: Wire) -> None:
    wire.send(frame(60))
    assert eventually(lambda: len(on_code.rig.posted) == 1)
    assert on_code.rig.rings[RX].waits() == 0

    assert on_code.frames() == [(VALID, frame(60))]
    assert on_code.rig.dropped == [(CODE, HEADER + 60)]
    assert not on_code.rig.memory.has_code(CODE, 1)


def test_a_pause_drops_code_and_gives_the_frame(on_code: Guest, wire: Wire) -> None:
    """Else a machine that is restored would have a buffer less for each time."""
    wire.send(frame(60))
    assert eventually(lambda: len(on_code.rig.posted) == 1)

    on_code.rig.device.pause()
    state = on_code.rig.pci.save()
    on_code.rig.device.resume()

    assert state.common.queues[RX].taken == state.common.queues[RX].given == 1
    assert on_code.rig.dropped[:1] == [(CODE, HEADER + 60)]
    assert on_code.frames() == [(VALID, frame(60))]


def test_a_reset_leaves_what_the_link_has_for_the_next_driver(
    wire: Wire, make_rig: MakeRig
) -> None:
    guest = Guest(make_rig, wire)
    wire.send(frame(60), frame(61))
    guest.rig.at_rest()

    guest.rig.start(ALL | EVENTS)
    guest.offer(2048, count=2)

    assert [data for _, data in guest.frames(2)] == [frame(60), frame(61)]


def test_a_card_that_stands_still_takes_nothing_from_the_link(guest: Guest, wire: Wire) -> None:
    guest.offer(2048)
    guest.rig.device.pause()
    wire.send(frame(60))
    assert guest.rig.rings[RX].waits() == 0
    guest.rig.device.resume()

    assert guest.frames() == [(VALID, frame(60))]


def test_state_in_mid_traffic(guest: Guest, wire: Wire) -> None:
    """A new card on a link of its own goes on with the buffers that the first has left."""
    guest.offer(112, count=5)
    wire.send(frame(150), frame(60, 1))
    assert [data for _, data in guest.frames(2)] == [frame(150), frame(60, 1)]
    guest.rig.device.pause()
    state = guest.rig.pci.save()
    other = Wire()
    card = n.Net(other, lambda error: pytest.fail(str(error)))
    restored = VirtioPci(card, guest.rig.pci._around)
    restored.restore(state)
    guest.rig.messages.clear()

    other.send(frame(150, 2))
    assert guest.frames() == [(VALID, frame(150, 2))]
    guest.rig.rings[TX].chain([guest.rig.buffer(bytes(HEADER) + frame(70))])
    restored.write(NOTIFY + 4 * TX, 2, TX)
    assert other.take() == [frame(70)]
    assert (0xFEE0_0000, 1) in guest.rig.messages
    restored.close()
    other.close()
    guest.rig.device.resume()
