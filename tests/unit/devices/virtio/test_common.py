"""The common configuration structure against virtio 1.2, 2.1 to 2.3, 3.1 and 4.1.4.3."""

from __future__ import annotations

import random

import pytest
from tests.unit.devices.virtio.conftest import MakeRig
from tests.unit.devices.virtio.driver import PLAIN, Rig, eventually
from tests.unit.devices.virtio.echo import Echo

from ringlet.devices.virtio import common as c
from ringlet.devices.virtio.device import F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1

OWN = 1 << 5 | 1 << 40
READY = c.ACKNOWLEDGE | c.DRIVER | c.FEATURES_OK


@pytest.fixture
def rig(make_rig: MakeRig) -> Rig:
    return make_rig(Echo)


def test_offered_features(rig: Rig) -> None:
    assert rig.offered() == OWN | F_VERSION_1 | F_INDIRECT_DESC | F_EVENT_IDX


@pytest.mark.parametrize("select", [2, 3, 0xFFFF_FFFF])
def test_features_beyond_64_are_none(rig: Rig, select: int) -> None:
    rig.set(c.FEATURE_SELECT, 4, select)
    rig.set(c.DRIVER_FEATURE_SELECT, 4, select)
    rig.set(c.DRIVER_FEATURE, 4, 0xFFFF_FFFF)
    assert rig.get(c.FEATURE, 4) == 0
    assert rig.get(c.DRIVER_FEATURE, 4) == 0
    assert rig.get(c.FEATURE_SELECT, 4) == select


def test_features_that_are_offered_are_accepted(rig: Rig) -> None:
    rig.negotiate(OWN | F_VERSION_1)
    assert rig.status == READY
    rig.driver_ok()
    assert rig.device.driver_features == OWN | F_VERSION_1


@pytest.mark.parametrize("features", [0, OWN, F_VERSION_1 | 1, F_VERSION_1 | 1 << 41])
def test_wrong_features_are_refused(rig: Rig, features: int) -> None:
    """Without VIRTIO_F_VERSION_1, or with what was not offered (2.2.1, 6.1)."""
    rig.negotiate(features)
    assert rig.status == c.ACKNOWLEDGE | c.DRIVER


def test_driver_ok_without_features_ok_starts_nothing(rig: Rig) -> None:
    rig.negotiate(0)
    rig.set_up(0)
    rig.driver_ok()
    rig.send(0, [b"x"], [1])
    rig.at_rest()
    assert not rig.device.running
    assert rig.rings[0].used() == []


def test_features_are_fixed_by_features_ok(rig: Rig) -> None:
    rig.negotiate(PLAIN)
    rig.set(c.DRIVER_FEATURE_SELECT, 4, 0)
    rig.set(c.DRIVER_FEATURE, 4, 1 << 5)
    assert rig.get(c.DRIVER_FEATURE, 4) == 0


def test_device_starts_once(rig: Rig) -> None:
    rig.start(PLAIN)
    head, _ = rig.send(0, [b"x"], [1])
    assert rig.came_back() == [(head, 1)]
    rig.driver_ok()
    rig.driver_ok()
    head, _ = rig.send(0, [b"x"], [1])
    assert rig.came_back() == [(head, 1)]


def test_only_a_reset_takes_status_bits_away(rig: Rig) -> None:
    rig.start(PLAIN)
    rig.set(c.STATUS, 1, c.ACKNOWLEDGE)
    assert rig.status == READY | c.DRIVER_OK
    rig.set(c.DRIVER_FEATURE_SELECT, 4, 0)
    rig.set(c.DRIVER_FEATURE, 4, 1 << 5)
    assert rig.get(c.DRIVER_FEATURE, 4) == 0


def test_reset_returns_everything(rig: Rig) -> None:
    rig.start(PLAIN)
    rig.set(c.CONFIG_VECTOR, 2, 1)
    rig.set(c.STATUS, 1, 0)

    assert rig.status == 0
    assert rig.get(c.CONFIG_VECTOR, 2) == c.NO_VECTOR
    for queue in range(2):
        rig.set(c.QUEUE_SELECT, 2, queue)
        assert rig.get(c.QUEUE_ENABLE, 2) == 0
        assert rig.get(c.QUEUE_SIZE, 2) == 64
        assert rig.get(c.QUEUE_VECTOR, 2) == c.NO_VECTOR
        assert rig.get(c.QUEUE_DESC, 4) == 0


def test_queue_registers_read_back(rig: Rig) -> None:
    rig.negotiate(PLAIN)
    rings = rig.set_up(1, 32)
    rig.set(c.QUEUE_SELECT, 2, 1)
    assert rig.get(c.QUEUES, 2) == 2
    assert rig.get(c.QUEUE_SIZE, 2) == 32
    assert rig.get(c.QUEUE_ENABLE, 2) == 1
    assert rig.get(c.QUEUE_NOTIFY, 2) == 1
    assert rig.get(c.QUEUE_VECTOR, 2) == 2
    assert rig.get(c.QUEUE_DESC, 4) == rings.table
    assert rig.get(c.QUEUE_DESC, 8) == rings.table
    assert rig.get(c.QUEUE_DRIVER, 4) == rings.avail
    assert rig.get(c.QUEUE_DEVICE, 4) == rings.used_ring
    assert rig.get(c.QUEUE_DEVICE + 4, 4) == 0


