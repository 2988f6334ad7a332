"""What a hostile guest or a hostile file reaches beside what it was given.

Each of these reached something once.
"""

import contextlib
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringlet.control.agent import tree
from ringlet.devices.backends.disks import describe_image
from ringlet.errors import DiskError, ImageError, RingletError
from ringlet.guest.protocol import END_OF_DIRECTORY, WORD, Entry
from ringlet.images.ext4 import Ext4Writer
from ringlet.images.tarball import add_tar
from ringlet.images.tree import Tree


def test_copying_a_shared_directory_in_follows_no_link_of_the_guest(tmp_path: Path) -> None:
    share, secret = tmp_path / "share", tmp_path / "secret"
    (share / "a").mkdir(parents=True)
    secret.mkdir()
    (share / "a" / "0big").write_bytes(b"x" * 4_000_000)
    (share / "a" / "shadow").write_bytes(b"bait")
    (secret / "shadow").write_bytes(b"of the host")
    sent = bytearray()
    for number, part in enumerate(tree.packed(share, tree.root_entry(share))):
        sent += part
        if number == 2:  # the guest takes nothing for a while, and changes its share meanwhile
            (share / "a").rename(share / "b")
            (share / "a").symlink_to(secret)

    assert b"of the host" not in sent


def _entry(name: bytes, mode: int, links: int = 1, inode: int = 0) -> bytes:
    return Entry(name, mode, links=links, inode=inode, device=1).encode()


def test_copying_out_into_a_shared_directory_links_to_nothing_else(tmp_path: Path) -> None:
    share, secret = tmp_path / "share", tmp_path / "secret"
    share.mkdir()
    secret.mkdir()
    (secret / "key").write_bytes(b"of the host")

    def parts() -> Iterator[bytearray]:
        yield bytearray(
            _entry(b"r", stat.S_IFDIR | 0o755) + _entry(b"a", stat.S_IFDIR | 0o755)
            + _entry(b"key", stat.S_IFREG | 0o644, 2, 7) + WORD.pack(0) + END_OF_DIRECTORY
        )  # fmt: skip
        (share / "r" / "a").rename(share / "r" / "b")
        (share / "r" / "a").symlink_to(secret)
        yield bytearray(
            _entry(b"loot", stat.S_IFREG | 0o644, 2, 7) + WORD.pack(0) + END_OF_DIRECTORY
        )

    with contextlib.suppress(OSError, RingletError):
        tree.unpack(parts(), share, "r", 1 << 20)

    loot = share / "r" / "loot"
    assert not loot.exists() or loot.read_bytes() != b"of the host"


def test_a_backing_file_in_the_same_directory_is_no_link_out_of_it(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"x" * 4096)
    images = tmp_path / "images"
    images.mkdir()
    (images / "base").symlink_to(tmp_path / "secret")
    image = images / "x.qcow2"
    header = bytearray(1 << 16)
    header[:32] = b"QFI\xfb" + bytes.fromhex("00000002 0000000000000100 00000004 00000010") + (
        1 << 20
    ).to_bytes(8, "big")
    header[0x100:0x104] = b"base"
    image.write_bytes(header)

    with pytest.raises(DiskError):
        describe_image(image)


@pytest.mark.parametrize("kind", ["recursion", "sparse"])
def test_hostile_headers_of_archives_are_one_line(tmp_path: Path, kind: str) -> None:
    if kind == "recursion":
        data = _pax() * 1200 + bytes(1024)
    else:
        head = bytearray(tarfile.TarInfo("f").tobuf(tarfile.GNU_FORMAT))
        head[156:157] = b"S"
        head[482] = 1
        total = sum(head[:148]) + 8 * 32 + sum(head[156:])
        head[148:156] = b"%06o\0 " % total
        data = bytes(head)
    path = tmp_path / "t.tar"
    path.write_bytes(data)
    writer = Ext4Writer(tmp_path / "disk", 64 << 20)
    try:
        with path.open("rb") as source, pytest.raises(ImageError):
            add_tar(source, "t", Tree(), writer)
    finally:
        writer.close()


def _pax() -> bytes:
    head = tarfile.TarInfo("p")
    head.type, head.size = tarfile.XHDTYPE, 8
    return head.tobuf(tarfile.GNU_FORMAT) + b"8 a=bcd\n".ljust(512, b"\0")
