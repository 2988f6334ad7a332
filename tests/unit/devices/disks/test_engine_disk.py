"""The disk of an engine: what it asks of the engine, and what its user is told."""

import errno
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.devices.disks.driver import Driver, Ended, split
from tests.unit.devices.disks.test_vhost import ANSWERS, FakeEngine

from ringlet.devices.backends.disks import Operation, Request, engine_disk, vhost
from ringlet.devices.backends.disks.engine import Engine
from ringlet.devices.backends.disks.engine_disk import EngineDisk
from ringlet.devices.backends.disks.interface import DROPPED, Session
from ringlet.errors import DiskError

MOST_DISCARDED = 64 << 10


def kind(engine: FakeEngine, chain: list[tuple[int, int, int]]) -> int:
    return engine.memory[chain[0][0]]


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    made = FakeEngine()
    yield made
    made.close()


def disk_of(engine: FakeEngine, path: Path, lines: list[str]) -> EngineDisk:
    """The disk of `engine`, whose process is one that only waits for its end."""
    life, lifeline = os.pipe()
    process = subprocess.Popen(["cat"], stdin=life, start_new_session=True)
    os.close(life)
    messages, words = os.pipe2(os.O_NONBLOCK)
    os.write(words, b"qemu-storage-daemon: last words\n")
    os.close(words)
    made = Engine(process, engine.theirs, lifeline, messages, {})
    return EngineDisk(made, path, "serial", lines.append, read_only=False)


@pytest.fixture
def disk(engine: FakeEngine, tmp_path: Path) -> Iterator[Driver]:
    lines: list[str] = []
    driver = Driver(disk_of(engine, tmp_path, lines))
    driver.lines = lines
    yield driver
    engine.end.shutdown(2)
    driver.disk.close()


def write(disk: Driver, length: int, *, fua: bool = False) -> Ended:
    data = bytearray(length)
    return disk.begin(Operation.WRITE, 0, length, split(data, 2), fua=fua)


def test_a_durable_write_is_a_write_and_then_a_flush(engine: FakeEngine, disk: Driver) -> None:
    ended = write(disk, 512, fua=True)

    assert kind(engine, engine.finish()[1]) == vhost.WRITE
    first, chain = engine.take()
    assert kind(engine, chain) == vhost.FLUSH
    assert ended.codes == []
    engine.memory[chain[-1][0]] = 0
    engine.answer(first)
    assert ended.wait() == 0


def test_a_durable_write_that_fails_is_not_flushed(engine: FakeEngine, disk: Driver) -> None:
    ended = write(disk, 512, fua=True)

    engine.finish(status=1)

    assert ended.wait() == errno.EIO


def test_one_part_that_fails_fails_the_request(engine: FakeEngine, disk: Driver) -> None:
    ended = write(disk, 2 * vhost.SLOT_BYTES + 512)

    lengths = [engine.finish(status)[1][1][1] for status in (0, 1, 0)]

    assert lengths == [vhost.SLOT_BYTES, vhost.SLOT_BYTES, 512]
    assert ended.wait() == errno.EIO


def test_discards_are_divided_as_the_engine_wants(engine: FakeEngine, disk: Driver) -> None:
    ended = disk.begin(Operation.DISCARD, 0, 100 << 10)

    for _ in range(2):
        engine.finish()

    assert ended.wait() == 0


def test_a_failure_on_a_full_file_system_says_so_once(
    engine: FakeEngine, disk: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = os.statvfs_result((4096, 4096, 100, 3, 3, 10, 10, 10, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda path: full)

    for _ in range(2):
        ended = write(disk, 512)
        engine.finish(status=1)
        assert ended.wait() == errno.ENOSPC

    (line,) = disk.lines
    assert "No space left on device: make room on its file system; the guest's writes wait" in line


def test_the_engines_last_words_are_told(engine: FakeEngine, disk: Driver) -> None:
    ended = write(disk, 512)

    engine.end.shutdown(2)

    assert ended.wait() == errno.EIO
    assert "has ended (last words); the guest gets I/O errors" in disk.lines[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [({1: (1 << 30 | 1 << 32).to_bytes(8, "little")}, "too old"), ({15: bytes(8)}, "cannot use")],
)
def test_an_engine_that_cannot_do_what_is_needed(
    tmp_path: Path, change: dict[int, bytes], words: str
) -> None:
    engine = FakeEngine({**ANSWERS, **change})

    with pytest.raises(DiskError, match=words):
        disk_of(engine, tmp_path, [])

    engine.thread.join()
    engine.end.close()
    for fd in engine.fds.values():
        os.close(fd)


def test_a_large_request_is_given_to_the_engine_a_few_parts_at_a_time(
    engine: FakeEngine, disk: Driver
) -> None:
    parts = disk.disk.size // MOST_DISCARDED
    ended = disk.begin(Operation.DISCARD, 0, disk.disk.size)
    taken = [engine.take() for _ in range(engine_disk.PARTS)]
    assert engine.announced() == engine_disk.PARTS

    for first, chain in taken:
        engine.memory[chain[-1][0]] = 0
        engine.answer(first)
    sectors = [
        struct.unpack_from("<Q", engine.memory, engine.finish()[1][1][0])[0]
        for _ in range(parts - engine_disk.PARTS)
    ]

    assert ended.wait() == 0
    each = MOST_DISCARDED // 512
    assert sorted(sectors) == [n * each for n in range(engine_disk.PARTS, parts)]


def test_a_large_request_is_dropped_when_its_session_is_over(
    engine: FakeEngine, disk: Driver
) -> None:
    session, ended = Session(), Ended()
    size = disk.disk.size
    disk.disk.submit(Request(Operation.DISCARD, 0, size, [], ended, session=session))
    taken = [engine.take() for _ in range(engine_disk.PARTS)]

    session.over = True
    for first, chain in taken:
        engine.memory[chain[-1][0]] = 0
        engine.answer(first)

    assert ended.wait() == DROPPED
    assert engine.announced() == engine_disk.PARTS
    late = Ended()
    disk.disk.submit(Request(Operation.FLUSH, 0, 0, [], late, session=session))
    assert late.codes == [DROPPED]
    assert disk.lines == []
