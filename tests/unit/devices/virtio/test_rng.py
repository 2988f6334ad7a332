"""The entropy device (virtio 1.2, 5.4)."""

from __future__ import annotations

import pytest
from tests.unit.devices.virtio.conftest import MakeRig
from tests.unit.devices.virtio.driver import PLAIN, Rig

from ringlet.devices.virtio.rng import Rng


@pytest.fixture
def rig(make_rig: MakeRig) -> Rig:
    rig = make_rig(Rng)
    rig.start(PLAIN)
    return rig


def test_buffers_are_filled(rig: Rig) -> None:
    head, rooms = rig.send(0, [], [64, 1000])
    assert rig.came_back() == [(head, 1064)]
    assert len(set(rig.read(rooms[0]))) > 20
    assert len(set(rig.read(rooms[1]))) > 200


def test_two_requests_differ(rig: Rig) -> None:
    contents = set()
    for _ in range(4):
        _, (room,) = rig.send(0, [], [32])
        rig.came_back()
        contents.add(rig.read(room))
    assert len(contents) == 4


def test_one_request_is_bounded(rig: Rig) -> None:
    _, (room,) = rig.send(0, [], [200_000])
    ((_, written),) = rig.came_back()
    assert written == 65536
    assert rig.read((room[0] + 65536, 100)) == bytes(100)


def test_request_without_room(rig: Rig) -> None:
    head, _ = rig.send(0, [b"x"], [])
    assert rig.came_back() == [(head, 0)]
