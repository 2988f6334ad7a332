"""Large writes go around the page cache where that is right and faster."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.devices.disks.driver import Driver

from ringlet.devices.backends.disks import Operation, around, vectors
from ringlet.devices.backends.disks.around import LARGE, WriteAround
from ringlet.devices.backends.disks.image_file import ImageFile
from ringlet.disk_spec import Access, DiskSpec

SIZE = 1 << 22


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "a.img"
    path.write_bytes(bytes(SIZE))
    return path


@pytest.fixture
def image_file(image: Path) -> Iterator[ImageFile]:
    fd = os.open(image, os.O_RDWR)
    yield ImageFile(image, fd, SIZE, SIZE, 512, read_only=False)
    os.close(fd)


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collect the second descriptors of images, as if all file systems had direct I/O."""
    found: list[int] = []

    def opened(fd: int) -> int:
        found.append(os.open(f"/proc/self/fd/{fd}", os.O_RDWR))
        return found[-1]

    monkeypatch.setattr(around, "_open", opened)
    return found


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Collect descriptors and offsets of all writes."""
    found: list[tuple[int, int]] = []
    real = vectors.write

    def write(fd: int, buffers: list[memoryview], offset: int, **how: Any) -> None:
        found.append((fd, offset))
        real(fd, buffers, offset, **how)

    monkeypatch.setattr(vectors, "write", write)
    return found


@pytest.mark.parametrize(
    ("offset", "length", "direct"),
    [(0, LARGE, True), (4096, 3 * LARGE, True), (512, LARGE, False), (0, LARGE + 512, False),
     (0, LARGE - 4096, False), (8192, 4096, False)],
)  # fmt: skip
def test_large_and_aligned_writes_go_around(
    image: Path, second: list[int], writes: list[tuple[int, int]], offset: int, length: int,
    direct: bool,
) -> None:  # fmt: skip
    data = os.urandom(length)
    with Driver(DiskSpec(image)) as disk:
        assert disk.write(offset, data) == 0

    assert [fd == second[0] for fd, _ in writes] == [direct]
    assert image.read_bytes()[offset : offset + length] == data


@pytest.mark.parametrize("alone", [False, True])
def test_a_write_that_is_alone_is_made_by_the_thread_that_submits(
    image: Path, second: list[int], monkeypatch: pytest.MonkeyPatch, alone: bool
) -> None:
    """Once the disk is known to be fast."""
    makers: list[int] = []
    monkeypatch.setattr(vectors, "write", lambda *a, **how: makers.append(threading.get_ident()))
    monkeypatch.setattr(around, "_WINDOW", LARGE)

    with Driver(DiskSpec(image)) as disk:
        for _ in range(2):
            data = [memoryview(bytearray(LARGE))]
            assert disk.begin(Operation.WRITE, 0, LARGE, data, alone=alone).wait() == 0

    assert [maker == threading.get_ident() for maker in makers] == [False, alone]


def test_buffers_that_the_disk_refuses_go_through_the_page_cache(
    image: Path, second: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = vectors.write

    def write(fd: int, buffers: list[memoryview], offset: int, **how: Any) -> None:
        if fd in second:
            raise OSError(errno.EINVAL, "unaligned")
        real(fd, buffers, offset, **how)

    monkeypatch.setattr(vectors, "write", write)
    data = os.urandom(LARGE)

    with Driver(DiskSpec(image)) as disk:
        assert disk.write(0, data) == 0

    assert image.read_bytes()[:LARGE] == data


def test_other_errors_are_the_requests(
    image: Path, second: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(fd: int, buffers: list[memoryview], offset: int, **how: Any) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(vectors, "write", write)

    with Driver(DiskSpec(image)) as disk:
        assert disk.write(0, bytes(LARGE)) == errno.EIO


def test_a_file_that_disappears_is_written_through_the_page_cache(
    image: Path, second: list[int]
) -> None:
    with Driver(DiskSpec(image, access=Access.SNAPSHOT)) as disk:
        assert disk.write(0, bytes(LARGE)) == 0

    assert second == []


def test_slow_disk_is_left_to_the_page_cache_for_a_while(
    image_file: ImageFile, second: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(around, "_WINDOW", 2 * LARGE)
    monkeypatch.setattr(vectors, "write", lambda *a, **how: time.sleep(0.002))
    monkeypatch.setattr(around, "PAUSE_NS", 50_000_000)
    disk = WriteAround(image_file)

    taken = [disk.write([], 0, LARGE) for _ in range(4)]
    time.sleep(0.06)

    assert taken == [True, True, False, False]
    assert disk.write([], 0, LARGE)
    disk.close()


def test_disk_that_stays_slow_is_tried_less_and_less_often(
    image_file: ImageFile, second: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(around, "_LONG_NS", 1_000_000)
    monkeypatch.setattr(around, "PAUSE_NS", 10_000_000)
    monkeypatch.setattr(vectors, "write", lambda *a, **how: time.sleep(0.002))
    disk = WriteAround(image_file)

    began = time.monotonic()
    taken: list[float] = []
    while len(taken) < 4:
        if disk.write([], 0, LARGE):
            taken.append(time.monotonic() - began)
        time.sleep(0.001)

    assert taken[3] >= 0.07  # 10, 20 and 40 ms
    disk.close()


def test_writes_at_the_same_time_make_no_disk_slow(
    image_file: ImageFile, second: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each waits for the others, but together they are fast."""
    together = 16
    monkeypatch.setattr(around, "_WINDOW", together * LARGE)
    monkeypatch.setattr(around, "SLOW", together * LARGE * 10 // 4)  # 0.4 s for all of them
    barrier = threading.Barrier(together)

    def write(*a: Any, **how: Any) -> None:
        barrier.wait(10)
        time.sleep(0.05)

    monkeypatch.setattr(vectors, "write", write)
    disk = WriteAround(image_file)
    threads = [threading.Thread(target=disk.write, args=([], 0, LARGE)) for _ in range(together)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    monkeypatch.setattr(vectors, "write", lambda *a, **how: None)

    assert disk.write([], 0, LARGE)
    disk.close()
