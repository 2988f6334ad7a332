"""The block device against virtio 1.2, 5.2, over a disk in memory."""

from __future__ import annotations

import errno
import gc
import struct
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
from tests.unit.devices.virtio.conftest import MakeRig
from tests.unit.devices.virtio.driver import PLAIN, Rig, eventually
from tests.unit.devices.virtio.fake_disk import FakeDisk

from ringlet.devices.backends.disks.interface import Operation, Request
from ringlet.devices.virtio import block as b
from ringlet.devices.virtio.pci import VirtioPci

UNTOUCHED = 0xEE
Make = Callable[[FakeDisk], "Guest"]


class Guest:
    """A driver of a block device."""

    def __init__(self, rig: Rig, disk: FakeDisk) -> None:
        self.rig = rig
        self.disk = disk

    def begin(
        self, kind: int, sector: int, data: bytes = b"", room: int = 0
    ) -> tuple[int, tuple[int, int] | None, int]:
        """Send a request; return its head, its room for data and the address of its status."""
        rig = self.rig
        header = rig.buffer(struct.pack("<IIQ", kind, 0, sector))
        readable = [header] + ([rig.buffer(data)] if data else [])
        inside = rig.buffer(room) if room else None
        status = rig.buffer(bytes([UNTOUCHED]))
        writable = ([inside] if inside else []) + [status]
        head = rig.rings[0].chain(readable, writable)
        rig.ring()
        return head, inside, status[0]

    def ask(self, kind: int, sector: int, data: bytes = b"", room: int = 0) -> tuple[int, bytes]:
        """Send a request; return its status and the data read."""
        head, inside, status = self.begin(kind, sector, data, room)
        ((back, written),) = self.rig.came_back()
        assert back == head
        if kind in {b.T_IN, b.T_GET_ID}:
            assert written == room + 1
        else:
            assert written == 1
        return self.rig.read((status, 1))[0], self.rig.read(inside) if inside else b""


@pytest.fixture
def make(make_rig: MakeRig, disks: list[FakeDisk]) -> Make:
    def of(disk: FakeDisk) -> Guest:
        disks.append(disk)
        rig = make_rig(lambda failed: b.Block(disk, failed))
        rig.start()
        return Guest(rig, disk)

    return of


@pytest.fixture
def disks() -> Iterator[list[FakeDisk]]:
    """Collect disks, which are closed at the end of the test, after their devices."""
    found: list[FakeDisk] = []
    yield found
    for disk in found:
        disk.close()


@pytest.fixture
def guest(make: Make) -> Guest:
    return make(FakeDisk())


# --- configuration


def test_capacity_and_limits(guest: Guest) -> None:
    config = guest.rig.config
    assert config(0, 8) == 2048
    assert config(12, 4) == 254
    assert config(20, 4) == 512
    assert config(32, 1) == 1
    assert config(36, 4) == 1 << 22
    assert config(40, 4) == 32


def test_features_of_a_read_only_disk(make: Make) -> None:
    features = make(FakeDisk(read_only=True)).rig.device.features
    assert features & b.F_RO
    assert not features & (b.F_DISCARD | b.F_WRITE_ZEROES)


def test_disk_that_cannot_discard(make: Make) -> None:
    features = make(FakeDisk(discards=False)).rig.device.features
    assert not features & b.F_DISCARD
    assert features & b.F_WRITE_ZEROES


# --- requests that are alone


class SlowDisk(FakeDisk):
    """A disk that performs what is alone at once, while `meanwhile` is called."""

    meanwhile: Callable[[], object] = staticmethod(lambda: None)

    def submit(self, request: Request) -> None:
        if not request.alone:
            super().submit(request)
            return
        self.seen.append(request)
        self.meanwhile()
        request.done(self._perform(request))


def test_one_request_at_a_time_is_alone(make: Make) -> None:
    guest = make(FakeDisk())

    for kind, data, room in ((b.T_OUT, bytes(512), 0), (b.T_IN, b"", 512), (b.T_FLUSH, b"", 0)):
        guest.ask(kind, 0, data, room)

    assert [request.alone for request in guest.disk.seen] == [True] * 3


def test_requests_that_come_together_are_not_alone(make: Make) -> None:
    disk = FakeDisk(held=True)
    guest = make(disk)
    guest.begin(b.T_IN, 0, room=512)
    guest.rig.at_rest()
    guest.begin(b.T_IN, 0, room=512)
    guest.rig.at_rest()
    disk.release()
    guest.rig.came_back(count=2)

    assert [request.alone for request in disk.seen] == [True, False]


