"""What a network card is connected to."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

from ringlet.network_config import Forward

Lost = Callable[[str], None]
"""Called with a line for the user, from another thread, when the network is gone."""

MAX_FRAME: Final = 65535 + 14
"""Bytes of the longest frame on a stream: an IP packet and its Ethernet header."""


class Framing(Enum):
    """How frames are told apart at a link's file descriptor."""

    STREAM = "stream"
    """A stream socket: 4 bytes of length, big-endian, then the Ethernet frame, as QEMU does."""
    TAP = "tap"
    """A tap: each read or write is a 12-byte virtio-net header (virtio 1.2 5.1.6) and a frame."""


@dataclass(frozen=True, slots=True)
class IpConfig:
    """What a guest may use without asking: DHCP and router advertisements say the same."""

    address: str
    prefix: int
    gateway: str
    dns: tuple[str, ...]


class Link(Protocol):
    """A connection of a network card.

    `fd` does not block.  It accepts complete frames with complete checksums only, except that a
    TAP's header may ask for more.  `mtu` is that of the interface, in bytes, without the Ethernet
    header.  `ipv4` and `ipv6` are None if the link does not know (a tap) or the host has no such
    protocol.  `forwards` are the ports as they are, each with its number.  `name` is for messages.
    """

    fd: int
    framing: Framing
    mtu: int
    mac: bytes
    ipv4: IpConfig | None
    ipv6: IpConfig | None
    forwards: tuple[Forward, ...]
    name: str

    def permits(self, frame: bytes) -> bool:
        """Tell whether the guest may send `frame` (its first 54 bytes suffice).

        `frame` is hostile input, and must be a copy that the guest cannot change any more.
        """
        ...

    def failed(self, why: str) -> None:
        """Tell the user that the card cannot use the link any more, because of `why`.

        Any thread may call this.
        """
        ...

    def close(self) -> None:
        """End the connection and what serves it.  A second call does nothing."""
        ...
