"""The writer of ext4, whose file systems e2fsprogs checks and reads."""

import io
import os
import stat
from pathlib import Path

import pytest

from ringlet.errors import ImageError
from ringlet.images.ext4 import BLOCK, GROUP_BYTES, Ext4Writer
from ringlet.images.tree import Node, Tree, directory, symlink
from tests.unit.images.archives import NEEDS_E2FSPROGS, ask, check, content, listed

pytestmark = NEEDS_E2FSPROGS


class Made:
    """A file system that is being made."""

    def __init__(self, path: Path, size: int = GROUP_BYTES) -> None:
        self.path = path / "image"
        self.writer = Ext4Writer(self.path, size, label="test", seed=b"test")
        self.tree = Tree()

    def file(self, path: str, data: bytes, mode: int = 0o644, **others: object) -> Node:
        node = Node(stat.S_IFREG | mode, size=len(data))
        for key, value in others.items():
            setattr(node, key, value)
        node.extents = self.writer.store(io.BytesIO(data), len(data))
        self.tree.add(path, node)
        return node

    def finish(self) -> Path:
        self.writer.finish(self.tree)
        self.writer.close()
        check(self.path)
        return self.path


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


def test_an_empty_file_system(made: Made) -> None:
    assert listed(made.finish()) == []


def test_contents_owners_modes_and_times(made: Made) -> None:
    data = os.urandom(3 * BLOCK + 5)
    made.file("a/b/file", data, 0o4750, owner=70000, group=100001, time=1_700_000_000)

    image = made.finish()

    assert content(image, "/a/b/file") == data
    shown = ask(image, "stat /a/b/file")
    assert "Mode:  04750" in shown
    assert "User: 70000" in shown and "Group: 100001" in shown
    assert "mtime: 0x6553f100" in shown


def test_links_devices_and_pipes(made: Made) -> None:
    made.tree.add("short", symlink("a/b"))
    made.tree.add("long", symlink("x" * 200))
    made.tree.add("null", Node(stat.S_IFCHR | 0o666, device=(1, 3)))
    made.tree.add("large", Node(stat.S_IFBLK | 0o660, device=(259, 70000)))
    made.tree.add("pipe", Node(stat.S_IFIFO | 0o600))
    made.tree.add("socket", Node(stat.S_IFSOCK | 0o600))

    image = made.finish()

    assert 'Fast link dest: "a/b"' in ask(image, "stat /short")
    assert content(image, "/long") == b"x" * 200
    assert "Device major/minor number: 01:03" in ask(image, "stat /null")
    assert "Device major/minor number: 259:70000" in ask(image, "stat /large")
    assert "Type: FIFO" in ask(image, "stat /pipe")


def test_a_file_of_several_names_has_one_inode(made: Made) -> None:
    node = made.file("one", b"data")
    made.tree.add("d/two", node)

    assert "Links: 2" in ask(made.finish(), "stat /d/two")


def test_a_directory_of_many_blocks(made: Made) -> None:
    names = [f"{number:04}-{'n' * 200}" for number in range(500)]
    for name in names:
        made.file(f"d/{name}", b"")

    assert listed(made.finish(), "/d") == names


def test_a_file_of_many_extents(tmp_path: Path) -> None:
    made = Made(tmp_path, 12 * GROUP_BYTES)
    node = Node(stat.S_IFREG | 0o644, size=6 * GROUP_BYTES)
    with Path("/dev/zero").open("rb") as zeros:
        node.extents = made.writer.store(zeros, node.size)
    made.tree.add("big", node)

    image = made.finish()

    assert len(node.extents) > 4
    assert "Size: 805306368" in ask(image, "stat /big")
    assert image.stat().st_blocks * 512 < 16 << 20


def test_zeros_take_no_room_on_the_host(made: Made) -> None:
    made.file("zeros", bytes(32 << 20))

    assert made.finish().stat().st_blocks * 512 < 1 << 20


def test_attributes(made: Made) -> None:
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    made.file("ping", b"", attributes={"security.capability": capability, "user.a": b"1"})
    made.file("much", b"", attributes={"user.large": bytes(200)})

    shown = ask(made.finish(), "ea_list /ping", "ea_list /much")

    assert "security.capability" in shown and "user.a" in shown
    assert "user.large" not in shown


def test_blocks_of_removed_files_are_free(made: Made) -> None:
    made.file("gone", os.urandom(8 << 20))
    made.tree.remove("gone")
    used = ask(made.finish(), "stats")

    made_again = Made(made.path.parent)
    assert (
        used.split("Free blocks:")[1].split()[0]
        == (ask(made_again.finish(), "stats").split("Free blocks:")[1].split()[0])
    )


def test_the_same_input_gives_the_same_image(tmp_path: Path) -> None:
    images = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        made = Made(tmp_path / name)
        made.tree.add("d", directory())
        made.file("d/f", b"data")
        images.append(made.finish().read_bytes())

    assert images[0] == images[1]


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    made = Made(tmp_path)
    with pytest.raises(ImageError, match="the files do not fit into an image of 128 MiB"):
        made.writer.store(io.BytesIO(), GROUP_BYTES)
    made.writer.close()


def test_contents_that_end_too_early(made: Made) -> None:
    with pytest.raises(ImageError, match="last 4 bytes are missing"):
        made.writer.store(io.BytesIO(b"data"), 8)
    made.writer.close()


@pytest.mark.parametrize("size", [0, 1 << 50])
def test_sizes_that_no_image_has(tmp_path: Path, size: int) -> None:
    with pytest.raises(ImageError, match="no image can have"):
        Ext4Writer(tmp_path / "image", size)
