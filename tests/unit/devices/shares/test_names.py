"""Names in a shared directory: what leads to a file is made, changed and removed."""

import errno
import os
import stat
from pathlib import Path

import pytest

from ringlet.devices.backends.shares import FileServer
from ringlet.devices.backends.shares import protocol as fuse
from tests.unit.devices.shares.kernel import Entry, Kernel, entries, refused, regular


def test_lookup_tells_what_the_host_says(guest: Kernel, root: Path) -> None:
    regular(root / "a", b"12345").chmod(0o640)
    os.utime(root / "a", ns=(1_000_000_001, -2_000_000_003))

    found = guest.lookup("a").attributes

    status = (root / "a").stat()
    assert (found.ino, found.size, found.mode) == (status.st_ino, 5, stat.S_IFREG | 0o640)
    assert (found.atime, found.mtime) == ((1, 1), (-3, 999_999_997))
    assert (found.links, found.user, found.group) == (1, 0, 0)


def test_missing_name_is_an_entry_without_an_inode_which_the_guest_keeps(guest: Kernel) -> None:
    reply = guest.call(fuse.LOOKUP, 1, b"none\0")

    assert fuse.ENTRY_OUT.unpack(reply)[:4] == (0, 0, 1, 1)


def test_two_names_of_one_file_are_one_inode(guest: Kernel, root: Path) -> None:
    regular(root / "a")
    (root / "b").hardlink_to(root / "a")

    assert guest.lookup("a").node == guest.lookup("b").node


def test_file_of_another_type_with_the_same_number_is_another_inode(
    guest: Kernel, root: Path
) -> None:
    """As when the host's file system gives a number to a new file at once."""
    link = guest.symlink("x", "a").node
    os.utime(root / "a", ns=(5, 5), follow_symlinks=False)

    assert guest.lookup("a").node != link
    assert refused(lambda: guest.stat(link)) == errno.ESTALE


def test_inode_is_gone_only_when_every_lookup_is_forgotten(guest: Kernel, root: Path) -> None:
    regular(root / "a")
    for _ in range(3):
        node = guest.lookup("a").node

    guest.forget(node, 2)
    assert guest.stat(node).size == 0

    guest.forget(node)
    assert refused(lambda: guest.stat(node)) == errno.ESTALE


def test_many_inodes_are_forgotten_at_once(guest: Kernel, root: Path) -> None:
    nodes = [guest.mkdir(name).node for name in ("a", "b")]
    pairs = b"".join(fuse.FORGET_ONE.pack(node, 1) for node in nodes)

    assert guest.send(fuse.BATCH_FORGET, 0, fuse.BATCH_FORGET_IN.pack(2) + pairs) == b""

    assert [refused(guest.stat, node) for node in nodes] == [errno.ESTALE] * 2


def test_file_is_found_through_a_directory_that_was_forgotten(guest: Kernel, root: Path) -> None:
    directory = guest.mkdir("d").node
    file = guest.mknod("f", stat.S_IFREG | 0o600, directory).node
    guest.forget(directory)

    assert guest.stat(file).mode == stat.S_IFREG | 0o600
    guest.forget(file)
    assert refused(lambda: guest.stat(directory)) == errno.ESTALE


def test_modes_are_the_guests_whatever_the_hosts_mask(root: Path) -> None:
    before = os.umask(0o077)
    try:
        guest = Kernel(FileServer(root, read_only=False, trouble=print))
        guest.mkdir("d", mode=0o775)
        guest.mknod("n", stat.S_IFREG | 0o666)
        _, number = guest.create("f", mode=0o664)
        guest.release(number)
    finally:
        os.umask(before)

    assert [stat.S_IMODE((root / n).stat().st_mode) for n in "dnf"] == [0o775, 0o666, 0o664]


def test_symbolic_link_holds_what_the_guest_wrote(guest: Kernel, root: Path) -> None:
    node = guest.symlink("/etc/passwd", "l").node

    assert (root / "l").readlink() == Path("/etc/passwd")
    assert guest.readlink(node) == b"/etc/passwd"
    assert refused(lambda: guest.readlink(guest.mkdir("d").node)) == errno.EINVAL


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFSOCK])
def test_fifos_and_sockets_are_made_for_the_guest(guest: Kernel, root: Path, kind: int) -> None:
    entry = guest.mknod("n", kind | 0o600)

    assert stat.S_IFMT((root / "n").stat().st_mode) == kind
    assert refused(lambda: guest.open(entry.node)) == errno.EPERM


def test_link_adds_a_name(guest: Kernel, root: Path) -> None:
    regular(root / "a", b"x")
    node = guest.lookup("a").node

    entry = guest.link(node, "b")

    assert (entry.node, entry.attributes.links) == (node, 2)
    assert (root / "b").samefile(root / "a")


