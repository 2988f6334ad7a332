"""What a guest can fill in a share's server has bounds, and the guest goes on at each."""

import errno
import resource
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringlet.devices.backends.shares import FileServer, inodes
from ringlet.devices.backends.shares import share as shares
from tests.unit.devices.shares.kernel import Kernel, descriptors, refused, regular


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def guest(few_descriptors: None, root: Path, told: list[str]) -> Iterator[Kernel]:
    server = FileServer(root, read_only=False, trouble=told.append)
    yield Kernel(server)
    server.close()


def test_lookups_of_many_directories_and_files_need_few_descriptors(
    guest: Kernel, root: Path
) -> None:
    before = descriptors()
    nodes = []
    for i in range(300):
        node = guest.mkdir(f"d{i}").node
        nodes.append(guest.mknod("f", stat.S_IFREG | 0o600, node).node)
        assert guest.lookup("f", node).node == nodes[-1]

    assert descriptors() <= before + 256 // 8
    assert {guest.stat(node).size for node in nodes} == {0}


def test_deep_directory_is_found_again(guest: Kernel, root: Path) -> None:
    node = 1
    for _ in range(200):
        node = guest.mkdir("d", node).node
    guest.server._share.inodes.close_unused()

    assert guest.mkdir("last", node).attributes.links == 2


def test_open_files_have_a_bound(guest: Kernel, root: Path, told: list[str]) -> None:
    regular(root / "f")
    node = guest.lookup("f").node
    numbers = [guest.open(node) for _ in range(256 // 4)]

    assert refused(lambda: guest.open(node)) == errno.ENFILE
    assert refused(lambda: guest.create("new")) == errno.ENFILE
    assert refused(guest.opendir) == errno.ENFILE
    assert not (root / "new").exists()
    (line,) = told
    assert "the guest uses more files at a time than Ringlet serves" in line
    guest.release(numbers[0])
    assert guest.open(node)


def test_inodes_have_a_bound(guest: Kernel, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inodes, "INODES", 40)
    for i in range(60):
        regular(root / f"f{i}")

    listed = list(guest.list(plus=True))
    told = [one for one in listed if one.entry is not None and one.entry.node]

    assert len(listed) == 62
    assert len(told) == 29  # with the root three quarters of the bound
    found = [refused(guest.lookup, f"f{i}") for i in range(60)]
    assert found.count(0) == 39
    assert set(found) == {0, errno.ENFILE}
    guest.forget(told[0].entry.node, 2)  # type: ignore[union-attr]
    assert refused(lambda: guest.mkdir("new")) == 0


def test_inodes_do_not_outlive_what_the_guest_knows(guest: Kernel, root: Path) -> None:
    """Directories that only lead to a known file are counted, and go with it."""
    table = guest.server._share.inodes
    for _ in range(50):
        chain = [1]
        for _ in range(10):
            name = f"d{len(chain)}"
            known = refused(guest.mkdir, name, chain[-1]) == errno.EEXIST
            chain.append(guest.lookup(name, chain[-1]).node)
            guest.forget(chain[-1], 1 if known else 2)
            chain[-1] = guest.lookup(name, chain[-2]).node
        for node in chain[1:-1]:
            guest.forget(node)

    assert len(table) <= 12
    guest.forget(chain[-1], 1000)
    assert len(table) == 1


def test_bounds_do_not_exceed_the_hosts_limit(root: Path) -> None:
    share = FileServer(root, read_only=True, trouble=print)._share

    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert share._most_handles == min(shares.HANDLES, soft // 4)
    assert share._most_descriptors == min(inodes.DESCRIPTORS, soft // 8)
