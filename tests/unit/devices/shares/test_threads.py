"""Several threads of a device serve one share."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringlet.devices.backends.shares import FileServer, share
from tests.unit.devices.shares.kernel import Kernel, Refused, descriptors

THREADS = 4
ROUNDS = 150


@pytest.fixture
def server(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A server that closes descriptors of directories all the time."""
    monkeypatch.setattr(share, "DESCRIPTORS", 2)
    served = FileServer(root, read_only=False, trouble=print)
    yield served
    served.close()


def another(guest: Kernel) -> Kernel:
    """Return the same guest as another of its threads, with requests of its own."""
    kernel = Kernel.__new__(Kernel)
    kernel.__dict__.update(guest.__dict__)
    return kernel


def at_once(work: list[threading.Thread]) -> None:
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()


def test_no_thread_meets_another_file_under_its_descriptor(server: FileServer, root: Path) -> None:
    guest = Kernel(server)
    before = descriptors()
    wrong: list[object] = []

    def work(mine: int) -> None:
        kernel = another(guest)
        data = b"%d" % mine * 1000
        for i in range(ROUNDS):
            try:
                directory = kernel.mkdir(f"{mine}-{i % 7}-{i}").node
                inner = kernel.mkdir("inner", directory).node
                _, number = kernel.create("f", parent=inner)
                kernel.write(number, 0, data)
                read = kernel.read(number, 0, 2000)
                status = kernel.stat(kernel.lookup("f", inner).node)
                kernel.release(number)
                kernel.unlink("f", inner)
                kernel.rmdir("inner", directory)
                kernel.rmdir(f"{mine}-{i % 7}-{i}")
                if (read, status.size) != (data, 1000):
                    wrong.append((mine, i, read[:1], status.size))
            except Refused as error:
                wrong.append((mine, i, error))

    at_once([threading.Thread(target=work, args=(i,)) for i in range(THREADS)])

    assert wrong == []
    assert list(root.iterdir()) == []
    assert descriptors() <= before + 4


def test_one_file_is_looked_up_and_forgotten_by_all(server: FileServer, root: Path) -> None:
    guest = Kernel(server)
    guest.mkdir("d")
    failed: list[object] = []

    def work() -> None:
        kernel = another(guest)
        for _ in range(ROUNDS * 3):
            node = kernel.lookup("d").node
            try:
                kernel.stat(node)
            except Refused as error:
                failed.append(error)
            kernel.forget(node)

    at_once([threading.Thread(target=work) for _ in range(THREADS)])
    guest.forget(guest.lookup("d").node, 2)

    assert failed == []
    assert len(server._share.inodes) == 1
