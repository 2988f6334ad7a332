"""Snapshots: writes over an image that stays as it is."""

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from tests.unit.devices.disks.driver import Driver, Ended, split
from tests.unit.devices.disks.model import STEPS, Model, storm
from tests.unit.devices.virtio.driver import eventually
from tests.unit.devices.virtio.fake_disk import FakeDisk

from ringlet.devices.backends.disks import Operation, Request, overlay, pieces, scratch, syscalls
from ringlet.devices.backends.disks.interface import DROPPED, PENDING, Session
from ringlet.devices.backends.disks.overlay import CLUSTER, Overlay
from ringlet.disk_spec import Access, DiskSpec
from ringlet.errors import DiskError

SIZE = 16 * CLUSTER - 1024  # the last cluster is not whole


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "base.img"
    path.write_bytes(Model.filled(SIZE).data)
    return path


@given(steps=STEPS)
def test_any_operations_read_as_a_model_and_leave_the_image(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Model.Step]
) -> None:
    image = tmp_path_factory.mktemp("model") / "base.img"
    model = Model.filled(SIZE)
    image.write_bytes(model.data)

    with Driver(DiskSpec(image, Access.SNAPSHOT)) as disk:
        model.check(disk, steps)

    assert image.read_bytes() == Model.filled(SIZE).data


def test_writes_to_parts_of_the_same_clusters_at_once(image: Path) -> None:
    for _ in range(20):
        with Driver(DiskSpec(image, Access.SNAPSHOT)) as disk:
            storm(disk, SIZE, rounds=2)


def test_two_disks_over_one_image_do_not_see_each_other(image: Path) -> None:
    spec = DiskSpec(image, Access.SNAPSHOT)
    with Driver(spec) as one, Driver(spec) as other:
        one.write(0, b"1" * 512)
        other.write(512, b"2" * 512)

        assert one.read(0, 1024) == b"1" * 512 + bytes([2]) * 512
        assert other.read(0, 1024) == bytes([1]) * 512 + b"2" * 512


class Slow:
    """A disk of zeros whose reads end when the test says so."""

    size, sector, read_only, discards, identity = SIZE, 512, True, False, "slow"

    def __init__(self) -> None:
        self.reads: list[Request] = []
        self.begun = threading.Semaphore(0)

    def submit(self, request: Request) -> None:
        self.reads.append(request)
        self.begun.release()

    def close(self) -> None:
        pass


@pytest.fixture
def slow(tmp_path: Path) -> tuple[Slow, Driver]:
    below = Slow()
    file = scratch.create_scratch(tmp_path / "a", SIZE, print, {"TMPDIR": str(tmp_path)})
    return below, Driver(Overlay(below, file, print))


def begin_write(disk: Driver, offset: int, data: bytes) -> Ended:
    return disk.begin(Operation.WRITE, offset, len(data), [memoryview(data)])


def test_a_whole_write_waits_for_the_copy_of_its_cluster(slow: tuple[Slow, Driver]) -> None:
    """Otherwise the copy from below would end later and replace its data."""
    below, disk = slow
    with disk:
        part = begin_write(disk, 0, b"p" * 512)
        assert below.begun.acquire(timeout=10)
        whole = begin_write(disk, 0, b"w" * CLUSTER)
        elsewhere = begin_write(disk, CLUSTER, b"e" * CLUSTER)
        assert (elsewhere.wait(), whole.codes) == (0, [])

        below.reads[0].done(0)

        assert (part.wait(), whole.wait()) == (0, 0)
        assert disk.read(0, CLUSTER) == b"w" * CLUSTER


def test_a_copy_that_fails_fails_its_write_and_not_the_next(slow: tuple[Slow, Driver]) -> None:
    below, disk = slow
    with disk:
        part = begin_write(disk, 0, b"p" * 512)
        assert below.begun.acquire(timeout=10)
        whole = begin_write(disk, 0, b"w" * CLUSTER)

        below.reads[0].done(errno.EIO)

        assert (part.wait(), whole.wait()) == (errno.EIO, 0)
        assert disk.read(0, CLUSTER) == b"w" * CLUSTER


def test_whole_clusters_need_nothing_from_below(slow: tuple[Slow, Driver]) -> None:
    below, disk = slow
    with disk:
        assert disk.write(CLUSTER, b"w" * 3 * CLUSTER) == 0
        assert disk.write_zeros(0, CLUSTER) == 0

    assert below.reads == []


