"""A hostile guest: whatever it sends reaches nothing outside of the directory, and no device."""

import errno
import os
import random
import stat
import threading
from pathlib import Path
from struct import pack

import pytest

from ringlet.devices.backends.shares import FileServer, host
from ringlet.devices.backends.shares import protocol as fuse
from ringlet.devices.backends.shares.inodes import Descriptor
from ringlet.errors import ConfigError
from tests.unit.devices.shares.kernel import (
    REQUESTS,
    Kernel,
    Refused,
    descriptors,
    entries,
    refused,
    regular,
    scattered,
    scattered_into,
)

OPCODES = [getattr(fuse, name) for name in REQUESTS]
SECRET = b"of the host"


@pytest.fixture
def secret(root: Path) -> Path:
    """A file beside the shared directory."""
    return regular(root.parent / "secret", SECRET)


@pytest.mark.parametrize(
    "name", [b"", b".", b"..", b"../secret", b"/etc/passwd", b"d/..", b"d/../../secret", b"d/"]
)
def test_names_that_lead_elsewhere_are_refused_everywhere(
    guest: Kernel, root: Path, secret: Path, name: bytes
) -> None:
    guest.mkdir("d")
    node = guest.mknod("f", stat.S_IFREG | 0o600).node

    codes = {
        refused(action)
        for action in (
            lambda: guest.lookup(name),
            lambda: guest.mkdir(name),
            lambda: guest.mknod(name, stat.S_IFREG | 0o600),
            lambda: guest.symlink("x", name),
            lambda: guest.link(node, name),
            lambda: guest.create(name),
            lambda: guest.unlink(name),
            lambda: guest.rmdir(name),
            lambda: guest.rename(name, "new"),
            lambda: guest.rename("f", name),
            lambda: guest.rename("f", name, flags=2),
        )
    }

    assert codes == {errno.EINVAL}
    assert secret.read_bytes() == SECRET


def test_no_link_is_followed_on_the_host(guest: Kernel, root: Path, secret: Path) -> None:
    (root / "file").symlink_to(secret)
    (root / "up").symlink_to("..")
    file, up = guest.lookup("file").node, guest.lookup("up").node

    assert refused(lambda: guest.open(file)) == errno.EPERM
    assert refused(lambda: guest.lookup("secret", up)) == errno.ENOTDIR
    assert refused(lambda: guest.opendir(up)) == errno.ENOTDIR
    assert refused(lambda: guest.create("file")) == errno.EPERM
    assert refused(lambda: guest.setattr(file, fuse.FATTR_SIZE, size=0)) == errno.EINVAL
    assert refused(lambda: guest.setattr(file, fuse.FATTR_MODE, mode=0o777)) == errno.EOPNOTSUPP
    guest.setattr(file, fuse.FATTR_MTIME, mtime=5)
    assert refused(lambda: guest.setxattr(file, "user.x", b"1")) == errno.EOPNOTSUPP
    assert refused(lambda: guest.getxattr(file, "user.x")) == errno.ENODATA
    assert secret.read_bytes() == SECRET
    assert secret.stat().st_mtime != 5


def test_link_in_place_of_a_file_or_directory_is_not_followed(
    guest: Kernel, root: Path, secret: Path
) -> None:
    """The host, or another guest, replaces what the guest has looked up."""
    file = guest.mknod("f", stat.S_IFREG | 0o600).node
    directory = guest.mkdir("d").node
    guest.server._share.inodes.close_unused()
    (root / "f").rename(root / "g")
    (root / "f").symlink_to(secret)
    (root / "d").rename(root / "e")
    (root / "d").symlink_to("..")

    assert refused(lambda: guest.open(file, os.O_RDWR)) == errno.ESTALE
    assert refused(lambda: guest.setattr(file, fuse.FATTR_SIZE)) == errno.ESTALE
    assert refused(lambda: guest.setattr(file, fuse.FATTR_MODE, mode=0o777)) == errno.ESTALE
    assert refused(lambda: guest.lookup("secret", directory)) == errno.ESTALE
    assert secret.read_bytes() == SECRET


