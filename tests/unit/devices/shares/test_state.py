"""A share's state is saved and restored with its guest."""

import copy
import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from ringlet.devices.backends.shares import FileServer, ShareState
from ringlet.devices.backends.shares.state import InodeState
from ringlet.errors import ConfigError
from tests.unit.devices.shares.kernel import Kernel, refused, regular


def restored(guest: Kernel, root: Path, state: ShareState, told: list[str]) -> Kernel:
    """Return the guest as it goes on with another server."""
    server = FileServer(root, read_only=False, trouble=told.append)
    server.restore(copy.deepcopy(state))
    again = copy.copy(guest)
    again.server = server
    return again


def test_guest_goes_on_with_its_inodes_and_open_files(
    guest: Kernel, root: Path, told: list[str]
) -> None:
    directory = guest.mkdir("d").node
    entry, number = guest.create("f", parent=directory)
    link = guest.symlink("x", "l").node
    guest.write(number, 0, b"before")
    appended = guest.open(entry.node, os.O_WRONLY | os.O_APPEND)
    guest.forget(directory)
    state = guest.server.save()
    guest.server.close()

    again = restored(guest, root, state, told)
    again.write(number, 3, b"ORE!")
    again.write(appended, 0, b"end")

    assert again.read(number, 0, 100) == b"befORE!end"
    assert again.stat(entry.node).size == 10
    assert again.readlink(link) == b"x"
    assert again.lookup("l").node == link
    assert again.mkdir("new").node > entry.node
    assert again.open(entry.node) > appended
    assert again.server.save().inodes[: len(state.inodes)]
    assert told == []
    again.server.close()


def test_state_is_the_same_after_a_round_trip(guest: Kernel, root: Path, told: list[str]) -> None:
    node = 1
    for name in "abc":
        node = guest.mkdir(name, node).node
    guest.opendir(node)
    guest.rename("a", "z")
    state = guest.server.save()

    assert restored(guest, root, state, told).server.save() == state


def test_files_that_are_gone_are_stale_and_told(guest: Kernel, root: Path, told: list[str]) -> None:
    entry, number = guest.create("f")
    unlinked, _ = guest.create("g")
    guest.unlink("g")
    other = guest.mknod("h", stat.S_IFREG | 0o600).node
    state = guest.server.save()
    (root / "f").unlink()
    (root / "h").unlink()
    (root / "h").mkdir()

    again = restored(guest, root, state, told)

    codes = [refused(again.stat, node) for node in (entry.node, unlinked.node, other)]
    assert codes == [errno.ESTALE] * 3
    assert refused(lambda: again.read(number, 0, 1)) == errno.EBADF
    assert told == [
        f"shared directory {root}: 2 of the files that the guest had open are not there any more"
    ]
    again.server.close()


def test_directory_may_have_moved_to_another_host(
    guest: Kernel, root: Path, told: list[str]
) -> None:
    node = guest.mkdir("d").node
    state = guest.server.save()
    elsewhere = root.parent / "copy"
    (elsewhere / "d").mkdir(parents=True)
    regular(elsewhere / "d" / "inside")

    again = restored(guest, elsewhere, state, told)

    assert again.lookup("inside", node).attributes.size == 0
    again.server.close()


DAMAGES: list[Callable[[InodeState], None]] = [
    lambda one: setattr(one, "name", b".."),
    lambda one: setattr(one, "name", b"a/b"),
    lambda one: setattr(one, "parent", 77),
    lambda one: setattr(one, "parent", one.nodeid),
    lambda one: setattr(one, "nodeid", 1),
    lambda one: setattr(one, "nodeid", 1 << 40),
    lambda one: setattr(one, "kind", 0),
    lambda one: setattr(one, "lookups", -1),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_state_is_refused(
    guest: Kernel, root: Path, told: list[str], damage: Callable[[InodeState], None]
) -> None:
    guest.mkdir("d")
    state = guest.server.save()
    damage(state.inodes[0])

    with pytest.raises(ConfigError, match=r"saved state of the shared directory .* is damaged"):
        restored(guest, root, state, told)


def test_handles_of_a_damaged_state_are_refused(guest: Kernel, root: Path, told: list[str]) -> None:
    guest.create("f")
    state = guest.server.save()
    state.handles[0].number = state.next_handle

    with pytest.raises(ConfigError, match="damaged"):
        restored(guest, root, state, told)
