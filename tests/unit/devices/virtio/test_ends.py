"""The end of a run, and a reset, do not wait for what a guest has queued; a pause does."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.unit.devices.virtio.conftest import MakeRig
from tests.unit.devices.virtio.driver import Rig, eventually

from ringlet.devices.backends.disks import Disk, open_disk, pieces, pool, syscalls, vectors
from ringlet.devices.virtio import block as b
from ringlet.devices.virtio import fs
from ringlet.disk_spec import Access, DiskSpec, Format

SIZE = 64 << 20
REQUESTS = 12  # more than a disk has threads
PIECES = [(0x2C0000, 1 << 16)] * 250
LENGTH = sum(size for _, size in PIECES)
CLUSTER = 4096


class Guest:
    """A driver of a block device; `begun` are the calls of the host that `hold` has seen."""

    def __init__(self, rig: Rig, disk: Disk) -> None:
        self.rig = rig
        self.disk = disk
        self.begun: list[tuple[object, ...]] = []
        self.statuses: list[tuple[int, int]] = []
        rig.start(size=256)

    def hold(self, *arguments: object, **options: object) -> None:
        """Stand for a call of the host that takes until the device is to be stopped."""
        self.begun.append(arguments)
        assert eventually(lambda: self.rig.device.worker.wanted_away)

    def ask(self, kind: int, sector: int = 0, data: bytes = b"") -> None:
        """Begin a request without large buffers."""
        readable = [self.rig.buffer(struct.pack("<IIQ", kind, 0, sector))]
        readable += [self.rig.buffer(data)] if data else []
        self.statuses.append(self.rig.buffer(b"\xee"))
        self.rig.rings[0].chain(readable, [self.statuses[-1]])

    def ask_for_much(self, kind: int) -> None:
        """Begin a read or a write of LENGTH bytes."""
        header = self.rig.buffer(struct.pack("<IIQ", kind, 0, 0))
        status = self.rig.buffer(b"\xee")
        table = self.rig.buffer(16 * (len(PIECES) + 2))[0]
        if kind == b.T_IN:
            self.rig.rings[0].indirect(table, [header], [*PIECES, status])
        else:
            self.rig.rings[0].indirect(table, [header, *PIECES], [status])

    def end(self) -> None:
        """Ring, and end the device once the host has begun as much as it does at once."""
        self.rig.ring()
        assert eventually(lambda: len(self.begun) >= pool.THREADS)
        self.rig.pci.close()

    @property
    def answers(self) -> int:
        return self.rig.rings[0].waits()


Make = Callable[[Access], Guest]


@pytest.fixture
def make(make_rig: MakeRig, tmp_path: Path) -> Iterator[Make]:
    disks: list[Disk] = []
    image = tmp_path / "a.img"
    image.touch()
    os.truncate(image, SIZE)

    def of(access: Access) -> Guest:
        lines: list[str] = []
        disk = open_disk(DiskSpec(image, access, Format.RAW), lines.append)
        disks.append(disk)
        return Guest(make_rig(lambda failed: b.Block(disk, failed)), disk)

    yield of
    for disk in disks:
        disk.close()


def unable(fd: int, offset: int, length: int) -> None:
    raise OSError(95, "this file system cannot do that")


def zeros(ranges: int) -> bytes:
    return struct.pack("<QII", 0, SIZE // 512, 0) * ranges


def test_zeros_that_must_be_written(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    guest = make(Access.WRITE)
    monkeypatch.setattr(syscalls, "zero_range", unable)
    monkeypatch.setattr(vectors, "write_zeros", guest.hold)
    for _ in range(REQUESTS):
        guest.ask(b.T_WRITE_ZEROES, 0, zeros(b.RANGES))

    guest.end()

    assert (len(guest.begun), guest.answers) == (pool.THREADS, 0)
    assert {length for _, _, length in guest.begun} == {pieces.DATA}


@pytest.mark.parametrize(
    ("kind", "call"), [(b.T_DISCARD, "punch_hole"), (b.T_WRITE_ZEROES, "zero_range")]
)
def test_ranges(make: Make, monkeypatch: pytest.MonkeyPatch, kind: int, call: str) -> None:
    guest = make(Access.WRITE)
    monkeypatch.setattr(syscalls, call, guest.hold)
    for _ in range(REQUESTS):
        guest.ask(kind, 0, zeros(b.RANGES))

    guest.end()

    assert (len(guest.begun), guest.answers) == (pool.THREADS, 0)
    assert {length for _, _, length in guest.begun} == {pieces.RANGE}


@pytest.mark.parametrize(("kind", "call"), [(b.T_OUT, "write"), (b.T_IN, "read")])
@pytest.mark.parametrize("access", [Access.WRITE, Access.SNAPSHOT])
def test_much_data(
    make: Make, monkeypatch: pytest.MonkeyPatch, kind: int, call: str, access: Access
) -> None:
    guest = make(access)
    monkeypatch.setattr(vectors, "read_cached", lambda *_: 0)
    monkeypatch.setattr(vectors, call, guest.hold)
    for _ in range(REQUESTS):
        guest.ask_for_much(kind)

    guest.rig.ring()
    # A snapshot's first write to a cluster keeps the others waiting.
    most = 1 if (kind, access) == (b.T_OUT, Access.SNAPSHOT) else pool.THREADS
    assert eventually(lambda: len(guest.begun) == most)
    guest.rig.pci.close()

    assert (len(guest.begun), guest.answers) == (most, 0)
    for _, buffers, *_ in guest.begun:
        assert sum(map(len, buffers)) == pieces.DATA  # type: ignore[call-overload]


def test_copies_of_clusters_of_a_snapshot(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = make(Access.SNAPSHOT)
    monkeypatch.setattr(vectors, "read_cached", lambda *_: 0)
    monkeypatch.setattr(vectors, "read", guest.hold)
    for n in range(REQUESTS):
        guest.ask(b.T_OUT, (n * CLUSTER + 512) // 512, bytes(512))

    guest.end()

    assert (len(guest.begun), guest.answers) == (pool.THREADS, 0)


def test_flushes_are_done_or_not_answered(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    guest = make(Access.WRITE)
    guest.ask(b.T_OUT, 0, b"w" * 4096)
    guest.rig.ring()
    guest.rig.came_back()
    monkeypatch.setattr(os, "fdatasync", guest.hold)
    for _ in range(REQUESTS):
        guest.ask(b.T_FLUSH)

    guest.rig.ring()
    assert eventually(lambda: len(guest.begun) >= 1)
    guest.rig.pci.close()

    assert len(guest.begun) <= pool.THREADS
    assert guest.answers == 0


def test_what_was_written_is_flushed_by_the_disks_own_end(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = make(Access.WRITE)
    guest.ask(b.T_OUT, 0, b"w" * 4096)
    guest.rig.ring()
    guest.rig.came_back()
    guest.rig.pci.close()
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)

    guest.disk.close()

    assert len(synced) == 1


def test_a_reset_drops_requests_and_later_ones_are_performed(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = make(Access.WRITE)
    with monkeypatch.context() as patch:
        patch.setattr(syscalls, "zero_range", guest.hold)
        guest.ask(b.T_WRITE_ZEROES, 0, zeros(b.RANGES))
        guest.rig.ring()
        assert eventually(lambda: len(guest.begun) == 1)
        guest.rig.start(size=256)

    guest.ask(b.T_WRITE_ZEROES, 0, zeros(b.RANGES))
    guest.rig.ring()

    guest.rig.came_back()
    assert guest.rig.read(guest.statuses[-1]) == bytes([b.S_OK])
    assert len(guest.begun) == 1


def test_a_pause_performs_all_that_was_taken(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = make(Access.WRITE)
    done: list[int] = []

    def zero(fd: int, offset: int, length: int) -> None:
        time.sleep(0.001)
        done.append(length)

    monkeypatch.setattr(syscalls, "zero_range", zero)
    for _ in range(REQUESTS):
        guest.ask(b.T_WRITE_ZEROES, 0, zeros(2))
    guest.rig.ring()
    assert eventually(lambda: bool(done))

    guest.rig.device.pause()

    answers = guest.answers
    assert sum(done) == answers * 2 * SIZE
    guest.rig.device.resume()
    guest.rig.came_back(0, REQUESTS)
    assert {guest.rig.read(status) for status in guest.statuses} == {bytes([b.S_OK])}


class SlowServer:
    """A server of a shared directory each of whose calls takes until the device is stopped."""

    def __init__(self) -> None:
        self.begun = 0
        self.resets = 0
        self.rig: Rig | None = None

    def handle(
        self, request: list[memoryview], reply: list[memoryview], *, may_wait: bool
    ) -> int:
        rig = self.rig
        assert rig is not None
        self.begun += 1
        assert eventually(lambda: rig.device.worker.wanted_away)
        return 0

    def waits(self, request: list[memoryview]) -> bool:
        return False

    def end_waits(self) -> None:
        pass

    def reset(self) -> None:
        self.resets += 1


@pytest.mark.parametrize("reset", [False, True])
def test_requests_of_a_share(make_rig: MakeRig, reset: bool) -> None:
    server = SlowServer()
    rig = server.rig = make_rig(lambda failed: fs.Fs(server, "share", failed))
    rig.start(size=64)
    copy = struct.pack("<II", 40, 47) + bytes(32)
    for _ in range(3 * fs.THREADS):
        rig.send(1, [copy], [64])
    assert eventually(lambda: server.begun == fs.THREADS)

    if reset:
        rig.start(size=64)
    else:
        rig.pci.close()

    assert (server.begun, server.resets > 0) == (fs.THREADS, True)
