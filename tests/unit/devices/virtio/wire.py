"""A link of the host whose other end a test holds, and a driver of a network card on it."""

from __future__ import annotations

import select
import socket
import struct
from dataclasses import dataclass, field

from tests.unit.devices.virtio.conftest import MakeRig
from tests.unit.devices.virtio.driver import EVENTS, PATIENCE, Part, Rig

from ringlet.devices.backends.network.link import Framing
from ringlet.devices.virtio import common
from ringlet.devices.virtio import net as n
from ringlet.devices.virtio.device import F_EVENT_IDX

MAC = b"\x52\x54\x00\x12\x34\x56"
HEADER = 12
PREFIX = 4
VALID = bytes((2, 0)) + bytes(8)
"""The header of a frame of a stream, up to the number of buffers: its checksum is right."""
RX, TX = n.RX, n.TX
ALL = n.F_MAC | n.F_STATUS | n.F_MTU | n.F_MRG_RXBUF | n.F_GUEST_CSUM


@dataclass
class Wire:
    """A link: a stream's socket, or for a tap one that keeps the bounds of packets."""

    framing: Framing = Framing.STREAM
    mtu: int = 1500
    mac: bytes = MAC
    allowed: bool = True
    shown: list[bytes] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        kind = socket.SOCK_SEQPACKET if self.framing is Framing.TAP else socket.SOCK_STREAM
        self.host, self.card = socket.socketpair(socket.AF_UNIX, kind)
        self.card.setblocking(False)
        self.host.settimeout(PATIENCE)

    @property
    def fd(self) -> int:
        return self.card.fileno()

    def permits(self, frame: bytes) -> bool:
        self.shown.append(frame)
        return self.allowed

    def failed(self, why: str) -> None:
        self.told.append(why)

    def close(self) -> None:
        self.host.close()
        self.card.close()

    # --- the host's side

    def send(self, *frames: bytes) -> None:
        """Send frames to the guest, those of a stream by one call."""
        if self.framing is Framing.TAP:
            for frame in frames:
                self.host.send(frame)
        else:
            self.host.sendall(b"".join(struct.pack(">I", len(one)) + one for one in frames))

    def take(self, count: int = 1) -> list[bytes]:
        """Return frames of the guest."""
        return [self._take() for _ in range(count)]

    def _take(self) -> bytes:
        if self.framing is Framing.TAP:
            return self.host.recv(1 << 17)
        (size,) = struct.unpack(">I", self._exactly(PREFIX))
        return self._exactly(size)

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self.host.recv(size - len(data))
            assert part, "the card has closed the link"
            data += part
        return data

    def silent(self) -> bool:
        """Return whether the guest has sent nothing more."""
        return not select.select([self.host], [], [], 0)[0]


class Guest:
    """A driver of a network card on `wire`; it gives the card buffers with `offer`."""

    def __init__(
        self,
        make_rig: MakeRig,
        wire: Wire,
        features: int = ALL | EVENTS,
        size: int = 16,
        make: type[n.Net] = n.Net,
    ) -> None:
        self.wire = wire
        self.rig: Rig = make_rig(lambda failed: make(wire, failed))
        self.rig.start(features, size=size)
        self.rig.set(common.CONFIG_VECTOR, 2, 0)
        self.rooms: dict[int, list[Part]] = {}
        self._back: list[tuple[int, int]] = []

    @property
    def counters(self) -> dict[str, int]:
        """What the card has counted, once it is at rest."""
        self.rig.at_rest()
        return self.rig.device.counters.values

    def offer(self, *sizes: int, count: int = 1, ring: bool = True) -> None:
        """Give the card `count` chains of buffers of these sizes."""
        for _ in range(count):
            rooms = [self.rig.buffer(size) for size in sizes]
            self.rooms[self.rig.rings[RX].chain([], rooms)] = rooms
        if ring:
            self.rig.ring(RX)

    def chains(self, count: int = 1) -> list[bytes]:
        """Return what was written to the next `count` chains that come back."""
        if len(self._back) < count:
            self._back += self.rig.came_back(RX, count - len(self._back))
        found = []
        for head, written in self._back[:count]:
            whole = b"".join(self.rig.read(room) for room in self.rooms.pop(head))
            found.append(whole[:written])
        del self._back[:count]
        return found

    def frames(self, count: int = 1) -> list[tuple[bytes, bytes]]:
        """Return the next frames, each with its header up to the number of buffers."""
        found = []
        for _ in range(count):
            (first,) = self.chains()
            header, data = first[:HEADER], first[HEADER:]
            data += b"".join(self.chains(int.from_bytes(header[10:], "little") - 1))
            found.append((header[:10], data))
        return found

    def transmit(self, *frames: bytes, header: bytes = bytes(HEADER)) -> None:
        """Send frames, each in a chain of its own."""
        for frame in frames:
            self.rig.rings[TX].chain([self.rig.buffer(header + frame)])
        self.rig.ring(TX)

    def is_asked(self, index: int) -> bool:
        """Return whether the card, at rest, wants a notification of the next chain."""
        self.rig.at_rest()
        rings = self.rig.rings[index]
        if self.rig.device.has(F_EVENT_IDX):
            return rings.get16(rings.used_ring + 4 + 8 * rings.size) == rings.available
        return not rings.get16(rings.used_ring)

    def link_is_up(self) -> bool:
        return bool(self.rig.config(6, 2) & 1)
