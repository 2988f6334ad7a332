"""Snapshots: writes over an image that stays as it is."""

import errno
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from tests.unit.devices.disks.driver import Driver, Ended
from tests.unit.devices.disks.model import STEPS, Model, storm

from ringlet.devices.backends.disks import Operation, Request, overlay, scratch
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
