"""Raw disks: what is read and written, what the host is left with, and failures of the host."""

import errno
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import get_ident

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.devices.disks.driver import Driver, Ended
from tests.unit.devices.disks.model import STEPS, Model

from ringlet.devices.backends.disks import Operation, raw, syscalls, vectors
from ringlet.devices.backends.disks.interface import PENDING, Request
from ringlet.devices.backends.disks.troubles import Troubles
from ringlet.disk_spec import Access, DiskSpec, Format
from ringlet.errors import DiskError

SIZE = 1 << 20


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "a.img"
    path.write_bytes(bytes(range(256)) * (SIZE // 256))
    return path


@pytest.fixture
def small_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE // 2, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_write_is_read_back_in_parts(image: Path) -> None:
    with Driver(DiskSpec(image)) as disk:
        assert disk.write(4096, b"x" * 5120, parts=3) == 0

        assert disk.read(3584, 6144, parts=5) == bytes(range(256)) * 2 + b"x" * 5120 + bytes(
            range(256)
        ) * 2


@pytest.mark.parametrize("length", [512, 4096, raw.AT_ONCE, 4 * raw.AT_ONCE])
def test_write_is_in_the_file_after_close(image: Path, length: int) -> None:
    with Driver(DiskSpec(image)) as disk:
        disk.write(8192, b"y" * length)

    assert image.read_bytes()[8192 : 8192 + length] == b"y" * length


@given(steps=STEPS)
def test_any_operations_leave_what_a_model_has(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Model.Step]
) -> None:
    image = tmp_path_factory.mktemp("model") / "a.img"
    model = Model.filled(64 << 10)
    image.write_bytes(model.data)

    with Driver(DiskSpec(image)) as disk:
        model.check(disk, steps)

    assert image.read_bytes() == model.data


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=8), data=st.data())
def test_part_and_rest_are_slices(sizes: list[int], data: st.DataObject) -> None:
    whole = bytes(range(sum(sizes)))
    starts = [sum(sizes[:n]) for n in range(len(sizes))]
    buffers = [memoryview(whole)[s : s + n] for s, n in zip(starts, sizes, strict=True)]
    start = data.draw(st.integers(0, len(whole)))
    length = data.draw(st.integers(0, len(whole) - start))

    assert b"".join(vectors.rest(buffers, start)) == whole[start:]
    assert b"".join(vectors.part(buffers, start, length)) == whole[start : start + length]


def test_more_buffers_than_one_system_call_takes(image: Path) -> None:
    with Driver(DiskSpec(image)) as disk:
        assert disk.write(0, bytes(512) * 1500, parts=1500) == 0
        assert disk.read(0, 512 * 1500, parts=1500) == bytes(512) * 1500


def test_size_is_rounded_up_and_the_rest_reads_as_zeros(tmp_path: Path) -> None:
    image = tmp_path / "odd.img"
    image.write_bytes(b"z" * 1000)

    with Driver(DiskSpec(image)) as disk:
        assert disk.disk.size == 1024
        assert disk.read(512, 512) == b"z" * 488 + bytes(24)
        disk.write(512, b"w" * 512)

    assert image.read_bytes() == b"z" * 512 + b"w" * 512


def test_flush_without_writes_is_answered_at_once(image: Path) -> None:
    with Driver(DiskSpec(image)) as disk:
        assert disk.flush() == 0  # what the host wrote before

        assert disk.begin(Operation.FLUSH).codes == [0]
        disk.write(0, bytes(4096))
        assert disk.flush() == 0


