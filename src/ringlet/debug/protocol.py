"""Parses packets of gdb's remote protocol (GDB manual, appendix E.1): bytes in, events out.

This module uses no socket and no processor.  It bounds the peer's input: a packet longer than
`PACKET_SIZE` raises `ProtocolError`, and so do bytes between packets that gdb does not send.
"""

from collections.abc import Iterator
from enum import Enum, auto
from typing import Final

PACKET_SIZE: Final = 0x4000
"""The size of the longest packet without its frame in bytes; gdb receives it as PacketSize."""

_START, _END, _ESCAPE, _RUN = b"$#}*"
_ESCAPED: Final = frozenset(b"$#}*")
_INTERRUPT: Final = 3
_HEX: Final = frozenset(b"0123456789abcdefABCDEF")


class ProtocolError(Exception):
    """The peer violates the protocol, and the connection must end."""


class Signal(Enum):
    """Events outside packets, and the event of a damaged packet."""

    ACK = auto()
    NACK = auto()
    INTERRUPT = auto()
    BROKEN = auto()


Event = Signal | bytes
"""A signal, or the unescaped contents of a packet."""


def escape(data: bytes) -> bytes:
    """Return `data` with the bytes that frame packets escaped."""
    if _ESCAPED.isdisjoint(data):
        return data
    out = bytearray()
    for byte in data:
        if byte in _ESCAPED:
            out += bytes((_ESCAPE, byte ^ 0x20))
        else:
            out.append(byte)
    return bytes(out)


def unescape(data: bytes) -> bytes:
    """Return `data` without escapes.  Raises ProtocolError if it ends within an escape."""
    if _ESCAPE not in data:
        return data
    out = bytearray()
    rest = iter(data)
    for byte in rest:
        if byte != _ESCAPE:
            out.append(byte)
            continue
        escaped = next(rest, None)
        if escaped is None:
            raise ProtocolError("a packet ends within an escape")
        out.append(escaped ^ 0x20)
    return bytes(out)


def frame(data: bytes) -> bytes:
    """Return the packet with contents `data`."""
    body = escape(data)
    return b"$%b#%02x" % (body, sum(body) & 0xFF)


class Parser:
    """Turns a stream of bytes into events."""

    def __init__(self) -> None:
        self._body = bytearray()
        self._sum = b""
        self._state = self._between

    def feed(self, data: bytes) -> Iterator[Event]:
        """Yield the events that `data` completes.  Raises ProtocolError."""
        for byte in data:
            event = self._state(byte)
            if event is not None:
                yield event

    def _between(self, byte: int) -> Event | None:
        if byte == _START:
            self._body.clear()
            self._state = self._within
        elif byte == _INTERRUPT:
            return Signal.INTERRUPT
        elif byte == ord("+"):
            return Signal.ACK
        elif byte == ord("-"):
            return Signal.NACK
        else:
            # The peer is not gdb; a web page may have directed a browser to this port.
            raise ProtocolError("a byte outside packets")
        return None

    def _within(self, byte: int) -> Event | None:
        if byte == _END:
            self._sum = b""
            self._state = self._after
        elif byte == _START:
            # The rest of the previous packet was lost.
            self._body.clear()
        elif len(self._body) >= PACKET_SIZE:
            raise ProtocolError(f"a packet is longer than {PACKET_SIZE} bytes")
        else:
            self._body.append(byte)
        return None

    def _after(self, byte: int) -> Event | None:
        self._sum += bytes((byte,))
        if len(self._sum) < 2:
            return None
        self._state = self._between
        if not _HEX.issuperset(self._sum) or int(self._sum, 16) != sum(self._body) & 0xFF:
            return Signal.BROKEN
        return unescape(bytes(self._body))


# --- fields of packets


def number(text: bytes) -> int:
    """Return the value of hexadecimal digits, at most 64 bits.  Raises ValueError."""
    if not text or len(text) > 16 or not _HEX.issuperset(text):
        raise ValueError(f"{text!r} is not a 64-bit number")
    return int(text, 16)


def numbers(text: bytes, count: int) -> list[int]:
    """Return the `count` comma-separated values in `text`.  Raises ValueError."""
    values = [number(part) for part in text.split(b",", count)]
    if len(values) != count:
        raise ValueError(f"expected {count} numbers")
    return values


def octets(text: bytes) -> bytes:
    """Return the bytes that pairs of hexadecimal digits stand for.  Raises ValueError."""
    if not _HEX.issuperset(text):
        raise ValueError("not hexadecimal")
    return bytes.fromhex(text.decode("ascii"))