def test_addresses_have_64_bits(rig: Rig) -> None:
    rig.set(c.QUEUE_DESC, 4, 0x1234_5670)
    rig.set(c.QUEUE_DESC + 4, 4, 0x9ABC_DEF0)
    assert rig.get(c.QUEUE_DESC, 8) == 0x9ABC_DEF0_1234_5670
    rig.set(c.QUEUE_DESC, 8, 0x1111_2222_3333_4440)
    assert rig.get(c.QUEUE_DESC + 4, 4) == 0x1111_2222
    rig.set(c.QUEUE_DESC + 2, 2, 0xAAAA)
    assert rig.get(c.QUEUE_DESC, 8) == 0x1111_2222_AAAA_4440


def test_enabled_queue_does_not_change(rig: Rig) -> None:
    rig.negotiate(PLAIN)
    rings = rig.set_up(0)
    for register, size in ((c.QUEUE_SIZE, 2), (c.QUEUE_DESC, 4), (c.QUEUE_ENABLE, 2)):
        rig.set(register, size, 0)
    assert rig.get(c.QUEUE_SIZE, 2) == 16
    assert rig.get(c.QUEUE_DESC, 4) == rings.table
    assert rig.get(c.QUEUE_ENABLE, 2) == 1


@pytest.mark.parametrize("queue", [2, 100, 0xFFFF])
def test_queue_that_is_not_there(rig: Rig, queue: int) -> None:
    """It has the size 0, by which a driver knows (4.1.5.1.3)."""
    rig.set(c.QUEUE_SELECT, 2, queue)
    for register, size in ((c.QUEUE_SIZE, 2), (c.QUEUE_ENABLE, 2), (c.QUEUE_DESC, 8)):
        rig.set(register, size, 1)
        assert rig.get(register, size) == 0
    rig.set(c.QUEUE_VECTOR, 2, 0)
    assert rig.get(c.QUEUE_VECTOR, 2) == c.NO_VECTOR


@pytest.mark.parametrize(("vector", "read"), [(0, 0), (2, 2), (3, 0xFFFF), (0xFFFF, 0xFFFF)])
def test_vector_that_is_not_there_reads_as_none(rig: Rig, vector: int, read: int) -> None:
    rig.set(c.CONFIG_VECTOR, 2, vector)
    rig.set(c.QUEUE_VECTOR, 2, vector)
    assert rig.get(c.CONFIG_VECTOR, 2) == read
    assert rig.get(c.QUEUE_VECTOR, 2) == read


def test_wrong_queue_breaks_the_device(rig: Rig) -> None:
    rig.negotiate(PLAIN)
    rig.set(c.QUEUE_DESC, 8, 1 << 60)
    rig.set(c.QUEUE_ENABLE, 2, 1)
    assert rig.needs_reset
    assert "ring at guest physical" in rig.complaints[0]
    rig.driver_ok()
    assert not rig.device.running


def test_needs_reset_cannot_be_written_away(rig: Rig) -> None:
    rig.start(PLAIN)
    rig.rings[0].offer(9999)
    rig.ring(0)
    assert eventually(lambda: rig.needs_reset)
    rig.set(c.STATUS, 1, READY | c.DRIVER_OK)
    assert rig.needs_reset
    assert not rig.device.running


def test_broken_device_tells_by_a_change_of_configuration(rig: Rig) -> None:
    rig.start(PLAIN)
    rig.set(c.CONFIG_VECTOR, 2, 0)
    generation = rig.get(c.GENERATION, 1)
    rig.rings[0].offer(9999)
    rig.ring(0)
    assert eventually(lambda: (0xFEE0_0000, 0) in rig.messages)
    assert rig.get(c.GENERATION, 1) != generation


def test_read_only_fields_stay(rig: Rig) -> None:
    before = [rig.get(c.QUEUES, 2), rig.get(c.GENERATION, 1), rig.get(c.QUEUE_NOTIFY, 2)]
    for register, size in ((c.QUEUES, 2), (c.GENERATION, 1), (c.QUEUE_NOTIFY, 2), (c.FEATURE, 4)):
        rig.set(register, size, 0x55)
    assert [rig.get(c.QUEUES, 2), rig.get(c.GENERATION, 1), rig.get(c.QUEUE_NOTIFY, 2)] == before


def test_access_of_a_wrong_size_is_none(rig: Rig) -> None:
    rig.set(c.QUEUE_SELECT, 4, 1)
    assert rig.get(c.QUEUE_SELECT, 2) == 0
    assert rig.get(c.FEATURE, 2) == 0
    assert rig.get(c.STATUS, 4) == 0
    assert rig.get(1000, 4) == 0


def test_any_access_leaves_a_device_that_can_be_reset(rig: Rig) -> None:
    rng = random.Random(5)
    for _ in range(3000):
        size = rng.choice((1, 2, 4, 8))
        offset = rng.randrange(64)
        if rng.random() < 0.6:
            rig.set(offset, size, rng.choice((0, 1, 8, 0x0F, rng.getrandbits(8 * size))))
        else:
            assert rig.get(offset, size) < 1 << 8 * size
    rig.start(PLAIN)
    head, _ = rig.send(0, [b"x"], [1])
    assert rig.came_back() == [(head, 1)]


def test_reset_amid_traffic(rig: Rig) -> None:
    for _ in range(50):
        rig._next_ring = 0x100000
        rig._next_buffer = 0x200000
        rig.start(PLAIN, size=32)
        for _ in range(10):
            rig.send(0, [b"traffic"], [7])
        rings = rig.rings[0]
        rig.set(c.STATUS, 1, 0)
        seen = rings.waits()
        assert seen <= 10
        rig.at_rest()
        assert rings.waits() == seen, "a device that was reset writes to no ring"