def test_a_flush_waits_for_one_that_runs(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first flush has taken note of the write, but has not made it durable."""
    running, go_on = threading.Event(), threading.Event()

    def sync(fd: int) -> None:
        running.set()
        go_on.wait(10)

    with Driver(DiskSpec(image)) as disk:
        disk.flush()
        monkeypatch.setattr(os, "fdatasync", sync)
        disk.write(0, bytes(4096))
        first = disk.begin(Operation.FLUSH)
        assert running.wait(10)

        second = disk.begin(Operation.FLUSH)

        assert (first.codes, second.codes) == ([], [])
        go_on.set()
        assert (first.wait(), second.wait()) == (0, 0)


def test_what_is_written_during_a_flush_needs_another(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []

    def sync(fd: int) -> None:
        synced.append(fd)
        if len(synced) == 1:
            assert disk.write(4096, bytes(4096)) == 0

    with Driver(DiskSpec(image)) as disk:
        disk.write(0, bytes(4096))
        monkeypatch.setattr(os, "fdatasync", sync)
        assert disk.flush() == 0

        assert disk.flush() == 0

    assert len(synced) == 2


def test_a_failed_flush_fails_for_good(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sync(fd: int) -> None:
        raise OSError(errno.EIO, "gone")

    with Driver(DiskSpec(image)) as disk:
        disk.write(0, bytes(4096))
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", sync)
            assert disk.flush() == errno.EIO

        assert disk.flush() == errno.EIO
    assert len(disk.lines) == 1


def test_a_write_that_was_held_up_sends_the_next_ones_to_threads(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by: list[int] = []
    now, ended = [0], [0]
    us = threading.get_ident()

    def write(*arguments: object, **options: object) -> None:
        by.append(threading.get_ident())
        now[0] += raw.SLOW_NS + 1
        if by[-1] == us:
            ended[0] = now[0]

    monkeypatch.setattr(vectors, "write", write)
    monkeypatch.setattr(time, "monotonic_ns", lambda: now[0])
    with Driver(DiskSpec(image)) as disk:
        for pause in (0, raw.PAUSE_NS - 1, raw.PAUSE_NS, raw.PAUSE_NS, 2 * raw.PAUSE_NS):
            now[0] = ended[0] + pause
            disk.write(0, bytes(4096))

    assert [thread == us for thread in by] == [True, False, True, False, True]


def test_discard_gives_room_back(image: Path) -> None:
    with Driver(DiskSpec(image)) as disk:
        before = image.stat().st_blocks

        assert disk.discard(0, SIZE // 2) == 0

        assert image.stat().st_blocks < before
        assert disk.read(0, 4096) == bytes(4096)


def test_zeros_keep_their_room_without_unmap(image: Path) -> None:
    with Driver(DiskSpec(image)) as disk:
        before = image.stat().st_blocks
        assert disk.write_zeros(0, SIZE // 2) == 0
        assert image.stat().st_blocks == before

        assert disk.write_zeros(0, SIZE // 2, unmap=True) == 0

        assert image.stat().st_blocks < before


def test_zeros_are_written_where_the_file_system_has_no_call(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unable(fd: int, offset: int, length: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "no")

    monkeypatch.setattr(syscalls, "zero_range", unable)
    monkeypatch.setattr(syscalls, "punch_hole", unable)

    with Driver(DiskSpec(image)) as disk:
        assert disk.write_zeros(512, 1024, unmap=True) == 0
        assert disk.write_zeros(2048, 1024) == 0
        assert disk.discard(8192, 4096) == 0
        assert disk.read(0, 4096).count(0) >= 2048

        assert not disk.disk.discards


@pytest.mark.parametrize(
    ("operation", "offset", "length", "buffers", "code"),
    [
        (Operation.READ, SIZE - 512, 1024, [memoryview(bytearray(1024))], errno.EINVAL),
        (Operation.READ, -512, 512, [memoryview(bytearray(512))], errno.EINVAL),
        (Operation.WRITE, 0, 1024, [memoryview(bytes(512))], errno.EINVAL),
        (Operation.DISCARD, 0, SIZE + 512, [], errno.EINVAL),
        (Operation.WRITE_ZEROES, 0, -1, [], errno.EINVAL),
    ],
)
def test_impossible_requests_are_refused(
    image: Path, operation: Operation, offset: int, length: int, buffers: list[memoryview],
    code: int,
) -> None:  # fmt: skip
    before = image.read_bytes()

    with Driver(DiskSpec(image)) as disk:
        assert disk.begin(operation, offset, length, buffers).wait() == code

    assert image.read_bytes() == before


@pytest.mark.parametrize("operation", [Operation.DISCARD, Operation.WRITE_ZEROES])
def test_read_only_disk_is_not_written(image: Path, operation: Operation) -> None:
    with Driver(DiskSpec(image, Access.READ_ONLY)) as disk:
        assert disk.disk.read_only
        assert disk.begin(operation, 0, 512).wait() == errno.EROFS
        assert disk.write(0, bytes(512)) == errno.EROFS
        assert disk.flush() == 0


def test_requests_after_close_are_refused(image: Path) -> None:
    with Driver(DiskSpec(image)) as disk:
        pass

    assert disk.begin(Operation.FLUSH).wait() == errno.ESHUTDOWN
    disk.disk.close()


def test_close_waits_for_what_runs(image: Path) -> None:
    with Driver(DiskSpec(image)) as disk:
        data = [memoryview(b"c" * 512)]
        all_of_them = [
            disk.begin(Operation.WRITE, 512 * n, 512, data) for n in range(SIZE // 512)
        ]

    assert {tuple(ended.codes) for ended in all_of_them} == {(0,)}
    assert image.read_bytes() == b"c" * SIZE


def test_requests_beyond_the_bound_are_refused(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    monkeypatch.setattr(vectors, "write", lambda *a, **k: go_on.wait(10))
    with Driver(DiskSpec(image)) as disk:
        data = [memoryview(bytes(512))]
        ended = [disk.begin(Operation.WRITE, 0, 512, data) for _ in range(PENDING)]

        assert disk.begin(Operation.WRITE, 0, 512, data).wait() == errno.EBUSY

        go_on.set()
        assert {one.wait() for one in ended} == {0}


def test_file_cut_short_gives_errors_and_one_line(image: Path) -> None:
    with Driver(DiskSpec(image)) as disk:
        os.truncate(image, SIZE // 2)

        for _ in range(2):
            with pytest.raises(OSError, match=f"{errno.EIO}"):
                disk.read(SIZE // 2 + 4096, 4096)

        assert disk.read(0, 512) == bytes(range(256)) * 2
    assert disk.lines == [
        f"disk {image}: the file has become shorter; the guest gets I/O errors behind its end"
    ]


@pytest.mark.usefixtures("small_files")
@pytest.mark.parametrize("length", [4096, 4 * raw.AT_ONCE])
def test_a_full_host_is_an_error_of_the_guest_and_one_line(tmp_path: Path, length: int) -> None:
    image = tmp_path / "sparse.img"
    image.touch()
    image.write_bytes(b"s")
    os.truncate(image, SIZE // 2)
    with Driver(DiskSpec(image)) as disk:
        disk.disk.size = SIZE  # as if the rest were a hole

        codes = {disk.write(SIZE // 2, bytes(length)) for _ in range(3)}

    assert codes == {errno.ENOSPC}
    assert len(disk.lines) == 1
    assert "ulimit -f" in disk.lines[0]


def test_a_file_without_a_name_is_told_once_at_a_flush(image: Path) -> None:
    with Driver(DiskSpec(image)) as disk:
        disk.flush()
        before = [*disk.lines]
        image.unlink()
        disk.write(0, bytes(512))
        disk.flush()
        disk.flush()

    assert before == []
    assert disk.lines == [
        f"disk {image}: the file was removed; what the guest writes is lost when it ends"
    ]


def test_a_file_that_is_only_read_may_be_removed(image: Path) -> None:
    with Driver(DiskSpec(image, Access.SNAPSHOT)) as disk:
        image.unlink()
        disk.write(0, bytes(512))
        disk.flush()

    assert disk.lines == []


def test_a_lack_of_room_is_told_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    lines: list[str] = []
    troubles = Troubles(Path("a.img"), lines.append)

    for seconds in (0, 50, 50, 61):
        now[0] += seconds
        assert troubles.of(OSError(errno.ENOSPC, "")) == errno.ENOSPC
        troubles.of(OSError(errno.EIO, ""))

    full = "disk a.img: No space left on device: make room on its file system; the guest's writes"
    assert [line.startswith(full) for line in lines] == [True, False, True]


def test_a_guest_makes_no_qcow2_of_a_raw_image(image: Path) -> None:
    header = b"QFI\xfb" + bytes(4092)

    with Driver(DiskSpec(image)) as disk:
        assert disk.write(0, header, parts=3000) == errno.EIO
        assert disk.write(512, header) == 0
        assert disk.write(0, b"MBR" + bytes(1021)) == 0

    assert image.read_bytes()[:4] == b"MBR\0"
    assert "format=raw" in disk.lines[0]


def test_a_guest_may_write_anything_if_the_user_says_raw(image: Path) -> None:
    with Driver(DiskSpec(image, format=Format.RAW)) as disk:
        assert disk.write(0, b"QFI\xfb" + bytes(508)) == 0


def test_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match=r"No such file.*truncate -s 10G .*/none"):
        Driver(DiskSpec(tmp_path / "none"))


def test_directory_fifo_and_empty_file_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "empty").touch()

    for name, words in (("", "a directory"), ("fifo", "neither"), ("empty", "empty")):
        with pytest.raises(DiskError, match=words):
            Driver(DiskSpec(tmp_path / name))


def test_disk_has_the_name_of_its_file_as_serial_number(image: Path) -> None:
    with Driver(DiskSpec(image.rename(image.with_name("wörter-und-noch-mehr.img")))) as disk:
        assert disk.disk.identity == "rter-und-noch-mehr.img"[-20:]


@pytest.fixture
def files_are_not_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "read_cached", lambda *_: 0)


@pytest.mark.usefixtures("files_are_not_cached")
@pytest.mark.parametrize(
    ("length", "alone", "by_us"),
    [
        (raw.AT_ONCE, True, True),
        (raw.AT_ONCE, False, False),
        (raw.AT_ONCE + 512, True, False),
    ],
)
def test_a_short_read_that_is_alone_needs_no_thread(
    image: Path, length: int, alone: bool, by_us: bool
) -> None:
    data = [memoryview(bytearray(length))]
    threads: list[int] = []
    with Driver(DiskSpec(image)) as disk:
        request = Request(
            Operation.READ, 0, length, data, lambda _: threads.append(get_ident()), alone=alone
        )

        disk.disk.submit(request)

    assert bytes(data[0]) == image.read_bytes()[:length]
    assert (threads == [get_ident()]) is by_us


@pytest.mark.parametrize(("written", "by_us"), [(raw.AT_ONCE, True), (raw.AT_ONCE + 512, False)])
def test_a_flush_that_is_alone_needs_no_thread_if_little_was_written(
    image: Path, monkeypatch: pytest.MonkeyPatch, written: int, by_us: bool
) -> None:
    threads: list[int] = []
    with Driver(DiskSpec(image)) as disk:
        disk.flush()
        disk.write(0, bytes(written))
        monkeypatch.setattr(os, "fdatasync", lambda _: threads.append(get_ident()))

        assert disk.begin(Operation.FLUSH, alone=True).wait() == 0
        disk.write(0, bytes(512))
        assert disk.begin(Operation.FLUSH, alone=True).wait() == 0

        assert disk.begin(Operation.FLUSH, alone=True).codes == [0]  # nothing was written

    assert [thread == get_ident() for thread in threads] == [by_us, True]


def test_one_of_many_reads_is_begun_and_waited_for_later(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "read_cached", lambda *_: 0)
    begun: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda fd, at, size, what: begun.append((at, size)))
    calls: list[Callable[[], None]] = []
    codes: list[int] = []
    data = bytearray(512)

    with Driver(DiskSpec(image)) as disk:
        disk.disk.submit(
            Request(Operation.READ, 1024, 512, [memoryview(data)], codes.append,
                    later=calls.append)
        )  # fmt: skip
        assert (begun, codes) == ([(1024, 512)], [])
        calls.pop()()

    assert (codes, calls) == ([0], [])
    assert data == image.read_bytes()[1024:1536]


def test_a_long_read_or_a_write_is_not_put_off(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "read_cached", lambda *_: 0)
    calls: list[Callable[[], None]] = []
    with Driver(DiskSpec(image)) as disk:
        for operation, length in (
            (Operation.READ, 2 * raw.AT_ONCE), (Operation.WRITE, 512),
        ):  # fmt: skip
            ended = Ended()
            buffers = [memoryview(bytearray(length))]
            disk.disk.submit(Request(operation, 0, length, buffers, ended, later=calls.append))
            assert ended.wait() == 0

    assert not calls
