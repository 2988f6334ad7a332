"""A guest without a kernel: it writes and reads Ethernet frames by hand."""

import os
import select
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from ringlet.devices.backends.network.link import IpConfig, Link

T = TypeVar("T")
SECONDS = 20.0
EVERYONE = b"\xff" * 6
IPV4, ARP, IPV6 = b"\x08\x00", b"\x08\x06", b"\x86\xdd"
ICMP, TCP, UDP, ICMP6 = 1, 6, 17, 58
FIN, SYN, RST, ACK = 1, 2, 4, 16


def checksum(data: bytes) -> int:
    """The sum of RFC 1071."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def packet(
    source: str, target: str, protocol: int, data: bytes, at: int = -1, hops: int = 255
) -> bytes:
    """An IP packet; at `at` in `data` goes the sum of the upper protocol."""
    a, b = packed(source), packed(target)
    six = len(a) == 16
    if at >= 0:
        counts = (len(data), protocol) if six else (protocol, len(data))
        pseudo = a + b + struct.pack("!II" if six else "!HH", *counts)
        data = data[:at] + struct.pack("!H", checksum(pseudo + data)) + data[at + 2 :]
    if six:
        return struct.pack("!IHBB", 6 << 28, len(data), protocol, hops) + a + b + data
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(data), 1, 0, hops, protocol, 0) + a + b
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + data


@dataclass(frozen=True)
class Segment:
    """A TCP segment or a UDP datagram that the guest has received."""

    protocol: int
    source: str
    port: int
    to_port: int
    data: bytes
    sequence: int = 0
    flags: int = 0
    target: str = ""


def upper(frame: bytes) -> tuple[int, str, bytes] | None:
    """The protocol, the source and the contents of the packet in `frame`."""
    if frame[12:14] == IPV4:
        size = struct.unpack_from("!H", frame, 16)[0]
        return frame[23], socket.inet_ntop(socket.AF_INET, frame[26:30]), frame[34 : 14 + size]
    if frame[12:14] == IPV6:
        size = struct.unpack_from("!H", frame, 18)[0]
        source = socket.inet_ntop(socket.AF_INET6, frame[22:38])
        return frame[20], source, frame[54 : 54 + size]
    return None


def target(frame: bytes) -> str:
    """The destination of the packet in `frame`."""
    if frame[12:14] == IPV4:
        return socket.inet_ntop(socket.AF_INET, frame[30:34])
    return socket.inet_ntop(socket.AF_INET6, frame[38:54])


def segment(frame: bytes) -> Segment | None:
    match upper(frame):
        case (protocol, source, data) if protocol == TCP:
            port, to_port, sequence, _, offset, flags = struct.unpack_from("!HHIIBB", data)
            body = data[(offset >> 4) * 4 :]
            return Segment(TCP, source, port, to_port, body, sequence, flags, target(frame))
        case (protocol, source, data) if protocol == UDP:
            port, to_port = struct.unpack_from("!HH", data)
            return Segment(UDP, source, port, to_port, data[8:])
    return None


def child(pid: int) -> int:
    """The process that a keeper keeps."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text())


