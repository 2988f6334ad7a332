"""What the host is asked to read ahead."""

from __future__ import annotations

import itertools
import os
import threading
from pathlib import Path

import pytest
from tests.unit.devices.disks.driver import Driver

from ringlet.devices.backends.disks.pieces import cut
from ringlet.devices.backends.disks.streams import (
    AHEAD,
    LARGE,
    PIECE,
    STREAMS,
    Range,
    ReadAhead,
)
from ringlet.disk_spec import DiskSpec

MIB = 1 << 20


def read_in_order(ahead: ReadAhead, start: int, length: int, count: int) -> list[Range]:
    found = [ahead.after(start + n * length, length) for n in range(count)]
    return [wanted for wanted in found if wanted]


@pytest.mark.parametrize("length", [LARGE, 128 << 10, MIB, 5 * MIB])
def test_what_follows_reads_in_order_is_asked_for_once(length: int) -> None:
    found = read_in_order(ReadAhead(), 7 * MIB, length, 64 * MIB // length)

    assert found[0][0] <= 7 * MIB + max(4 * LARGE, length)
    assert all(sum(a) <= b[0] for a, b in itertools.pairwise(found))
    assert sum(n for _, n in found) <= 64 * MIB + AHEAD
    assert sum(found[-1]) >= 7 * MIB + 64 * MIB + AHEAD // 2 - length


def test_as_much_is_asked_for_as_twice_what_was_read() -> None:
    ahead = ReadAhead()
    asked = 0
    for n in range(32):
        wanted = ahead.after(n * LARGE, LARGE)
        asked = sum(wanted) if wanted else asked
        assert asked <= 3 * (n + 1) * LARGE


def test_reads_here_and_there_ask_for_nothing() -> None:
    ahead = ReadAhead()

    assert [ahead.after(n * 37 * MIB, LARGE) for n in range(50)] == [None] * 50


def test_requests_of_one_stream_may_be_out_of_order() -> None:
    ahead = ReadAhead()
    order = [n ^ 1 for n in range(64)]

    found = [wanted for n in order if (wanted := ahead.after(n * 2 * LARGE, 2 * LARGE))]

    assert found
    assert all(sum(a) == b[0] for a, b in itertools.pairwise(found))


def test_several_places_are_read_in_order_at_the_same_time() -> None:
    ahead = ReadAhead()
    found: set[int] = set()
    for n in range(8):
        for place in range(STREAMS):
            if ahead.after((place << 32) + n * MIB, MIB):
                found.add(place)

    assert found == set(range(STREAMS))


def test_pieces_are_the_whole() -> None:
    parts = list(cut(5000, 3 * PIECE + 1, PIECE))

    assert parts[0] == (5000, PIECE)
    assert sum(length for _, length in parts) == 3 * PIECE + 1
    assert all(sum(a) == b[0] for a, b in itertools.pairwise(parts))


@pytest.fixture
def advice(monkeypatch: pytest.MonkeyPatch) -> list[Range]:
    found: list[Range] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda fd, at, size, what: found.append((at, size)))
    return found


def test_disk_has_the_host_read_ahead(tmp_path: Path, advice: list[Range]) -> None:
    image = tmp_path / "a.img"
    image.write_bytes(os.urandom(MIB) * 8)

    with Driver(DiskSpec(image)) as disk:
        read = b"".join(disk.read(n * LARGE, LARGE) for n in range(64))

    assert read == image.read_bytes()[: 64 * LARGE]
    assert advice[0][0] <= 8 * LARGE


def test_a_slow_host_is_asked_for_one_thing_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "a.img"
    image.write_bytes(os.urandom(MIB) * 8)
    begun, slow = threading.Event(), threading.Event()
    asked: list[int] = []

    def advise(fd: int, at: int, size: int, what: int) -> None:
        asked.append(at)
        begun.set()
        slow.wait(10)

    monkeypatch.setattr(os, "posix_fadvise", advise)
    with Driver(DiskSpec(image)) as disk:
        for n in range(120):
            disk.read(n * LARGE, LARGE)
        assert begun.wait(10)
        while_slow = len(asked)
        slow.set()

    assert while_slow == 1


def test_host_that_gives_no_thread_reads_nothing_ahead(
    tmp_path: Path, advice: list[Range], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "a.img"
    image.write_bytes(os.urandom(MIB) * 8)

    with Driver(DiskSpec(image)) as disk:
        monkeypatch.setattr(threading.Thread, "start", _no_thread)
        read = b"".join(disk.read(n * LARGE, LARGE) for n in range(64))

    assert read == image.read_bytes()[: 64 * LARGE]
    assert not advice


def _no_thread(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")
