"""Files that others may have made, and what is none."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from ringlet.errors import ImageError
from ringlet.images.files import open_plain


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as found:
        found.bind(path.name)  # the whole path may be too long for a socket


def test_a_file_and_a_link_to_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"data")
    (tmp_path / "link").symlink_to("file")

    with open_plain(tmp_path / "file") as one, open_plain(tmp_path / "link", device=True) as two:
        assert one.read() == two.read() == b"data"


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("make", "what"),
    [(os.mkfifo, "a pipe"), (Path.mkdir, "a directory"), (bind, "a pipe, a socket"),
     (lambda path: path.symlink_to("/dev/zero"), "a pipe, a socket or a device")],
    ids=["fifo", "directory", "socket", "device"],
)  # fmt: skip
@pytest.mark.parametrize("device", [False, True])
def test_what_is_no_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path], None],
    what: str,
    *,
    device: bool,
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "it")

    with pytest.raises(ImageError, match=f"/it: a file is needed here, and this is {what}"):
        open_plain(tmp_path / "it", device=device)


@pytest.mark.timeout(20)
def test_a_file_that_becomes_a_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    before = (tmp_path / "file").stat()
    monkeypatch.setattr(Path, "stat", lambda _path: before)

    with pytest.raises(ImageError, match="was replaced while Ringlet opened it"):
        open_plain(tmp_path / "pipe")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_plain(tmp_path / "none")
