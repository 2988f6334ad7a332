"""Listings of shared directories."""

import errno
import os
import stat
from pathlib import Path
from struct import pack

import pytest

from ringlet.devices.backends.shares import FileServer
from ringlet.devices.backends.shares import protocol as fuse
from tests.unit.devices.shares.kernel import Kernel, descriptors, refused, regular

MANY = 1000


def filled(root: Path) -> set[bytes]:
    names = {f"file{i:04}" for i in range(MANY)}
    for name in names:
        regular(root / name)
    return {b".", b".."} | {name.encode() for name in names}


@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize("room", [400, 4096, 1 << 20])
def test_every_name_is_listed_once(guest: Kernel, root: Path, plus: bool, room: int) -> None:
    names = filled(root)

    listed = [one.name for one in guest.list(plus=plus, room=room)]

    assert len(listed) == len(names)
    assert set(listed) == names


def test_listing_goes_on_behind_an_offset(guest: Kernel, root: Path) -> None:
    filled(root)
    listed = list(guest.list())

    for index in (0, 1, 500, MANY):
        rest = [one.name for one in guest.list(offset=listed[index].offset)]
        assert rest == [one.name for one in listed[index + 1 :]]


def test_names_that_stay_are_listed_while_others_go(guest: Kernel, root: Path) -> None:
    names = filled(root)
    gone = set()
    listed = set()

    for number, one in enumerate(guest.list(room=1024)):
        listed.add(one.name)
        if number % 3 == 0 and one.name.startswith(b"file"):
            gone.add(one.name)
            guest.unlink(one.name)

    assert names - gone <= listed


def test_types_are_those_of_the_host(guest: Kernel, root: Path) -> None:
    (root / "d").mkdir()
    (root / "l").symlink_to("d")
    regular(root / "f")

    kinds = {one.name: one.kind << 12 for one in guest.list()}

    assert kinds == {
        b".": stat.S_IFDIR, b"..": stat.S_IFDIR, b"d": stat.S_IFDIR, b"l": stat.S_IFLNK,
        b"f": stat.S_IFREG,
    }  # fmt: skip


def test_listing_with_attributes_tells_of_inodes(guest: Kernel, root: Path) -> None:
    (root / "d").mkdir()
    regular(root / "f", b"123")

    entries = {one.name: one.entry for one in guest.list(plus=True)}

    file, directory = entries[b"f"], entries[b"d"]
    assert file is not None
    assert directory is not None
    assert file.attributes.size == 3
    assert guest.lookup("f").node == file.node
    guest.forget(file.node, 2)
    assert refused(lambda: guest.stat(file.node)) == errno.ESTALE
    assert [entries[name].node for name in (b".", b"..")] == [0, 0]  # type: ignore[union-attr]


def test_parent_of_the_share_is_not_told(guest: Kernel, root: Path) -> None:
    parent = next(one.entry for one in guest.list(plus=True) if one.name == b"..")

    assert parent is not None
    assert parent.attributes.ino == 0


def test_names_without_room_are_for_the_next_request(guest: Kernel, root: Path) -> None:
    regular(root / ("n" * 255))
    number = guest.opendir()
    body = pack("<QQI20x", number, 0, 100)

    first = guest.call(fuse.READDIRPLUS, 1, body, room=100)

    assert first == b""  # as the protocol has no error for it
    assert refused(lambda: guest.call(fuse.READDIR, 1, pack("<QQI20x", 99, 0, 0))) == errno.EBADF


def test_directory_and_file_handles_are_told_apart(guest: Kernel, root: Path) -> None:
    _, file = guest.create("f")
    listing = guest.opendir()

    assert refused(lambda: guest.read(listing, 0, 10)) == errno.EBADF
    body = pack("<QQI20x", file, 0, 4096)
    assert refused(lambda: guest.call(fuse.READDIR, 1, body)) == errno.EBADF
    assert refused(lambda: guest.opendir(guest.lookup("f").node)) == errno.ENOTDIR


def test_removed_directory_lists_nothing(guest: Kernel, root: Path) -> None:
    node = guest.mkdir("d").node
    number = guest.opendir(node)
    guest.rmdir("d")

    body = pack("<QQI20x", number, 0, 4096)

    assert refused(lambda: guest.call(fuse.READDIR, node, body)) == errno.ENOENT
    assert guest.stat(node).links == 0


def test_removed_share_is_told_once_and_the_guest_goes_on(
    guest: Kernel, root: Path, told: list[str]
) -> None:
    os.rmdir(root)  # noqa: PTH106

    codes = [refused(lambda: list(guest.list())), refused(lambda: guest.lookup("a"))]
    codes.append(refused(lambda: guest.mkdir("a")))

    assert codes == [errno.ENOENT] * 3
    assert guest.stat(1).links == 0
    assert told == [f"shared directory {root}: it was removed; the guest goes on without it"]


def test_descriptor_shortage_closes_what_can_be_opened_again(
    root: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = Kernel(FileServer(root, read_only=False, trouble=told.append))
    nodes = [guest.mkdir(f"d{i}").node for i in range(20)]
    for node in nodes:
        guest.mkdir("x", node)
    before = descriptors()
    opened = os.open

    def none_left(*_: object, **__: object) -> int:
        raise OSError(errno.EMFILE, "too many")

    monkeypatch.setattr("os.open", none_left)
    assert refused(guest.opendir) == errno.EMFILE
    monkeypatch.setattr("os.open", opened)

    assert descriptors() <= before - 20
    assert guest.stat(nodes[0]).links == 3
    assert "ulimit -n" in told[0]
    guest.server.close()
