"""The devices that are fuzzed, each with its host's side, and messages like a driver's."""
from __future__ import annotations

import contextlib
import random
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ringlet.devices.virtio.balloon import Balloon
from ringlet.devices.virtio.block import Block
from ringlet.devices.virtio.console import Console, Port
from ringlet.devices.virtio.device import VirtioDevice
from ringlet.devices.virtio.rng import Rng
from ringlet.devices.virtio.vsock import Vsock
from ringlet.devices.virtio.vsock_listener import Listener
from tests.unit.devices.virtio.fake_disk import FakeDisk

Failed = Callable[[Exception], None]
LISTENS = 1024
SMALL = (0, 1, 2, 3, 4, 5, 7, 8, 16, 31, 44, 255, 256, 4096, 0xFFFF)


@dataclass
class Host:
    """The other ends of a device's streams, whose owner reads, writes, leaves or does nothing."""

    device: VirtioDevice
    streams: list[socket.socket] = field(default_factory=list)
    listener: Listener | None = None
    console: Console | None = None
    disk: FakeDisk | None = None

    def act(self, rng: random.Random) -> None:
        """Do something to a stream."""
        if self.listener is not None:
            with contextlib.suppress(TimeoutError):
                self.streams.append(self.listener.accept(0))
            if rng.random() < 0.05:
                self._call(rng)
        if self.console is not None and rng.random() < 0.1:
            ours, theirs = socket.socketpair()
            self.streams.append(ours)
            self.console.connect_port(f"port{rng.randrange(3)}", theirs.detach())
        for stream in self.streams:
            stream.setblocking(False)
        if not self.streams:
            return
        stream = rng.choice(self.streams)
        with contextlib.suppress(OSError):
            what = rng.randrange(8)
            if what < 3:
                stream.send(rng.randbytes(rng.choice((1, 100, 5000, 100_000))))
            elif what < 6:
                stream.recv(1 << rng.randrange(18))
            elif what == 6:
                stream.shutdown(rng.randrange(3))
            else:
                self.streams.remove(stream)
                stream.close()

    def _call(self, rng: random.Random) -> None:
        """Call a port of the guest, and wait only for a moment."""
        assert isinstance(self.device, Vsock)
        with contextlib.suppress(TimeoutError, ConnectionRefusedError):
            self.streams.append(self.device.connect_guest(rng.randrange(3), 0.001))

    def close(self) -> None:
        """Close what the device's owner closes after it."""
        for stream in self.streams:
            stream.close()
        if self.disk is not None:
            self.disk.close()


def make(rng: random.Random, failed: Failed, kind: str) -> Host:
    """A device of a kind with its host's side."""
    if kind == "block":
        disk = FakeDisk(
            size=rng.choice((512, 1 << 20, 1 << 20, 1 << 20)), read_only=rng.random() < 0.2,
            sector=rng.choice((512, 512, 512, 4096)), discards=rng.random() < 0.8,
        )
        disk.size = max(disk.size, disk.sector)
        disk.content = bytearray(disk.size)
        return Host(Block(disk, failed), disk=disk)
    if kind == "rng":
        return Host(Rng(failed))
    if kind == "balloon":
        return Host(Balloon(failed))
    if kind == "vsock":
        vsock = Vsock(failed)
        return Host(vsock, listener=vsock.listen(LISTENS))
    pairs = [socket.socketpair() for _ in range(2)]
    console = Console(
        [Port(f"port{i}", theirs.detach(), console=i == 0) for i, (_, theirs) in enumerate(pairs)]
        + [Port("port2")],
        failed,
    )
    return Host(console, [ours for ours, _ in pairs], console=console)


KINDS = ("block", "rng", "balloon", "vsock", "console")


def message(rng: random.Random, kind: str) -> bytes:
    """What a driver might send, right or nearly so."""
    if rng.random() < 0.03:
        return rng.randbytes(rng.randrange(1, 100))
    if kind == "block":
        data = struct.pack("<IIQ", rng.choice((0, 0, 0, 1, 1, 1, 4, 8, 11, 13, 2, 99)), 0,
                           rng.choice((0, 0, 0, 0, 1, 1, 8, 2047, 1 << 40, (1 << 64) - 1)))
        for _ in range(rng.randrange(3)):
            data += struct.pack("<QII", rng.choice((0, 8, 1 << 60)), rng.choice((1, 8, 1 << 22)),
                                rng.randrange(4))
        return data + bytes(rng.choice((0, 0, 512, 4096)))
    if kind == "console":
        return struct.pack("<IHH", rng.choice((0, 1, 2, 3, 1 << 31)), rng.randrange(9),
                           rng.randrange(2)) + bytes(rng.randrange(64))
    if kind == "vsock":
        data = rng.randbytes(rng.choice((0, 0, 5, 3000)))
        return struct.pack(
            "<QQIIIHHIII", rng.choice((3,) * 30 + (2, 99)), rng.choice((2,) * 30 + (3, 1 << 40)),
            rng.randrange(3), rng.choice((LISTENS,) * 9 + (1 << 30, (1 << 30) + 1, 7)),
            rng.choice((len(data),) * 20 + (1, 0xFFFF_FFFF)), rng.choice((1,) * 30 + (2, 0)),
            rng.choice((1, 1, 1, 5, 5, 5, 5, 5, 5, 2, 2, 3, 4, 6, 7, 0, 8)), rng.randrange(5),
            rng.choice((0, 1, 100, 1 << 18, 1 << 18, 0xFFFF_FFFF)),
            rng.choice((0, 0, 0, 1, 0xFFFF_FFFF)),
        ) + data
    if kind == "balloon":
        count = rng.choice((1, 3, 256, 1024, 1025))
        return struct.pack(f"<{count}I", *(rng.choice((
            rng.randrange(0x200, 0x400), 0x400, 1 << 20, 0xFFFF_FFFF)) for _ in range(count)))
    return b""


def open_files() -> int:
    """How many descriptors this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())