def test_a_request_that_had_to_wait_keeps_the_next_ones_from_being_alone(make: Make) -> None:
    disk = SlowDisk()
    guest = make(disk)

    def another_comes() -> None:
        disk.meanwhile = lambda: None
        guest.begin(b.T_IN, 0, room=512)

    disk.meanwhile = another_comes
    guest.begin(b.T_IN, 0, room=512)
    guest.rig.came_back(count=2)
    for _ in range(b.COMPANY):
        guest.ask(b.T_FLUSH, 0)

    assert [request.alone for request in disk.seen] == [True] + [False] * b.COMPANY + [True]


# --- requests


def test_write_then_read(guest: Guest) -> None:
    data = bytes(range(256)) * 4
    assert guest.ask(b.T_OUT, 5, data) == (b.S_OK, b"")
    assert guest.disk.content[5 * 512 : 5 * 512 + 1024] == data
    assert guest.ask(b.T_IN, 5, room=1024) == (b.S_OK, data)


def test_data_in_many_pieces(guest: Guest) -> None:
    """The framing is free (2.7.4): header and data may be cut anywhere."""
    rig = guest.rig
    data = bytes(i % 251 for i in range(1024))
    whole = struct.pack("<IIQ", b.T_OUT, 0, 1) + data
    cuts = (0, 3, 16, 20, 700, len(whole))
    parts = [rig.buffer(whole[one:two]) for one, two in pairwise(cuts)]
    status = rig.buffer(1)
    rig.rings[0].chain(parts, [status])
    rig.ring()
    rig.came_back()
    assert guest.disk.content[512:1536] == data

    rooms = [rig.buffer(n) for n in (1, 500, 523)]
    rig.rings[0].chain([rig.buffer(struct.pack("<IIQ", b.T_IN, 0, 1))], [*rooms, status])
    rig.ring()
    assert rig.came_back()[0][1] == 1025
    assert b"".join(rig.read(room) for room in rooms) == data


def test_status_may_share_a_buffer_with_data(guest: Guest) -> None:
    rig = guest.rig
    guest.disk.content[:512] = b"\x11" * 512
    room = rig.buffer(513)
    rig.rings[0].chain([rig.buffer(struct.pack("<IIQ", b.T_IN, 0, 0))], [room])
    rig.ring()
    rig.came_back()
    assert rig.read(room) == b"\x11" * 512 + b"\0"


def test_flush(guest: Guest) -> None:
    assert guest.ask(b.T_FLUSH, 0) == (b.S_OK, b"")
    assert guest.disk.seen[0].operation is Operation.FLUSH


def test_identity(guest: Guest) -> None:
    assert guest.ask(b.T_GET_ID, 0, room=20) == (b.S_OK, b"fake-disk".ljust(20, b"\0"))


def ranges(*items: tuple[int, int, int]) -> bytes:
    return b"".join(struct.pack("<QII", *item) for item in items)


@pytest.mark.parametrize("kind", [b.T_DISCARD, b.T_WRITE_ZEROES])
def test_several_ranges(guest: Guest, kind: int) -> None:
    guest.disk.content[:4096] = b"\xff" * 4096
    assert guest.ask(kind, 0, ranges((0, 2, 0), (4, 1, 0), (7, 1, 0)))[0] == b.S_OK
    kept = [i for i in range(8) if guest.disk.content[512 * i]]
    assert kept == [2, 3, 5, 6]


def test_ranges_are_one_request_of_the_disk_at_a_time(make: Make) -> None:
    """Else 256 requests of 32 ranges would be more than a disk takes."""
    guest = make(FakeDisk(held=True))
    guest.begin(b.T_DISCARD, 0, ranges(*[(0, 1, 0)] * b.RANGES))
    guest.rig.at_rest()
    begun = len(guest.disk.seen)

    guest.disk.release()

    guest.rig.came_back()
    assert (begun, len(guest.disk.seen)) == (1, b.RANGES)


def test_unmap_flag(guest: Guest) -> None:
    assert guest.ask(b.T_WRITE_ZEROES, 0, ranges((0, 1, 1)))[0] == b.S_OK
    assert guest.disk.seen[0].unmap
    assert guest.ask(b.T_DISCARD, 0, ranges((0, 1, 1)))[0] == b.S_UNSUPP
    assert guest.ask(b.T_WRITE_ZEROES, 0, ranges((0, 1, 2)))[0] == b.S_UNSUPP