def test_races_with_links_never_open_the_hosts_file(root: Path, secret: Path) -> None:
    """A thread exchanges a file and a link all the time, as a second guest could."""
    regular(root / "plain", b"shared")
    (root / "link").symlink_to(secret)
    regular(root / "x", b"shared")
    stop = threading.Event()
    server = FileServer(root, read_only=False, trouble=print)
    guest, other = Kernel(server), Kernel(FileServer(root, read_only=False, trouble=print))

    def exchange() -> None:
        while not stop.is_set():
            other.rename("x", "link", flags=2)

    thread = threading.Thread(target=exchange)
    thread.start()
    opened = 0
    try:
        for _ in range(2000):
            try:
                number = guest.create("x", os.O_RDWR)[1]
            except Refused:
                continue
            opened += 1
            assert guest.read(number, 0, 100) == b"shared"
            guest.release(number)
    finally:
        stop.set()
        thread.join()
        server.close()
        other.server.close()
    assert opened
    assert secret.read_bytes() == SECRET


def test_directory_moved_out_of_the_share_leads_nowhere_up(
    guest: Kernel, root: Path, secret: Path
) -> None:
    inner = guest.mkdir("inner", guest.mkdir("d").node).node
    guest.opendir(inner)
    (root / "d").rename(root.parent / "outside")

    assert refused(lambda: guest.lookup("..", inner)) == errno.EINVAL
    assert refused(lambda: guest.lookup("outside")) == errno.ENOENT
    guest.server._share.inodes.close_unused()
    assert refused(lambda: guest.lookup("secret", inner)) == errno.ESTALE


def test_directories_that_the_host_moves_into_each_other_make_no_loop(
    guest: Kernel, root: Path
) -> None:
    outer = guest.mkdir("a").node
    inner = guest.mkdir("b", outer).node
    guest.release(guest.opendir(inner), fuse.RELEASEDIR)
    (root / "a" / "b").rename(root / "b")
    (root / "a").rename(root / "b" / "a")
    assert guest.lookup("a", inner).node == outer
    guest.server._share.inodes.close_unused()

    assert refused(guest.mkdir, "c", outer) == errno.ESTALE  # until the guest looks b up again
    assert guest.lookup("b").node == inner
    assert guest.mkdir("c", outer).attributes.links == 2
    for node, count in ((inner, 2), (outer, 2), (guest.lookup("c", outer).node, 2)):
        guest.forget(node, count)
    assert len(guest.server._share.inodes) == 1


