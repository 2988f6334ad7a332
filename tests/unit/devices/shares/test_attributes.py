"""Attributes of shared files: modes, times, sizes, owners, extended attributes."""

import errno
import os
import stat
from pathlib import Path
from struct import pack

import pytest

from ringlet.devices.backends.shares import FileServer
from ringlet.devices.backends.shares import protocol as fuse
from ringlet.devices.backends.shares.owners import NOBODY, UNCHANGED, Owners
from tests.unit.devices.shares.kernel import Kernel, Refused, refused, regular


def test_mode_size_and_times_are_set(guest: Kernel, root: Path) -> None:
    path = regular(root / "a", b"12345")
    node = guest.lookup("a").node

    every = fuse.FATTR_MODE | fuse.FATTR_SIZE | fuse.FATTR_ATIME | fuse.FATTR_MTIME
    found = guest.setattr(
        node, every, mode=0o1640, size=3, atime=1, atimensec=2, mtime=-3, mtimensec=4
    )

    assert (found.mode, found.size) == (stat.S_IFREG | 0o1640, 3)
    assert (found.atime, found.mtime) == ((1, 2), (-3, 4))
    assert path.stat().st_mtime_ns == -3_000_000_000 + 4


def test_one_time_is_set_and_the_other_kept(guest: Kernel, root: Path) -> None:
    path = regular(root / "a")
    os.utime(path, ns=(1000, 2000))
    node = guest.lookup("a").node

    assert guest.setattr(node, fuse.FATTR_ATIME, atime=9).mtime == (0, 2000)
    now = guest.setattr(node, fuse.FATTR_MTIME | fuse.FATTR_MTIME_NOW)

    assert now.atime == (9, 0)
    assert now.mtime[0] > 1_000_000_000
    wrong = {"mtime": 1, "mtimensec": 1_000_000_000}
    assert refused(lambda: guest.setattr(node, fuse.FATTR_MTIME, **wrong)) == errno.EINVAL


def test_times_of_a_link_are_its_own(guest: Kernel, root: Path) -> None:
    regular(root / "a")
    os.utime(root / "a", (7, 7))
    node = guest.symlink("a", "l").node

    guest.setattr(node, fuse.FATTR_MTIME, mtime=5)

    assert (root / "l").lstat().st_mtime == 5
    assert (root / "a").stat().st_mtime == 7
    assert guest.lookup("l").node == node


def test_size_is_set_through_a_handle_without_permission(guest: Kernel, root: Path) -> None:
    entry, number = guest.create("a", mode=0o400)

    found = guest.setattr(entry.node, fuse.FATTR_SIZE | fuse.FATTR_FH, fh=number, size=10)

    assert found.size == 10
    other, _ = guest.create("b")
    wrong = fuse.FATTR_SIZE | fuse.FATTR_FH
    assert refused(lambda: guest.setattr(other.node, wrong, fh=number, size=1)) == errno.EBADF


def test_size_of_a_directory_is_not_set(guest: Kernel) -> None:
    node = guest.mkdir("d").node

    assert refused(lambda: guest.setattr(node, fuse.FATTR_SIZE, size=0)) == errno.EISDIR


def test_file_system_has_the_hosts_numbers(guest: Kernel, root: Path) -> None:
    numbers = fuse.STATFS_OUT.unpack(guest.call(fuse.STATFS, 1))

    status = os.statvfs(root)
    assert numbers[0] == status.f_blocks
    assert numbers[5:] == (status.f_bsize, status.f_namemax, status.f_frsize)


def test_access_is_checked(guest: Kernel, root: Path) -> None:
    regular(root / "a").chmod(0o644)
    node = guest.lookup("a").node

    def access(mask: int) -> int:
        return refused(lambda: guest.call(fuse.ACCESS, node, pack("<II", mask, 0)))

    assert (access(os.R_OK), access(os.X_OK), access(8)) == (0, errno.EACCES, errno.EINVAL)


# Extended attributes


def test_attributes_of_users_are_kept_on_the_host(guest: Kernel, root: Path) -> None:
    path = regular(root / "a")
    node = guest.lookup("a").node

    guest.setxattr(node, "user.x", b"value")

    assert os.getxattr(path, "user.x") == b"value"
    assert guest.getxattr(node, "user.x") == b"value"
    assert fuse.GETXATTR_OUT.unpack(guest.getxattr(node, "user.x", 0)) == (5,)
    assert refused(lambda: guest.getxattr(node, "user.x", 4)) == errno.ERANGE
    assert guest.call(fuse.LISTXATTR, node, pack("<II", 100, 0)) == b"user.x\0"
    assert refused(lambda: guest.setxattr(node, "user.x", b"", 1)) == errno.EEXIST
    guest.call(fuse.REMOVEXATTR, node, b"user.x\0")
    assert refused(lambda: guest.getxattr(node, "user.x")) == errno.ENODATA