def test_one_answer_for_several_ranges_with_an_error(guest: Guest) -> None:
    guest.disk.error = errno.EIO
    assert guest.ask(b.T_DISCARD, 0, ranges((0, 1, 0), (1, 1, 0), (2, 1, 0)))[0] == b.S_IOERR
    assert guest.rig.rings[0].used() == []


@pytest.mark.parametrize(
    "data",
    [
        ranges((0, (1 << 22) + 1, 0)), ranges((2048, 1, 0)), ranges((0, 2049, 0)),
        ranges((0, 1, 0), ((1 << 64) - 1, 1, 0)), b"x" * 15, ranges(*[(0, 1, 0)] * 33),
    ],
)  # fmt: skip
def test_wrong_ranges(guest: Guest, data: bytes) -> None:
    assert guest.ask(b.T_WRITE_ZEROES, 0, data)[0] == b.S_IOERR
    assert guest.disk.seen == []


def test_no_ranges(guest: Guest) -> None:
    assert guest.ask(b.T_DISCARD, 0)[0] == b.S_IOERR


# --- errors


@pytest.mark.parametrize("kind", [2, 3, 5, 99, 0xFFFF_FFFF])
def test_unknown_request(guest: Guest, kind: int) -> None:
    assert guest.ask(kind, 0)[0] == b.S_UNSUPP


@pytest.mark.parametrize("sector", [2048, 2047, 1 << 40, (1 << 64) - 1, (1 << 55)])
def test_beyond_the_end(guest: Guest, sector: int) -> None:
    assert guest.ask(b.T_IN, sector, room=1024)[0] == b.S_IOERR
    assert guest.ask(b.T_OUT, sector, bytes(1024))[0] == b.S_IOERR
    assert guest.disk.seen == []


def test_part_of_a_sector(guest: Guest) -> None:
    assert guest.ask(b.T_IN, 0, room=100)[0] == b.S_IOERR
    assert guest.ask(b.T_OUT, 0, bytes(513))[0] == b.S_IOERR


def test_part_of_a_large_sector(make: Make) -> None:
    guest = make(FakeDisk(sector=4096))
    assert guest.ask(b.T_IN, 1, room=4096)[0] == b.S_IOERR
    assert guest.ask(b.T_IN, 8, room=512)[0] == b.S_IOERR
    assert guest.ask(b.T_IN, 8, room=4096)[0] == b.S_OK


@pytest.mark.parametrize(
    ("code", "status"),
    [(errno.EIO, b.S_IOERR), (errno.EOPNOTSUPP, b.S_UNSUPP)],
)
def test_errors_of_the_disk(guest: Guest, code: int, status: int) -> None:
    guest.disk.error = code
    assert guest.ask(b.T_OUT, 0, bytes(512))[0] == status
    assert guest.ask(b.T_IN, 0, room=512)[0] == status
    assert guest.ask(b.T_FLUSH, 0)[0] == status
    assert guest.rig.device.counters.values["errors"] == 3


def test_write_to_a_read_only_disk(make: Make) -> None:
    assert make(FakeDisk(read_only=True)).ask(b.T_OUT, 0, bytes(512))[0] == b.S_IOERR


def test_discard_without_the_feature(make: Make) -> None:
    guest = make(FakeDisk(discards=False))
    assert guest.ask(b.T_DISCARD, 0, ranges((0, 1, 0)))[0] == b.S_UNSUPP


@pytest.mark.parametrize("size", [1, 15])
def test_short_header_breaks_the_device(guest: Guest, size: int) -> None:
    guest.rig.send(0, [bytes(size)], [1])
    assert eventually(lambda: guest.rig.needs_reset)
    assert f"a request of {size} bytes" in guest.rig.complaints[0]


def test_request_without_status_breaks_the_device(guest: Guest) -> None:
    guest.rig.send(0, [bytes(16)], [])
    assert eventually(lambda: guest.rig.needs_reset)
    assert "without room for its status" in guest.rig.complaints[0]


def test_read_with_room_for_the_status_alone(guest: Guest) -> None:
    assert guest.ask(b.T_IN, 0)[0] == b.S_OK


# --- caching


def test_writes_are_durable_only_when_flushed(guest: Guest) -> None:
    guest.ask(b.T_OUT, 0, bytes(512))
    assert not guest.disk.seen[0].fua


def test_write_through_by_the_configuration(guest: Guest) -> None:
    guest.rig.set(32, 1, 0, 0x2000)
    assert guest.rig.config(32, 1) == 0
    guest.ask(b.T_OUT, 0, bytes(512))
    assert guest.disk.seen[0].fua


