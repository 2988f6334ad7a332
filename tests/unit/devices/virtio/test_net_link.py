"""The network device with a link whose other end is the test's."""

import time
from collections.abc import Iterator

import pytest
from tests.unit.devices.virtio.driver import PATIENCE, Rig, eventually
from tests.unit.devices.virtio.fake_link import REFUSED, FakeLink

from ringlet.devices.backends.network.link import Framing
from ringlet.devices.virtio.net import RX, TX, Net

HEADER = 12
FRAME = bytes(range(64))
QUIET = 0.1


@pytest.fixture(params=[Framing.STREAM, Framing.TAP], ids=["stream", "tap"])
def link(request: pytest.FixtureRequest) -> Iterator[FakeLink]:
    made = FakeLink(request.param)
    yield made
    made.close()


@pytest.fixture
def rig(link: FakeLink) -> Iterator[Rig]:
    failures: list[Exception] = []
    made = Rig(Net(link, failures.append))
    yield made
    made.pci.close()
    assert failures == []


def whole(link: FakeLink, frame: bytes) -> bytes:
    """A frame as it is on a link."""
    if link.framing is Framing.STREAM:
        return len(frame).to_bytes(4, "big") + frame
    return bytes(HEADER) + frame


def test_frame_of_the_link_fills_a_buffer(rig: Rig, link: FakeLink) -> None:
    rig.start()
    _, room = rig.send(RX, writable=[2048])

    link.peer.send(whole(link, FRAME))

    assert rig.came_back(RX)[0][1] == HEADER + len(FRAME)
    assert rig.read(room[0], HEADER + len(FRAME))[HEADER:] == FRAME


def test_frame_of_the_driver_reaches_the_link(rig: Rig, link: FakeLink) -> None:
    rig.start()

    rig.send(TX, [bytes(HEADER) + FRAME])

    rig.came_back(TX)
    link.peer.settimeout(PATIENCE)
    assert link.peer.recv(1 << 16) == whole(link, FRAME)


def test_frame_that_is_not_permitted_is_dropped(rig: Rig, link: FakeLink) -> None:
    rig.start()

    rig.send(TX, [bytes([REFUSED]) * HEADER + bytes([REFUSED]) + FRAME])

    rig.came_back(TX)
    rig.at_rest()
    assert rig.device.counters.values["dropped"] == 1


def test_frames_that_had_to_wait_for_the_link_stay_apart(rig: Rig, link: FakeLink) -> None:
    rig.start()
    frames = [bytes([n]) * 60_000 for n in range(12)]

    for frame in frames:
        rig.send(TX, [bytes(HEADER) + frame])
    rig.at_rest()

    link.peer.settimeout(PATIENCE)
    if link.framing is Framing.TAP:
        assert [link.peer.recv(1 << 18) for _ in frames] == [whole(link, f) for f in frames]
    else:
        stream = b"".join(whole(link, frame) for frame in frames)
        with link.peer.makefile("rb") as sent:
            assert sent.read(len(stream)) == stream


def test_device_that_waits_for_its_reset_leaves_the_link_alone(rig: Rig, link: FakeLink) -> None:
    rig.start()
    rig.send(RX, writable=[2048])
    rig.at_rest()
    rig.rings[TX].offer(999)
    rig.ring(TX)
    assert eventually(lambda: rig.needs_reset)
    turns: list[None] = []
    plain = rig.device.worker._turn

    def turn() -> None:
        turns.append(None)
        plain()

    rig.device.worker._turn = turn  # type: ignore[method-assign]
    link.peer.send(whole(link, FRAME))
    time.sleep(QUIET)

    assert len(turns) < 5


def test_frame_that_came_during_a_reset_is_there_afterwards(rig: Rig, link: FakeLink) -> None:
    rig.start()
    rig.send(RX, writable=[2048])
    rig.at_rest()
    rig.rings[TX].offer(999)
    rig.ring(TX)
    assert eventually(lambda: rig.needs_reset)
    link.peer.send(whole(link, FRAME))

    rig.start()
    _, room = rig.send(RX, writable=[2048])

    assert rig.came_back(RX)[0][1] == HEADER + len(FRAME)
    assert rig.read(room[0], HEADER + len(FRAME))[HEADER:] == FRAME