def test_discarded_bytes_are_not_those_of_the_image_and_take_no_room(image: Path) -> None:
    with Driver(DiskSpec(image, Access.SNAPSHOT)) as disk:
        disk.write(0, b"d" * 8 * CLUSTER)

        assert disk.discard(0, 12 * CLUSTER) == 0

        assert disk.read(0, 8 * CLUSTER) == bytes(8 * CLUSTER)
        assert disk.read(8 * CLUSTER, 512) == bytes([8 * CLUSTER // 512 + 1]) * 512


def test_the_file_has_no_name_and_is_private(tmp_path: Path) -> None:
    file = scratch.create_scratch(tmp_path / "a", SIZE, print, {"TMPDIR": str(tmp_path)})

    status = os.fstat(file.fd)
    assert (status.st_nlink, status.st_mode & 0o777, status.st_size) == (0, 0o600, SIZE)
    assert list(tmp_path.iterdir()) == []
    file.close()


def test_a_file_system_without_unnamed_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def refuse(path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "no")
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", refuse)

    file = scratch.create_scratch(tmp_path / "a", SIZE, print, {"TMPDIR": str(tmp_path)})

    assert (os.fstat(file.fd).st_nlink, list(tmp_path.iterdir())) == (0, [])
    file.close()


def test_a_directory_in_ram_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache" / "ringlet"
    cache.mkdir(parents=True)
    monkeypatch.setattr(scratch, "is_in_ram", lambda directory: directory == cache)
    lines: list[str] = []

    file = scratch.create_scratch(
        tmp_path / "a", SIZE, lines.append, {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    )

    assert lines == []
    assert str(cache) not in str(file.path)
    file.close()


def test_the_user_is_told_that_writes_take_ram(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch, "is_in_ram", lambda directory: True)
    lines: list[str] = []

    scratch.create_scratch(tmp_path / "a", SIZE, lines.append, {"TMPDIR": str(tmp_path)}).close()

    assert lines == [
        f"disk {tmp_path}/a: the snapshot's writes take RAM ({tmp_path}); set TMPDIR elsewhere"
    ]


def test_file_systems_in_ram_are_known() -> None:
    assert not scratch.is_in_ram(Path("/proc"))
    assert scratch.is_in_ram(Path("/dev/shm"))


def test_a_disk_that_is_too_large_is_refused(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlay, "LARGEST", 8192)

    with pytest.raises(DiskError, match="at most 8 KiB"):
        Driver(DiskSpec(image, Access.SNAPSHOT))


# --- many clusters here and below in turn

CLUSTERS = 2 * PENDING + 64


@pytest.fixture
def scattered(tmp_path: Path) -> Iterator[tuple[FakeDisk, Driver]]:
    """A snapshot every second cluster of which was written."""
    below = FakeDisk(size=CLUSTERS * CLUSTER)
    below.content[:] = b"b" * below.size
    file = scratch.create_scratch(tmp_path / "a", below.size, print, {"TMPDIR": str(tmp_path)})
    with Driver(Overlay(below, file, print)) as disk:
        for at in range(0, below.size, 2 * CLUSTER):
            assert disk.write(at, b"h" * CLUSTER) == 0
        yield below, disk


def test_a_discard_is_a_hole_and_leaves_what_is_below(
    scattered: tuple[FakeDisk, Driver], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, disk = scattered
    real, holes = syscalls.punch_hole, []

    def punch(fd: int, offset: int, length: int) -> None:
        holes.append((offset, length))
        real(fd, offset, length)

    monkeypatch.setattr(syscalls, "punch_hole", punch)

    assert disk.discard(0, CLUSTERS * CLUSTER) == 0

    assert len(holes) == -(-CLUSTERS * CLUSTER // pieces.RANGE)
    whole = disk.read(0, CLUSTERS * CLUSTER)
    assert whole == (bytes(CLUSTER) + b"b" * CLUSTER) * (CLUSTERS // 2)


def test_a_discard_of_what_is_below_needs_nothing(
    slow: tuple[Slow, Driver], monkeypatch: pytest.MonkeyPatch
) -> None:
    below, disk = slow
    with disk:
        monkeypatch.setattr(syscalls, "punch_hole", lambda *_: pytest.fail("a hole"))

        assert disk.discard(0, SIZE) == 0

    assert below.reads == []


def test_a_read_of_many_parts_asks_for_some_at_a_time(
    scattered: tuple[FakeDisk, Driver],
) -> None:
    below, disk = scattered
    data = bytearray(CLUSTERS * CLUSTER)
    below.held = True

    ended = disk.begin(Operation.READ, 0, len(data), split(data, 7))

    assert eventually(lambda: len(below.waiting) >= overlay.ROUND // 2)
    assert len(below.waiting) <= overlay.ROUND
    below.release()
    assert ended.wait() == 0
    assert data == (b"h" * CLUSTER + b"b" * CLUSTER) * (CLUSTERS // 2)


def test_a_read_of_many_parts_fails_if_one_does(scattered: tuple[FakeDisk, Driver]) -> None:
    below, disk = scattered
    below.error = errno.EIO

    with pytest.raises(OSError, match=f"{errno.EIO}"):
        disk.read(0, CLUSTERS * CLUSTER)

    assert len(below.seen) <= overlay.ROUND


def test_a_read_of_many_parts_is_dropped_when_its_session_is_over(
    scattered: tuple[FakeDisk, Driver],
) -> None:
    below, disk = scattered
    session, ended = Session(), Ended()
    data = [memoryview(bytearray(CLUSTERS * CLUSTER))]
    below.held = True
    request = Request(Operation.READ, 0, data[0].nbytes, data, ended, session=session)
    disk.disk.submit(request)
    assert eventually(lambda: len(below.waiting) >= overlay.ROUND // 2)

    session.over = True
    below.release()

    assert ended.wait() == DROPPED
    assert len(below.seen) <= overlay.ROUND
