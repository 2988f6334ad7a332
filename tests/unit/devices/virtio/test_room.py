"""Writes of a block device that wait for room on the host."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator

import pytest
from tests.unit.devices.virtio.conftest import MakeRig
from tests.unit.devices.virtio.driver import PATIENCE, eventually
from tests.unit.devices.virtio.fake_disk import FakeDisk
from tests.unit.devices.virtio.test_block import Guest

from ringlet.devices.backends.disks.interface import Operation, Request
from ringlet.devices.virtio import block as b
from ringlet.devices.virtio import room

Make = Callable[[float], Guest]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "AGAIN_SECONDS", 0.01)


@pytest.fixture
def disk() -> Iterator[FakeDisk]:
    disk = FakeDisk(error=errno.ENOSPC)
    yield disk
    disk.close()


@pytest.fixture
def make(disk: FakeDisk, make_rig: MakeRig) -> Make:
    def of(seconds: float) -> Guest:
        rig = make_rig(lambda failed: b.Block(disk, failed, room_seconds=seconds))
        rig.start()
        return Guest(rig, disk)

    return of


@pytest.mark.parametrize("kind", [b.T_OUT, b.T_WRITE_ZEROES])
def test_a_write_is_done_when_there_is_room(make: Make, disk: FakeDisk, kind: int) -> None:
    guest = make(PATIENCE)
    data = b"\1" * 512 if kind == b.T_OUT else (0).to_bytes(8, "little") + b"\1\0\0\0" + bytes(4)
    disk.content[:512] = b"\2" * 512
    _, _, status = guest.begin(kind, 0, data)
    assert eventually(lambda: len(disk.seen) >= 3)  # it was tried again
    assert guest.rig.rings[0].waits() == 0

    disk.error = 0

    guest.rig.came_back()
    assert guest.rig.read((status, 1)) == bytes([b.S_OK])
    assert disk.content[:512] == (b"\1" if kind == b.T_OUT else b"\0") * 512


def test_reads_go_on_while_a_write_waits(make: Make, disk: FakeDisk) -> None:
    guest = make(PATIENCE)
    guest.begin(b.T_OUT, 0, b"\1" * 512)
    assert eventually(lambda: len(disk.seen) >= 2)
    head, _, _ = guest.begin(b.T_IN, 1, room=512)

    assert guest.rig.came_back()[0][0] == head


def test_other_requests_do_not_wait(make: Make) -> None:
    guest = make(PATIENCE)

    assert guest.ask(b.T_IN, 0, room=512)[0] == b.S_IOERR
    assert guest.ask(b.T_FLUSH, 0)[0] == b.S_IOERR


def test_the_time_is_over_for_all_writes_at_once(make: Make, disk: FakeDisk) -> None:
    guest = make(0.2)
    begun = time.monotonic()
    statuses = [guest.begin(b.T_OUT, i, bytes(512))[2] for i in range(3)]
    guest.rig.came_back(0, 3)
    assert [guest.rig.read((at, 1))[0] for at in statuses] == [b.S_IOERR] * 3
    assert time.monotonic() - begun >= 0.2
    tried = len(disk.seen)

    assert guest.ask(b.T_OUT, 0, bytes(512))[0] == b.S_IOERR
    assert len(disk.seen) == tried + 1


def test_after_a_write_that_found_room_others_wait_again(make: Make, disk: FakeDisk) -> None:
    guest = make(0.1)
    assert guest.ask(b.T_OUT, 0, bytes(512))[0] == b.S_IOERR
    disk.error = 0
    assert guest.ask(b.T_OUT, 0, bytes(512))[0] == b.S_OK
    disk.error = errno.ENOSPC
    tried = len(disk.seen)

    assert guest.ask(b.T_OUT, 0, bytes(512))[0] == b.S_IOERR
    assert len(disk.seen) > tried + 1


def test_a_reset_does_not_wait_for_room(make: Make, disk: FakeDisk) -> None:
    guest = make(PATIENCE)
    guest.begin(b.T_OUT, 0, bytes(512))
    assert eventually(lambda: len(disk.seen) >= 2)

    begun = time.monotonic()
    guest.rig.set(20, 1, 0)

    assert time.monotonic() - begun < PATIENCE / 2
    tried = len(disk.seen)
    time.sleep(0.05)
    assert len(disk.seen) == tried, "nothing is tried for a driver that is gone"


def test_a_pause_ends_what_waits_and_later_writes_wait_again(make: Make, disk: FakeDisk) -> None:
    guest = make(PATIENCE)
    _, _, status = guest.begin(b.T_OUT, 0, bytes(512))
    assert eventually(lambda: len(disk.seen) >= 2)

    guest.rig.device.pause()
    guest.rig.device.resume()

    guest.rig.came_back()
    assert guest.rig.read((status, 1)) == bytes([b.S_IOERR])
    guest.begin(b.T_OUT, 0, bytes(512))
    tried = len(disk.seen)
    assert eventually(lambda: len(disk.seen) >= tried + 3)
    assert guest.rig.rings[0].waits() == 0


def test_ranges_wait_as_one_request(make: Make, disk: FakeDisk) -> None:
    guest = make(PATIENCE)
    ranges = b"".join(i.to_bytes(8, "little") + b"\1\0\0\0" + bytes(4) for i in (0, 4))
    _, _, status = guest.begin(b.T_WRITE_ZEROES, 0, ranges)
    assert eventually(lambda: len(disk.seen) >= 4)
    disk.error = 0

    guest.rig.came_back()
    assert guest.rig.read((status, 1)) == bytes([b.S_OK])
    assert {one.offset for one in disk.seen if one.operation is Operation.WRITE_ZEROES} == {0, 2048}


def test_others_that_find_room_do_not_let_a_write_wait_longer() -> None:
    waiting = room.Room(lambda request: None, 0.2, lambda error: None)
    stuck, other = (Request(Operation.WRITE, 0, 0, [], lambda code: None) for _ in range(2))
    began = time.monotonic()

    while waiting.waits(stuck):
        waiting.ended(other, 0)
        time.sleep(0.01)
        assert time.monotonic() - began < PATIENCE

    assert time.monotonic() - began >= 0.2


def test_request_that_cannot_be_tried_ends_with_an_error() -> None:
    failures: list[Exception] = []
    codes: list[int] = []

    def submit(request: Request) -> None:
        raise ValueError("broken")

    waiting = room.Room(submit, 10, failures.append)
    for _ in range(2):
        assert waiting.waits(Request(Operation.WRITE, 0, 0, [], codes.append))

    assert eventually(lambda: codes == [errno.EIO] * 2)
    assert [str(failure) for failure in failures] == ["broken"] * 2
