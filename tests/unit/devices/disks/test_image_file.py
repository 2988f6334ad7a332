"""What a user is told about a file that cannot be a disk."""

import errno
import os
from pathlib import Path

import pytest
from tests.unit.devices.disks.driver import Driver

from ringlet.devices.backends.disks.image_file import explain
from ringlet.disk_spec import Access, DiskSpec
from ringlet.errors import DiskError


@pytest.mark.parametrize(
    ("code", "read_only", "words"),
    [
        (errno.EACCES, False, "add ,ro or ,snapshot to use it without writing"),
        (errno.EROFS, False, "add ,ro or ,snapshot to use it without writing"),
        (errno.EACCES, True, "you need permission to read it"),
        (errno.EBUSY, False, "the host has mounted it"),
        (errno.EMFILE, False, "ulimit -n"),
        (errno.ENOENT, True, "make one with: truncate"),
        (errno.ELOOP, True, "Too many levels of symbolic links"),
    ],
)
def test_each_failure_says_what_to_do(
    tmp_path: Path, code: int, read_only: bool, words: str
) -> None:
    image = tmp_path / "a.img"
    image.touch()

    error = explain(OSError(code, os.strerror(code)), image, read_only=read_only)

    assert str(error).startswith(f"disk {image}: {os.strerror(code)}")
    assert words in str(error)
    assert "\n" not in str(error)


def test_a_name_too_long_is_one_line() -> None:
    with pytest.raises(DiskError, match="File name too long"):
        Driver(DiskSpec(Path("x" * 300), Access.READ_ONLY))


def test_a_file_that_is_replaced_while_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "a.img"
    image.write_bytes(bytes(512))
    real = os.open

    def swap(path: str, flags: int, mode: int = 0o777) -> int:
        image.unlink()
        os.mkfifo(image)
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", swap)

    with pytest.raises(DiskError, match="it was replaced"):
        Driver(DiskSpec(image, Access.READ_ONLY))
