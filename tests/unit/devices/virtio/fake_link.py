"""A link of a network card whose other end the test has."""

import socket
from dataclasses import dataclass, field

from ringlet.devices.backends.network.link import Framing

REFUSED = 0xF0
"""A frame that begins with this byte, or a greater one, is not permitted."""


@dataclass
class FakeLink:
    """A link whose other end is `peer`; neither of them blocks."""

    framing: Framing = Framing.STREAM
    mtu: int = 1500
    mac: bytes = b"\x52\x54\0\x12\x34\x56"
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        kind = socket.SOCK_STREAM if self.framing is Framing.STREAM else socket.SOCK_SEQPACKET
        self.peer, self._ours = socket.socketpair(socket.AF_UNIX, kind)
        self._ours.setblocking(False)
        self.peer.setblocking(False)

    @property
    def fd(self) -> int:
        return self._ours.fileno()

    def permits(self, frame: bytes) -> bool:
        return frame[0] < REFUSED

    def failed(self, why: str) -> None:
        self.told.append(why)

    def close(self) -> None:
        """Close both ends."""
        self._ours.close()
        self.peer.close()
