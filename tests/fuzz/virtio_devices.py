"""The devices that are fuzzed, each with its host's side, and messages like a driver's."""
from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from ringlet.devices.backends.network.link import Framing
from ringlet.devices.virtio.balloon import Balloon
from ringlet.devices.virtio.block import Block
from ringlet.devices.virtio.console import Console, Port
from ringlet.devices.virtio.device import VirtioDevice
from ringlet.devices.virtio.fs import Fs
from ringlet.devices.virtio.net import Net
from ringlet.devices.virtio.rng import Rng
from ringlet.devices.virtio.vsock import Vsock
from ringlet.devices.virtio.vsock_listener import Listener
from tests.fuzz.virtio_hosts import FuzzLink, FuzzShare, packet
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
    link: FuzzLink | None = None
    share: FuzzShare | None = None
    called: set[int] = field(default_factory=set)
    """Ports of the guest from which it has called the host's."""

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
        if self.link is not None:
            self.link.act(rng)
        if self.share is not None:
            self.share.act(rng)
        if self.disk is not None:
            self._delay(rng, self.disk)
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

    @staticmethod
    def _delay(rng: random.Random, disk: FakeDisk) -> None:
        """Let the disk fail, or answer later; whatever waits for it is then answered soon."""
        disk.error = rng.choice((0,) * 9 + (5, 28, 95))
        if rng.random() < 0.2:
            disk.held = True
            threading.Timer(rng.choice((0.0005, 0.005)), disk.release).start()

    def close(self) -> None:
        """Close what the device's owner closes after it."""
        if self.link is not None:
            self.link.close()
        if self.share is not None:
            self.share.close()
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
    if kind == "net":
        link = FuzzLink(rng.choice((Framing.STREAM, Framing.TAP)), rng.choice((1500, 65_520)))
        return Host(Net(link, failed), link=link)
    if kind == "fs":
        share = FuzzShare(rng)
        return Host(Fs(share.server, "share", failed), share=share)
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


KINDS = ("block", "rng", "balloon", "vsock", "console", "net", "fs")
KINDS_BY_CLASS: dict[type[VirtioDevice], str] = {
    Block: "block", Rng: "rng", Balloon: "balloon", Vsock: "vsock", Console: "console", Net: "net",
    Fs: "fs",
}  # fmt: skip


def message(rng: random.Random, host: Host) -> bytes:
    """What a driver might send, right or nearly so."""
    kind = KINDS_BY_CLASS[type(host.device)]
    if rng.random() < 0.01:
        return rng.randbytes(rng.randrange(1, 100))
    if host.share is not None:
        return host.share.request()
    if kind == "net":
        return packet(rng)
    if kind == "block":
        what = rng.choice((0, 0, 0, 1, 1, 1, 4, 8, 11, 13, 13, 2 if rng.random() < 0.1 else 0))
        data = struct.pack("<IIQ", what, 0,
                           rng.choice((0, 0, 0, 0, 1, 8, 2047, 1 << 40, (1 << 64) - 1)))
        ranges = rng.randrange(3) if what > 8 or rng.random() < 0.05 else 0
        for _ in range(ranges or what > 8):
            data += struct.pack("<QII", rng.choice((0, 0, 8, 1 << 60)),
                                rng.choice((1, 8, 8, 1 << 22)), rng.choice((0, 0, 1, 2)))
        sizes = (512, 4096, 4096, 1 << 16) if what == 1 else (0,) * 9 + (1, 512)
        return data + bytes(rng.choice(sizes))
    if kind == "console":
        return struct.pack("<IHH", rng.choice((0, 1, 2, 3, 1 << 31)), rng.randrange(9),
                           rng.randrange(2)) + bytes(rng.randrange(64))
    if kind == "vsock":
        return _packet(rng, host)
    if kind == "balloon":
        count = rng.choice((1, 3, 256, 1024, 1025))
        return struct.pack(f"<{count}I", *(rng.choice((
            rng.randrange(0x200, 0x400), 0x400, 1 << 20, 0xFFFF_FFFF)) for _ in range(count)))
    return b""


def _packet(rng: random.Random, host: Host) -> bytes:
    """Return a packet of a stream that the guest has asked for, or of one that there is not."""
    port = rng.randrange(3)
    if port not in host.called:
        op = rng.choice((1,) * 8 + (2, 5))
        host.called |= {port} if op == 1 else set()
    else:
        op = rng.choice((5,) * 16 + (6, 6, 7, 4, 3, 2, 1, 0, 8))
        host.called -= {port} if op in {3, 1, 0, 8} else set()
    data = rng.randbytes(rng.choice((1, 5, 3000))) if op == 5 else b""
    return struct.pack(
        "<QQIIIHHIII", rng.choice((3,) * 60 + (2, 99)), rng.choice((2,) * 60 + (3, 1 << 40)),
        port, rng.choice((LISTENS,) * 20 + (1 << 30, (1 << 30) + 1, 7)),
        rng.choice((len(data),) * 40 + (1, 0xFFFF_FFFF)), rng.choice((1,) * 60 + (2, 0)),
        op, rng.randrange(5) if op == 4 else 0,
        rng.choice((0, 1, 100, 1 << 18, 1 << 18, 1 << 18, 0xFFFF_FFFF)),
        rng.choice((0, 0, 0, 0, 0, 0, 1, 0xFFFF_FFFF)),
    ) + data