def test_other_name_spaces_are_the_hosts(guest: Kernel, root: Path) -> None:
    regular(root / "a")
    node = guest.lookup("a").node

    assert refused(lambda: guest.getxattr(node, "security.capability")) == errno.ENODATA
    assert refused(lambda: guest.getxattr(node, "security.selinux")) == errno.EOPNOTSUPP
    link = guest.symlink("a", "l").node
    assert guest.call(fuse.LISTXATTR, link, pack("<II", 100, 0)) == b""
    wrong = pack("<II", 9, 0) + b"user.x\0" + b"short"
    assert refused(lambda: guest.call(fuse.SETXATTR, node, wrong)) == errno.EINVAL
    huge = pack("<II", 65537, 0) + b"user.x\0" + bytes(65537)
    assert refused(lambda: guest.call(fuse.SETXATTR, node, huge)) == errno.EINVAL


def test_share_may_be_without_them(root: Path) -> None:
    guest = Kernel(FileServer(root, read_only=False, trouble=print, xattrs=False))

    codes = {
        refused(guest.call, opcode, 1, pack("<II", 0, 0) + b"user.x\0")
        for opcode in (fuse.SETXATTR, fuse.GETXATTR, fuse.LISTXATTR, fuse.REMOVEXATTR)
    }

    assert codes == {errno.ENOSYS}
    guest.server.close()


# Owners


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server takes itself for that of an ordinary user."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("os.getegid", lambda: 100)


@pytest.mark.parametrize(
    ("host", "guest"), [(1000, 0), (0, NOBODY), (1001, 1001), (NOBODY, NOBODY)]
)
def test_files_of_the_hosts_user_are_roots_in_the_guest(user: None, host: int, guest: int) -> None:
    owners = Owners()

    assert owners.user(host, host) == guest


def test_files_of_the_hosts_user_may_be_another_users_in_the_guest(user: None) -> None:
    owners = Owners((1001, 50))

    assert [owners.user(n, n) for n in (1000, 1001, 0)] == [1001, NOBODY, 0]
    assert [owners.group(n, n) for n in (100, 50)] == [50, NOBODY]


def test_change_of_owner_to_the_one_it_is_succeeds(
    user: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = []
    monkeypatch.setattr("os.chown", lambda *arguments: done.append(arguments))
    owners = Owners()

    owners.change(b"p", 0, 0)
    owners.change(b"p", UNCHANGED, 0)
    owners.change(b"p", 5, 6)

    assert done == [(b"p", 1000, 100), (b"p", -1, 100), (b"p", 5, 6)]
    for refused_user in (NOBODY, 1000):
        with pytest.raises(PermissionError):
            owners.change(b"p", refused_user, UNCHANGED)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_server_of_root_gives_new_files_to_the_guests_user(guest: Kernel, root: Path) -> None:
    guest.user, guest.group = 1234, 5678
    guest.mkdir("d")
    guest.create("f")
    entry = guest.symlink("x", "l")
    os.chown(root / "d", 1, 77)
    (root / "d").chmod(0o2777)
    guest.mknod("g", stat.S_IFREG | 0o600, guest.lookup("d").node)

    assert (entry.attributes.user, entry.attributes.group) == (1234, 5678)
    owners = [(root / name).lstat() for name in ("f", "l", "d/g")]
    assert [(o.st_uid, o.st_gid) for o in owners] == [(1234, 5678), (1234, 5678), (1234, 77)]
    guest.setattr(entry.node, fuse.FATTR_UID | fuse.FATTR_GID, uid=9, gid=8)
    assert (root / "l").lstat().st_uid == 9


@pytest.mark.parametrize("code", [errno.EPERM, errno.EINVAL])
def test_file_that_cannot_be_given_away_stays_the_servers(
    guest: Kernel, root: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def denied(*_: object, **__: object) -> None:
        raise OSError(code, "denied")

    monkeypatch.setattr(guest.server._share.owners, "privileged", True)
    monkeypatch.setattr("os.chown", denied)
    guest.user = 1234

    assert guest.mkdir("d").node
    assert (root / "d").stat().st_uid == os.geteuid()


# Versions


def test_older_kernels_get_their_version(server: FileServer) -> None:
    assert Kernel(server, minor=31).flags
    with pytest.raises(Refused) as error:
        Kernel(server, minor=30)
    assert error.value.code == errno.EPROTO


def test_only_flags_that_the_guest_has_are_agreed_on(server: FileServer) -> None:
    assert Kernel(server, flags=fuse.MAX_PAGES | fuse.POSIX_LOCKS).flags == fuse.MAX_PAGES


def test_new_mount_forgets_the_old_one(server: FileServer, root: Path) -> None:
    guest = Kernel(server)
    entry, number = guest.create("a")

    again = Kernel(server)

    assert refused(lambda: again.stat(entry.node)) == errno.ESTALE
    assert refused(lambda: again.read(number, 0, 1)) == errno.EBADF
    assert again.call(fuse.DESTROY, 0) == b""
