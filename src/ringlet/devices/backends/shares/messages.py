"""One request of the guest: its checked copy, and the room for its reply.

The parts of a request and of a reply lie in guest RAM, which the guest may change at any time.
What is parsed is copied once, and everything is read from that copy.
"""

import errno
import os
from collections.abc import Iterable, Sequence
from struct import Struct
from typing import Any, Final

from ringlet.devices.backends.shares.protocol import (
    IN_HEADER,
    MAX_WRITE,
    OUT_HEADER,
    PAYLOAD,
    WRITE,
)

COPIED: Final = 1 << 17
"""The most bytes of a request without the data of a WRITE: the longest are extended attributes."""
_SMALL: Final = 1 << 13
_PARTS: Final = 1024
"""The most parts of data that one system call takes (IOV_MAX)."""
_HEADER: Final = OUT_HEADER.size
_NO_NAMES: Final = frozenset({b"", b".", b".."})


def refuse(code: int) -> OSError:
    """Return the error that answers the request with `code`."""
    return OSError(code, os.strerror(code))


class FullError(OSError):
    """The guest has filled one of the server's tables (docs/limits.md)."""


def full(code: int) -> FullError:
    """Return the error that answers the request for which there is no room."""
    return FullError(code, os.strerror(code))


def is_component(name: bytes) -> bool:
    """Say whether a name leads to an entry of its directory itself, not through or out of it."""
    return name not in _NO_NAMES and b"/" not in name and b"\0" not in name


def take(parts: Iterable[memoryview], size: int) -> bytes:
    """Return a copy of the first `size` bytes of the parts, or of all of them."""
    copied = bytearray()
    for part in parts:
        copied += part[: size - len(copied)]
        if len(copied) >= size:
            break
    return bytes(copied)


def window(parts: Iterable[memoryview], start: int, size: int) -> list[memoryview]:
    """Return the parts that hold `size` bytes from `start` on, or those that there are."""
    found: list[memoryview] = []
    for part in parts:
        length = len(part)
        if start >= length:
            start -= length
            continue
        piece = part[start : start + size] if start or length > size else part
        start = 0
        if not size or len(found) == _PARTS:
            break
        found.append(piece)
        size -= len(piece)
    return found


class Request:
    """A request whose header was checked.

    `body` is a copy of what follows the header: of a large WRITE, only its fixed fields.
    """

    __slots__ = ("_message", "_parts", "_reply", "body", "gid", "nodeid", "opcode", "uid", "unique")

    def __init__(self, parts: Sequence[memoryview], reply: Sequence[memoryview]) -> None:
        """Raise ValueError if there is no header, so that no reply can name the request."""
        total = sum(map(len, parts))
        message = b"".join(parts) if total <= _SMALL else take(parts, PAYLOAD)
        if len(message) < IN_HEADER.size:
            raise ValueError("a request without a header")
        header = IN_HEADER.unpack_from(message)
        if total > _SMALL and header[1] != WRITE and total <= COPIED:
            message = b"".join(parts)
            header = IN_HEADER.unpack_from(message)
        length, self.opcode, self.unique, self.nodeid, self.uid, self.gid, _, _ = header
        self._parts = parts
        self._reply = reply
        self._message = message
        if not IN_HEADER.size <= length <= total or (length > COPIED and self.opcode != WRITE):
            length = 0  # then fields are missing, which is the error that the guest gets
        self.body = message[IN_HEADER.size : length]

    def fields(self, layout: Struct) -> tuple[Any, ...]:
        """Return the fixed fields of the body; raises struct.error if it is too short."""
        return layout.unpack_from(self.body)

    def name(self, start: int = 0) -> bytes:
        """Return the name at byte `start` of the body; raises OSError if it is no component."""
        body = self.body
        end = body.find(0, start)
        name = body[start:end]
        if end < 0 or not is_component(name):
            raise refuse(errno.EINVAL)
        return name

    def names(self, start: int, count: int) -> list[bytes]:
        """Return `count` names, one after the other."""
        found: list[bytes] = []
        for _ in range(count):
            found.append(self.name(start))
            start += len(found[-1]) + 1
        return found

    def strings(self, start: int, count: int) -> list[bytes]:
        """Return `count` strings that end with a zero byte, one after the other."""
        found = self.body[start:].split(b"\0", count)
        if len(found) <= count:
            raise refuse(errno.EINVAL)
        return found[:count]

    def data(self, size: int) -> Sequence[memoryview | bytes]:
        """Return the `size` bytes of a WRITE: parts of guest RAM, or of the copy if it is small."""
        if size > MAX_WRITE:
            raise refuse(errno.EINVAL)
        message = self._message
        found: Sequence[memoryview | bytes]
        if len(message) > PAYLOAD:
            found = (message[PAYLOAD : PAYLOAD + size],)
        else:
            found = window(self._parts, PAYLOAD, size)
        if sum(map(len, found)) != size:
            raise refuse(errno.EINVAL)
        return found

    def room(self, size: int) -> list[memoryview]:
        """Return the reply's parts for at most `size` bytes behind its header."""
        return window(self._reply, _HEADER, min(size, MAX_WRITE))

    def room_size(self) -> int:
        """Return how many bytes the reply has room for behind its header."""
        return sum(map(len, self._reply)) - _HEADER

    def answer(self, body: bytes) -> int:
        """Write a reply and return its length in bytes; without room for it, write an error."""
        reply = self._reply
        total = _HEADER + len(body)
        header = OUT_HEADER.pack(total, 0, self.unique)
        if len(reply) > 1 and len(reply[0]) == _HEADER and len(reply[1]) >= len(body):
            reply[0][:] = header  # as Linux lays a reply out
            reply[1][: len(body)] = body
            return total
        message = header + body
        if reply and len(reply[0]) >= total:
            reply[0][:total] = message
            return total
        if sum(map(len, reply)) < total:
            return self.fail(errno.EINVAL) if body else 0
        return _spread(reply, message)

    def answer_in_place(self, size: int) -> int:
        """Write the header of a reply whose `size` bytes are in `room` already."""
        return _HEADER + size if self._head(OUT_HEADER.pack(_HEADER + size, 0, self.unique)) else 0

    def fail(self, code: int) -> int:
        """Write the reply that says error `code`."""
        return self._head(OUT_HEADER.pack(_HEADER, -code, self.unique))

    def _head(self, header: bytes) -> int:
        reply = self._reply
        if reply and len(reply[0]) >= _HEADER:
            reply[0][:_HEADER] = header
            return _HEADER
        return _spread(reply, header) if sum(map(len, reply)) >= _HEADER else 0


def _spread(parts: Iterable[memoryview], data: bytes) -> int:
    """Write `data` to the parts, which have room for it; return its length."""
    start = 0
    for part in parts:
        piece = data[start : start + len(part)]
        part[: len(piece)] = piece
        start += len(piece)
        if start == len(data):
            break
    return start
