"""Packets of the socket device (virtio 1.2, 5.10.6)."""

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

HOST_CID: Final = 2
STREAM: Final = 1
"""The type of all packets here."""
SHUTDOWN_RECEIVE: Final = 1
SHUTDOWN_SEND: Final = 2
SHUTDOWN_BOTH: Final = 3
COUNTER: Final = 0xFFFF_FFFF
"""Counters of bytes have 32 bits and wrap."""

_HEADER: Final = struct.Struct("<QQIIIHHIII")
HEADER_SIZE: Final = _HEADER.size


class Op(IntEnum):
    """What a packet is for."""

    REQUEST = 1
    RESPONSE = 2
    RST = 3
    SHUTDOWN = 4
    RW = 5
    CREDIT_UPDATE = 6
    CREDIT_REQUEST = 7


@dataclass(slots=True)
class Header:
    """virtio_vsock_hdr; `op` may be none of `Op`, and `size` counts the bytes behind the header."""

    source_cid: int
    target_cid: int
    source_port: int
    target_port: int
    size: int
    kind: int
    op: int
    flags: int
    alloc: int
    forwarded: int

    def pack(self) -> bytes:
        """Return the header's bytes."""
        return _HEADER.pack(
            self.source_cid, self.target_cid, self.source_port, self.target_port, self.size,
            self.kind, self.op, self.flags, self.alloc, self.forwarded,
        )  # fmt: skip


def unpack(data: bytes) -> Header:
    """Return the header in `data`, HEADER_SIZE bytes that nobody has checked."""
    return Header(*_HEADER.unpack(data))


def refusal(header: Header, guest_cid: int) -> bytes:
    """Return the packet that refuses the guest's packet with this header."""
    return Header(
        HOST_CID, guest_cid, header.target_port, header.source_port, 0, header.kind, Op.RST, 0, 0, 0
    ).pack()
