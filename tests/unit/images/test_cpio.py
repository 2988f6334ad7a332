"""The archive writer against the format's description, and against the host's cpio."""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from ringlet.images.cpio import CpioWriter
from tests.unit.images.cpio_reader import members


def example() -> CpioWriter:
    archive = CpioWriter()
    archive.directory("bin")
    archive.file("bin/tool", b"12345", 0o755)
    archive.file("bin/x", b"")
    archive.symlink("bin/sh", "/bin/tool")
    archive.character_device("console", 5, 1)
    return archive


def test_members_come_out_as_they_went_in() -> None:
    found = members(example().contents())

    assert list(found) == ["bin", "bin/tool", "bin/x", "bin/sh", "console"]
    assert found["bin"].mode == stat.S_IFDIR | 0o755
    assert (found["bin/tool"].mode, found["bin/tool"].content) == (stat.S_IFREG | 0o755, b"12345")
    assert (found["bin/x"].mode, found["bin/x"].content) == (stat.S_IFREG | 0o644, b"")
    assert (found["bin/sh"].mode, found["bin/sh"].content) == (stat.S_IFLNK | 0o777, b"/bin/tool")
    assert (found["console"].mode, found["console"].device) == (stat.S_IFCHR | 0o600, (5, 1))


def test_an_archive_may_be_written_to_a_file(tmp_path: Path) -> None:
    with (tmp_path / "archive").open("wb") as file:
        archive = CpioWriter(file)
        archive.file("a", b"12345")
        archive.symlink("b", "a")
        archive.end()

    found = members((tmp_path / "archive").read_bytes())

    assert [(name, member.content) for name, member in found.items()] == [
        ("a", b"12345"), ("b", b"a"),
    ]  # fmt: skip


def test_inodes_differ_so_that_nothing_is_taken_for_a_hard_link() -> None:
    inodes = [member.inode for member in members(example().contents()).values()]

    assert len(set(inodes)) == len(inodes)


def test_owner_is_root_and_time_is_0() -> None:
    found = members(example().contents()).values()

    assert {(member.owners, member.time) for member in found} == {((0, 0), 0)}


def test_same_contents_give_the_same_bytes() -> None:
    assert example().contents() == example().contents()


def test_contents_can_be_asked_for_before_the_end() -> None:
    archive = example()
    before = members(archive.contents())
    archive.file("more", b"")

    assert set(members(archive.contents())) - set(before) == {"more"}


@pytest.mark.parametrize("length", range(1, 9))
def test_names_and_contents_of_any_length_are_aligned(length: int) -> None:
    archive = CpioWriter()
    archive.file("n" * length, b"c" * length)
    archive.file("after", b"x")

    assert members(archive.contents())["after"].content == b"x"


@pytest.mark.skipif(shutil.which("cpio") is None, reason="this host has no cpio")
def test_the_hosts_cpio_reads_it(tmp_path: Path) -> None:
    archive = CpioWriter()
    archive.directory("bin")
    archive.file("bin/tool", b"12345", 0o755)
    archive.symlink("bin/sh", "/bin/tool")
    done = subprocess.run(
        ["cpio", "-i", "--quiet"], input=archive.contents(), cwd=tmp_path, capture_output=True,
        check=False,
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "bin/tool").read_bytes() == b"12345"
    assert str((tmp_path / "bin/sh").readlink()) == "/bin/tool"
    assert os.access(tmp_path / "bin/tool", os.X_OK)