@dataclass
class Guest:
    """The guest at the other end of `link`, with the addresses that the link names."""

    link: Link
    gateway: bytes = EVERYONE
    received: bytearray = field(default_factory=bytearray)
    port: int = 40000

    def address(self, peer: str) -> str:
        config: IpConfig | None = self.link.ipv6 if ":" in peer else self.link.ipv4
        assert config is not None
        return config.address

    def send(self, frame: bytes) -> None:
        left = struct.pack("!I", len(frame)) + frame
        while left:
            if not select.select([], [self.link.fd], [], SECONDS)[1]:
                raise TimeoutError("the link takes nothing")
            left = left[os.write(self.link.fd, left) :]

    def send_packet(self, data: bytes) -> None:
        self.send(self.gateway + self.link.mac + (IPV6 if data[0] >> 4 == 6 else IPV4) + data)

    def frame(self, deadline: float) -> bytes:
        """The next frame; questions for the guest's Ethernet address are answered on the way."""
        while True:
            end = 4 + int.from_bytes(self.received[:4])
            if len(self.received) >= max(end, 5):
                frame = bytes(self.received[4:end])
                del self.received[:end]
                self._answer(frame)
                return frame
            if not select.select([self.link.fd], [], [], max(deadline - time.monotonic(), 0))[0]:
                raise TimeoutError("nothing came")
            data = os.read(self.link.fd, 1 << 16)
            if not data:
                raise ConnectionResetError
            self.received += data

    def _answer(self, frame: bytes) -> None:
        mac = self.link.mac
        if frame[12:14] == ARP and frame[20:22] == b"\0\1" and frame[38:42] == packed("10.0.2.15"):
            self.send(
                frame[6:12] + mac + frame[12:20] + b"\0\2" + mac + frame[38:42] + frame[22:32]
            )
        match upper(frame):
            case (58, asker, data) if data[0] == 135:  # neighbour solicitation, RFC 4861 4.3
                asked = socket.inet_ntop(socket.AF_INET6, data[8:24])
                if self.link.ipv6 and asked == self.link.ipv6.address:
                    body = b"\x88\0\0\0\x60\0\0\0" + data[8:24] + b"\x02\x01" + mac
                    answer = packet(asked, asker, ICMP6, body, 2)
                    self.send(frame[6:12] + mac + IPV6 + answer)

    def until(self, wanted: Callable[[bytes], T | None], seconds: float = SECONDS) -> T:
        """What `wanted` makes of the first frame for which that is not None."""
        deadline = time.monotonic() + seconds
        while True:
            found = wanted(self.frame(deadline))
            if found is not None:
                return found

    def ask_gateway(self) -> bytes:
        """Ask by ARP for the gateway's Ethernet address, which is used from then on."""
        mac, wanted = self.link.mac, packed("10.0.2.2")
        question = struct.pack("!HHBBH", 1, 0x800, 6, 4, 1) + mac + packed("10.0.2.15")
        self.send(EVERYONE + mac + ARP + question + bytes(6) + wanted)
        self.gateway = self.until(
            lambda f: f[22:28] if f[12:14] == ARP and f[28:32] == wanted else None
        )
        return self.gateway

    def send_udp(self, target: str, port: int, data: bytes, own_port: int = 4444) -> None:
        datagram = struct.pack("!HHHH", own_port, port, 8 + len(data), 0) + data
        self.send_packet(packet(self.address(target), target, UDP, datagram, 6))

    def ping(self, target: str) -> bytes:
        """Send an echo request; return what comes back after the sum."""
        echo = b"\x08\0\0\0\x12\x34\0\1ringlet!"
        echo = echo[:2] + struct.pack("!H", checksum(echo)) + echo[4:]
        self.send_packet(packet(self.address(target), target, ICMP, echo))

        def reply(frame: bytes) -> bytes | None:
            match upper(frame):
                case (protocol, source, data) if (protocol, source) == (ICMP, target):
                    return data[4:]
            return None

        return self.until(reply)

    def receive_udp(self, port: int = 4444, seconds: float = SECONDS) -> Segment:
        def wanted(frame: bytes) -> Segment | None:
            found = segment(frame)
            return found if found and found.protocol == UDP and found.to_port == port else None

        return self.until(wanted, seconds)

    def connect(self, target: str, port: int) -> "Connection":
        """Open a TCP connection.  Raises ConnectionRefusedError."""
        self.port += 1
        return Connection(self, target, port, self.port).open()

    def accept(self, port: int) -> "Connection":
        """Wait for a TCP connection to `port`."""

        def wanted(frame: bytes) -> Segment | None:
            s = segment(frame)
            return s if s and (s.protocol, s.to_port, s.flags & SYN) == (TCP, port, SYN) else None

        first = self.until(wanted)
        connection = Connection(self, first.source, first.port, port, first.target)
        connection.expected = first.sequence + 1
        connection.send(b"", SYN | ACK)
        return connection


class Connection:
    """A TCP connection of the guest; nothing is sent again, as nothing is lost on a socket."""

    def __init__(self, guest: Guest, peer: str, port: int, own_port: int, own: str = "") -> None:
        self.own = own or guest.address(peer)
        self.guest, self.peer, self.port, self.own_port = guest, peer, port, own_port
        self.sequence, self.expected = 1000, 0
        self.ended = False

    def send(self, data: bytes, flags: int = ACK) -> None:
        head = struct.pack(
            "!HHIIBBHHH", self.own_port, self.port, self.sequence, self.expected, 5 << 4, flags,
            60000, 0, 0,
        )  # fmt: skip
        self.guest.send_packet(packet(self.own, self.peer, TCP, head + data, 16))
        self.sequence += len(data) + bool(flags & SYN) + bool(flags & FIN)

    def _next(self) -> Segment:
        def wanted(frame: bytes) -> Segment | None:
            s = segment(frame)
            fits = s and (s.protocol, s.source, s.port, s.to_port) == (
                TCP, self.peer, self.port, self.own_port)  # fmt: skip
            return s if fits else None

        found = self.guest.until(wanted)
        if found.flags & RST:
            raise ConnectionRefusedError
        return found

    def open(self) -> "Connection":
        self.send(b"", SYN)
        answer = self._next()
        assert answer.flags & (SYN | ACK) == SYN | ACK
        self.expected = answer.sequence + 1
        self.send(b"")
        return self

    def receive(self, size: int = 1 << 30) -> bytes:
        """Up to `size` bytes, or all until the peer has closed its side."""
        data = b""
        while len(data) < size and not self.ended:
            found = self._next()
            if found.sequence != self.expected:
                continue  # sent again
            data += found.data
            self.ended = bool(found.flags & FIN)
            self.expected += len(found.data) + self.ended
            if found.data or self.ended:
                self.send(b"")
        return data

    def close(self) -> None:
        self.send(b"", FIN | ACK)
