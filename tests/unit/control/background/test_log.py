"""The log of a console is bounded, and can be followed."""

import os
import threading
from pathlib import Path

import pytest

from ringlet.control.background import log
from ringlet.control.background.log import Log, read_log


def read(directory: Path) -> bytes:
    return b"".join(read_log(directory))


def test_log_has_what_was_written(tmp_path: Path) -> None:
    written = Log(tmp_path)

    written(b"one ")
    written(b"two")

    assert read(tmp_path) == b"one two"


@pytest.mark.parametrize(
    ("printed", "lines", "last"),
    [
        (b"one\ntwo\nthree\n", 2, b"two\nthree\n"),
        (b"one\ntwo\nthr", 2, b"two\nthr"),
        (b"one\n\n\n", 2, b"\n\n"),
        (b"one\ntwo\n", 2, b"one\ntwo\n"),
        (b"one\ntwo\n", 9, b"one\ntwo\n"),
        (b"one", 1, b"one"),
        (b"one\n", 0, b""),
        (b"", 3, b""),
    ],
)
def test_last_lines_of_the_log(tmp_path: Path, printed: bytes, lines: int, last: bytes) -> None:
    Log(tmp_path)(printed)

    assert b"".join(read_log(tmp_path, None, lines)) == last


def test_last_lines_are_followed_by_what_comes(tmp_path: Path) -> None:
    written = Log(tmp_path)
    written(b"one\ntwo\n")
    looks = iter([True, True, False])

    def goes_on() -> bool:
        written(b"more\n")
        return next(looks)

    assert b"".join(read_log(tmp_path, goes_on, 2)) == b"two\nmore\nmore\nmore\n"


def test_last_lines_of_a_guest_that_prints_on_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "MAX_LOG", 10)
    monkeypatch.setattr(log, "_parts", lambda *_: iter([b"12345\n"] * 4))

    assert [*read_log(tmp_path, None, 1)] == [b"12345\n"] * 3


def test_log_that_was_closed_takes_nothing_more(tmp_path: Path) -> None:
    written = Log(tmp_path)
    written(b"one")
    written.close()

    written(b"two")

    assert read(tmp_path) == b"one"


def test_two_files_hold_the_last_half_at_least(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "_HALF", 100)
    written = Log(tmp_path)
    printed = b"".join(b"%9d\n" % number for number in range(105))

    for at in range(0, len(printed), 70):
        written(printed[at : at + 70])

    kept = read(tmp_path)
    assert 100 <= len(kept) <= 200
    assert printed.endswith(kept)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) == len(kept)


def test_one_write_may_be_larger_than_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "_HALF", 100)
    written = Log(tmp_path)

    written(bytes(range(250)) * 4)

    assert read(tmp_path) == (bytes(range(250)) * 4)[-200:]


def test_follower_gets_what_comes_over_a_rotation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "_HALF", 1000)
    monkeypatch.setattr(log, "_LOOK_AGAIN_S", 0.001)
    written = Log(tmp_path)
    ended = threading.Event()
    seen = bytearray()

    def follow() -> None:
        for data in read_log(tmp_path, lambda: not ended.is_set()):
            seen.extend(data)

    follower = threading.Thread(target=follow)
    follower.start()
    expected = b""
    for number in range(30):
        line = b"%98d\n" % number
        expected += line
        written(line)
        while len(seen) < len(expected):
            ended.wait(0.001)
    ended.set()
    follower.join()

    assert bytes(seen) == expected


def test_disk_that_is_full_stops_no_guest(tmp_path: Path) -> None:
    written = Log(tmp_path)
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, written._fd)
    os.close(full)

    written(b"lost")

    assert read(tmp_path) == b""


def test_log_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert read(tmp_path) == b""