def test_write_through_without_flushes(make_rig: MakeRig, disks: list[FakeDisk]) -> None:
    """A driver without VIRTIO_BLK_F_FLUSH cannot make anything durable (5.2.6.2)."""
    disk = FakeDisk()
    disks.append(disk)
    rig = make_rig(lambda failed: b.Block(disk, failed))
    rig.start(PLAIN)
    Guest(rig, disk).ask(b.T_OUT, 0, bytes(512))
    assert disk.seen[0].fua


# --- rest


def test_reset_waits_for_requests_under_way(guest: Guest) -> None:
    guest.disk.held = True
    guest.begin(b.T_IN, 0, room=512)
    assert eventually(lambda: len(guest.disk.seen) == 1)
    guest.disk.content[:512] = b"\x22" * 512
    rings = guest.rig.rings[0]
    release = threading.Timer(0.05, guest.disk.release)
    release.start()
    guest.rig.set(20, 1, 0)
    release.join()
    before = guest.rig.memory.read(0x200000, 0x2000)
    assert eventually(lambda: not guest.disk.waiting)
    assert guest.rig.memory.read(0x200000, 0x2000) == before, "nothing is written after a reset"
    assert rings.waits() <= 1


def test_requests_end_in_any_order_and_all_come_back(guest: Guest) -> None:
    heads = {guest.begin(b.T_IN, i, room=512)[0] for i in range(5)}
    assert {head for head, _ in guest.rig.came_back(0, 5)} == heads


def test_state_in_mid_traffic(guest: Guest, disks: list[FakeDisk]) -> None:
    """What the disk has under way ends before; what was not taken is done in the new machine."""
    rig = guest.rig
    for i in range(4):
        guest.begin(b.T_OUT, i, bytes([i + 1]) * 512)
    rig.device.pause()
    done = rig.rings[0].waits()
    state = rig.pci.save()
    seen = len(guest.disk.seen)
    assert seen == done, "what was begun has ended"
    disk = FakeDisk()
    disks.append(disk)
    disk.content[:] = guest.disk.content
    other = VirtioPci(b.Block(disk, lambda error: pytest.fail(str(error))), rig.pci._around)
    other.restore(state)
    assert len(rig.came_back(0, 4)) == 4
    assert [disk.content[512 * i] for i in range(4)] == [1, 2, 3, 4]
    assert len(disk.seen) == 4 - seen
    other.close()
    rig.device.resume()


def test_write_through_is_part_of_the_state(guest: Guest, disks: list[FakeDisk]) -> None:
    guest.rig.set(32, 1, 0, 0x2000)
    guest.rig.device.pause()
    state = guest.rig.pci.save()
    guest.rig.device.resume()
    disks.append(FakeDisk())
    other = b.Block(disks[-1], lambda error: None)
    fresh = VirtioPci(other, guest.rig.pci._around)
    fresh.restore(state)
    assert other.read_config()[32] == 0
    fresh.close()


def test_request_that_has_ended_is_in_no_cycle_with_what_it_called(guest: Guest) -> None:
    guest.ask(b.T_IN, 0, room=512)
    (request,) = guest.disk.seen

    assert eventually(lambda: request not in gc.get_referents(*gc.get_referents(request.done)))


class PatientDisk(FakeDisk):
    """Performs reads when the device has nothing else to do, if it may."""

    def submit(self, request: Request) -> None:
        if request.later is None:
            super().submit(request)
        else:
            late = super().submit
            request.later(lambda: late(request))


def test_reads_that_are_put_off_come_back(make: Make) -> None:
    disk = PatientDisk()
    disk.content[:] = bytes(i // 512 % 251 for i in range(len(disk.content)))
    guest = make(disk)
    disk.held = True
    rooms = [guest.begin(b.T_IN, i, room=512)[1] for i in range(5)]
    assert eventually(lambda: len(disk.seen) == 4 + 1)

    disk.release()

    assert len(guest.rig.came_back(0, 5)) == 5
    assert [guest.rig.read(room)[0] for room in rooms if room] == list(range(5))


def test_what_was_put_off_is_done_before_the_device_rests(guest: Guest) -> None:
    device = guest.rig.device
    assert isinstance(device, b.Block)
    done: list[str] = []

    device._later.append(lambda: done.append("pause"))
    device.pause()
    assert done == ["pause"]
    device.resume()

    device._later.append(lambda: done.append("reset"))
    guest.rig.set(20, 1, 0)
    assert done == ["pause", "reset"]