def test_directory_is_not_in_itself_whatever_a_race_says(
    guest: Kernel, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host exchanges what the guest moves, just before it is moved."""
    node = guest.mkdir("d").node
    (root / "other").mkdir()
    real = os.rename

    def exchanged(*arguments: object, **options: object) -> None:
        real(root / "d", root / "inside")
        real(root / "other", root / "d")
        real(root / "inside", root / "other")
        real("d", "other/e", src_dir_fd=top, dst_dir_fd=top)

    top = os.open(root, os.O_PATH)
    guest.release(guest.opendir(node), fuse.RELEASEDIR)
    monkeypatch.setattr("os.rename", exchanged)
    guest.rename("d", "e", target=node)
    monkeypatch.undo()
    os.close(top)
    moved = guest.mkdir("moved").node
    (root / "moved").rename(root / "other" / "moved")

    assert guest.lookup("moved", node).node == moved  # its new parents are looked at
    guest.server._share.inodes.close_unused()
    assert guest.lookup("other").node == node
    assert guest.mkdir("f", guest.lookup("e", node).node).attributes.links == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make devices")
def test_devices_of_the_host_are_not_opened(guest: Kernel, root: Path) -> None:
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))

    entry = guest.lookup("null")

    assert stat.S_ISCHR(entry.attributes.mode)
    assert refused(lambda: guest.open(entry.node)) == errno.EPERM
    assert refused(lambda: guest.create("null")) == errno.EPERM
    for kind in (stat.S_IFCHR, stat.S_IFBLK):
        assert refused(guest.mknod, "n", kind | 0o600, rdev=0x103) == errno.EPERM


def test_only_files_and_directories_are_opened_anew(guest: Kernel, root: Path) -> None:
    """The last wall, whatever the server believes a descriptor to be."""
    os.mkfifo(root / "fifo")
    found = Descriptor(os.open(root / "fifo", os.O_PATH))

    with pytest.raises(PermissionError):
        guest.server._share.reopen(found, os.O_RDONLY)


def test_fifo_does_not_block(guest: Kernel, root: Path) -> None:
    os.mkfifo(root / "fifo")
    node = guest.lookup("fifo").node

    assert refused(lambda: guest.open(node)) == errno.EPERM
    assert refused(lambda: guest.create("fifo")) == errno.EPERM
    assert refused(lambda: guest.setattr(node, fuse.FATTR_SIZE)) == errno.EINVAL


def test_no_program_of_the_host_becomes_privileged(guest: Kernel, root: Path) -> None:
    entry, _ = guest.create("a", mode=0o6755)
    guest.setattr(entry.node, fuse.FATTR_MODE, mode=0o6755)
    guest.mknod("b", stat.S_IFREG | 0o4755)

    assert [stat.S_IMODE((root / n).stat().st_mode) for n in "ab"] == [0o755, 0o755]
    assert refused(lambda: guest.setxattr(entry.node, "security.capability", b"x")) == errno.EPERM
    for name in ("security.selinux", "trusted.x", "system.posix_acl_access"):
        assert refused(guest.setxattr, entry.node, name, b"x") == errno.EOPNOTSUPP


@pytest.mark.parametrize("path", ["/proc", "/proc/self", "/sys"])
def test_kernels_own_files_cannot_be_shared(path: str) -> None:
    with pytest.raises(ConfigError, match="host kernel's own"):
        FileServer(Path(path), read_only=True, trouble=print)


def test_kernels_own_files_are_not_reached_below_the_root() -> None:
    guest = Kernel(FileServer(Path("/"), read_only=True, trouble=print))

    assert refused(lambda: guest.lookup("proc")) == errno.ENOENT
    assert "etc" in {one.name.decode() for one in guest.list()}
    listed = {one.name: one.entry for one in guest.list(plus=True)}
    assert listed[b"proc"] is not None
    assert listed[b"proc"].node == 0
    guest.server.close()


@pytest.mark.parametrize("path", ["missing", "file"])
def test_what_is_no_directory_is_a_mistake_of_the_user(root: Path, path: str) -> None:
    regular(root / "file")

    with pytest.raises(ConfigError, match=f"cannot share .*{path}"):
        FileServer(root / path, read_only=True, trouble=print)


def test_read_only_share_refuses_every_change(reader: Kernel, root: Path) -> None:
    regular(root / "f", b"x")
    (root / "d").mkdir()
    node = reader.lookup("f").node
    number = reader.open(node)

    codes = {
        refused(action)
        for action in (
            lambda: reader.open(node, os.O_WRONLY),
            lambda: reader.open(node, os.O_RDWR),
            lambda: reader.open(node, os.O_RDONLY | os.O_TRUNC),
            lambda: reader.open(node, os.O_ACCMODE),
            lambda: reader.create("f", os.O_RDONLY),
            lambda: reader.write(number, 0, b"y"),
            lambda: reader.mkdir("n"),
            lambda: reader.mknod("n", stat.S_IFREG | 0o600),
            lambda: reader.symlink("x", "n"),
            lambda: reader.link(node, "n"),
            lambda: reader.unlink("f"),
            lambda: reader.rmdir("d"),
            lambda: reader.rename("f", "n"),
            lambda: reader.rename("f", "n", flags=1),
            lambda: reader.setattr(node, fuse.FATTR_MTIME),
            lambda: reader.setxattr(node, "user.x", b""),
            lambda: reader.call(fuse.REMOVEXATTR, node, b"user.x\0"),
            lambda: reader.call(fuse.FALLOCATE, node, pack("<QQQII", number, 0, 1, 0, 0)),
            lambda: reader.call(
                fuse.COPY_FILE_RANGE, node, fuse.COPY_IN.pack(number, 0, 1, number, 0, 1, 0)
            ),
            lambda: reader.call(fuse.ACCESS, node, pack("<II", os.W_OK, 0)),
        )
    }

    assert codes == {errno.EROFS}
    assert entries(root) == ["d", "f"]
    assert reader.read(number, 0, 9) == b"x"


# Malformed messages


@pytest.mark.parametrize("size", [0, 1, 39])
def test_request_without_a_whole_header_has_no_reply(guest: Kernel, size: int) -> None:
    reply = bytearray(64)

    assert guest.server.handle(scattered(bytes(size)), scattered_into(reply)) == 0


def test_unknown_opcodes_are_not_implemented(guest: Kernel) -> None:
    unknown = (0, 7, 19, 37, 40, 41, 48, 49, 51, 52, 53, 4096, 0xFFFFFFFF)

    codes = {refused(guest.call, opcode, 1, bytes(64)) for opcode in unknown}

    assert codes == {errno.ENOSYS}


@pytest.mark.parametrize("opcode", OPCODES)
@pytest.mark.parametrize("room", [0, 1, 15, 16, 17, 24, 4096])
def test_wrong_lengths_and_replies_without_room_are_survived(
    guest: Kernel, opcode: int, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "sync_filesystem", lambda fd: None)  # it takes long on a busy disk
    entry, number = guest.create("f")
    bodies = [
        b"", b"\0", bytes(7), bytes(8), bytes(40), b"\xff" * 8, b"\xff" * 64, b"n" * 100,
        pack("<QQII", number, 1 << 62, 0xFFFFFFFF, 0xFFFFFFFF) + bytes(16),
        pack("<QQII", number, 1 << 63, 0xFFFFFFFF, 0) + b"\xff" * 16,
        pack("<QQQQQQQ", number, 1 << 63, 1, number, 1 << 63, (1 << 64) - 1, 0),
    ]  # fmt: skip
    for body in bodies:
        for claimed in (0, 39, 40, 40 + len(body), 41 + len(body), 1 << 20, 0xFFFFFFFF):
            for node in (0, 1, entry.node, (1 << 64) - 1):
                header = fuse.IN_HEADER.pack(claimed, opcode, 5, node, 0, 0, 0, 0)
                reply = bytearray(room)
                size = guest.server.handle(
                    scattered(header + body, 8, 20), scattered_into(reply, min(room, 9))
                )
                assert 0 <= size <= room
                assert size == 0 or fuse.OUT_HEADER.unpack_from(reply)[0] == size


def test_header_that_changes_while_it_is_read_is_read_once(guest: Kernel, root: Path) -> None:
    """Only the copy is parsed: the name in guest memory is another one afterwards."""
    regular(root.parent / "secret")
    message = bytearray(fuse.IN_HEADER.pack(46, fuse.MKDIR, 5, 1, 0, 0, 0, 0) + bytes(8) + b"ab\0")
    message[0:4] = pack("<I", len(message))
    reply = bytearray(256)
    real = os.mkdir

    def change(name: bytes, *rest: object, **options: object) -> None:
        message[-3:-1] = b".."
        real(name, *rest, **options)  # type: ignore[arg-type]  # passed on as they are

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.mkdir", change)
        guest.server.handle([memoryview(message)], scattered_into(reply))

    assert entries(root) == ["ab"]


def test_data_that_is_not_there_is_not_written(guest: Kernel, root: Path) -> None:
    _, number = guest.create("f")

    for size in (2, 4097, 1 << 20, (1 << 20) + 1, 0xFFFFFFFF):
        body = pack("<QQII16x", number, 0, size, 0) + b"x"
        assert refused(guest.call, fuse.WRITE, 1, body) == errno.EINVAL
    assert (root / "f").read_bytes() == b""


@pytest.mark.parametrize("offset", [(1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_offsets_beyond_the_largest_file_are_errors(guest: Kernel, offset: int) -> None:
    _, number = guest.create("f")

    codes = {
        refused(lambda: guest.write(number, offset, b"xx")),
        refused(lambda: guest.read(number, offset, 10) and None),
        refused(lambda: list(guest.list(offset=offset))),
        refused(lambda: guest.setattr(1, fuse.FATTR_SIZE, size=offset)),
    }

    assert codes <= {0, errno.EINVAL, errno.EFBIG, errno.EISDIR}


def test_handles_and_inodes_that_are_not_the_guests_are_refused(guest: Kernel) -> None:
    _, number = guest.create("f")
    guest.release(number)

    for wrong in (0, number, number + 1, (1 << 64) - 1):
        assert refused(guest.release, wrong) == errno.EBADF
        assert refused(guest.read, wrong, 0, 1) == errno.EBADF
        assert refused(guest.write, wrong, 0, b"x") == errno.EBADF
    for wrong in (0, 77, (1 << 64) - 1):
        assert refused(guest.stat, wrong) == errno.ESTALE
        guest.forget(wrong, (1 << 64) - 1)


def test_forgetting_too_often_forgets_once(guest: Kernel, root: Path) -> None:
    node = guest.mkdir("d").node
    guest.forget(node, (1 << 64) - 1)
    guest.forget(node, 1)
    guest.forget(fuse.ROOT_ID, (1 << 64) - 1)

    assert guest.lookup("d").node != node
    assert guest.stat(fuse.ROOT_ID).ino == root.stat().st_ino


@pytest.mark.parametrize("offset", [1, 7, 12345678901, (1 << 63) - 1])
def test_offsets_that_no_listing_gave_are_survived(guest: Kernel, root: Path, offset: int) -> None:
    for i in range(100):
        regular(root / f"f{i}")

    assert refused(lambda: list(guest.list(offset=offset, plus=True))) in {0, errno.EINVAL}


def test_random_messages_leave_the_host_alone(root: Path, secret: Path, told: list[str]) -> None:
    """Messages with valid and wild fields: no exception, and nothing beside the share changes."""
    random_ = random.Random(18)
    server = FileServer(root, read_only=False, trouble=told.append)
    guest = Kernel(server)
    numbers = [0, 1, 2, 3, 4, 5, 40, 4096, 1 << 31, (1 << 32) - 1, 1 << 63, (1 << 64) - 1]
    names = [b"a", b"b", b"..", b".", b"a/b", b"\xff", b"n" * 255, b"n" * 256, b"user.x", b""]
    before = entries(root.parent)
    for _ in range(20_000):
        body = b"".join(
            pack("<Q", random_.choice(numbers)) if random_.random() < 0.7
            else random_.choice(names) + b"\0"
            for _ in range(random_.randrange(9))
        )  # fmt: skip
        opcode = random_.choice([op for op in OPCODES if op not in {fuse.SETLKW, fuse.SYNCFS}])
        reply = guest.send(
            opcode, random_.choice(numbers[:8]), body, random_.choice((0, 104, 4096))
        )
        assert opcode in {fuse.FORGET, fuse.BATCH_FORGET, fuse.INTERRUPT} or reply
    server.close()

    assert entries(root.parent) == before
    assert secret.read_bytes() == SECRET


def test_closed_server_answers_with_an_error(guest: Kernel) -> None:
    before = descriptors()
    guest.server.close()
    guest.server.close()
    guest.server.reset()

    assert refused(lambda: guest.lookup("a")) == errno.ENOTCONN
    assert descriptors() == before - 1  # of the root