def test_link_to_a_symbolic_link_is_one_itself(guest: Kernel, root: Path) -> None:
    node = guest.symlink("nowhere", "l").node

    guest.link(node, "m")

    assert (root / "m").readlink() == Path("nowhere")


def test_other_name_of_a_removed_one_goes_on(guest: Kernel, root: Path) -> None:
    regular(root / "a", b"x")
    (root / "b").hardlink_to(root / "a")
    node = guest.lookup("b").node
    guest.lookup("a")

    guest.unlink("a")

    assert guest.stat(node).links == 1
    assert guest.lookup("b").node == node


def test_file_without_a_name_is_there_as_long_as_it_is_open(guest: Kernel, root: Path) -> None:
    entry, number = guest.create("a")
    guest.unlink("a")
    guest.write(number, 0, b"abc")

    assert guest.stat(entry.node).size == 3
    assert guest.setattr(entry.node, fuse.FATTR_MODE, mode=0o600).mode == stat.S_IFREG | 0o600
    guest.release(number)
    assert refused(lambda: guest.stat(entry.node)) == errno.ESTALE


def test_new_file_is_not_the_removed_one_with_its_number(guest: Kernel, root: Path) -> None:
    old, number = guest.create("a")
    guest.unlink("a")
    guest.release(number)
    new, _ = guest.create("a")

    assert new.node != old.node


def test_rename_moves_the_inode_and_what_is_below_it(guest: Kernel, root: Path) -> None:
    old, new = guest.mkdir("old").node, guest.mkdir("new").node
    file = guest.mknod("f", stat.S_IFREG | 0o600, old).node

    guest.rename("old", "moved", target=new)

    assert (root / "new" / "moved" / "f").exists()
    assert guest.stat(file).size == 0
    assert guest.walk("new/moved/f") == file


def test_rename_replaces(guest: Kernel, root: Path) -> None:
    regular(root / "a", b"a")
    replaced = guest.lookup(regular(root / "b", b"bb").name).node
    moved = guest.lookup("a").node

    guest.rename("a", "b")

    assert (root / "b").read_bytes() == b"a"
    assert guest.stat(moved).size == 1
    assert guest.lookup("b").node == moved
    assert refused(lambda: guest.stat(replaced)) == errno.ESTALE


def test_rename_of_one_name_of_a_file_to_another_leaves_both(guest: Kernel, root: Path) -> None:
    regular(root / "a")
    (root / "b").hardlink_to(root / "a")
    node = guest.lookup("a").node

    guest.rename("a", "b")

    assert guest.stat(node).links == 2


def test_rename_without_replacing_and_exchange(guest: Kernel, root: Path) -> None:
    a, b = (guest.mknod(name, stat.S_IFREG | 0o600).node for name in "ab")
    regular(root / "a", b"from a")

    assert refused(lambda: guest.rename("a", "b", flags=1)) == errno.EEXIST
    guest.rename("a", "b", flags=2)

    assert (root / "b").read_bytes() == b"from a"
    assert (guest.lookup("b").node, guest.lookup("a").node) == (a, b)
    assert refused(lambda: guest.rename("a", "c", flags=4)) == errno.EINVAL


def test_directory_cannot_be_moved_below_itself(guest: Kernel) -> None:
    directory = guest.mkdir("d").node

    assert refused(lambda: guest.rename("d", "x", target=directory)) == errno.EINVAL


@pytest.mark.parametrize(
    ("action", "code"),
    [
        (lambda k: k.unlink("d"), errno.EISDIR),
        (lambda k: k.rmdir("f"), errno.ENOTDIR),
        (lambda k: k.rmdir("d"), errno.ENOTEMPTY),
        (lambda k: k.mkdir("d"), errno.EEXIST),
        (lambda k: k.unlink("none"), errno.ENOENT),
        (lambda k: k.lookup("x", k.lookup("f").node), errno.ENOTDIR),
        (lambda k: k.lookup("n" * 256), errno.ENAMETOOLONG),
        (lambda k: k.link(k.lookup("d").node, "e"), errno.EPERM),
    ],
)
def test_errors_are_those_of_the_host(guest: Kernel, root: Path, action: object, code: int) -> None:
    (root / "d").mkdir()
    regular(root / "d" / "inside")
    regular(root / "f")

    assert refused(lambda: action(guest)) == code  # type: ignore[operator]  # a lambda above


def test_longest_name_and_bytes_that_are_no_text(guest: Kernel, root: Path) -> None:
    for name in (b"n" * 255, b"\xff\xfe\x80", b"a\nb\tc", "ä".encode()):
        entry = guest.mkdir(name)
        assert guest.lookup(name).node == entry.node

    assert os.fsdecode(b"\xff\xfe\x80") in entries(root)


def test_attributes_of_the_root_are_the_directorys(guest: Kernel, root: Path) -> None:
    assert guest.stat(fuse.ROOT_ID).ino == root.stat().st_ino
    assert isinstance(guest.mkdir("d"), Entry)
