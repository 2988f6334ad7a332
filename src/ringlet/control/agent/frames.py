"""Cuts the bytes of a guest into frames.  What the guest sends is hostile input."""

from collections.abc import Iterator
from typing import Final

from ringlet.errors import AgentError
from ringlet.guest.protocol import (
    HEADER,
    HEADER_SIZE,
    HELLO_BEGINS,
    HELLO_SIZE,
    MAX_PAYLOAD,
    Kind,
    decode_hello,
)

BUFFER: Final = 1 << 20
"""Bytes from the guest that were read but not taken; a frame is at most a quarter of them."""
MAX_SKIPPED: Final = 1 << 24
"""Bytes that come before the agent's greeting, as what an earlier session left."""

_KINDS: Final = {int(kind): kind for kind in Kind}


def violation(what: str) -> AgentError:
    """Return the error of a guest that does not keep to the protocol."""
    return AgentError(
        f"the agent in the guest broke the protocol: {what}; the connection is closed"
    )


class FrameReader:
    """Receives bytes, and gives frames.  It takes no more memory than BUFFER."""

    def __init__(self) -> None:
        self._buffer = bytearray(BUFFER)
        self._view = memoryview(self._buffer)
        self._begin = 0
        self._end = 0
        self._skipped = 0
        self.announced = False
        """Whether the agent has said that it waits for a greeting."""

    def space(self) -> memoryview:
        """Return where the next bytes go.  It is not empty once all whole frames were taken."""
        if self._begin == self._end:
            self._begin = self._end = 0
        elif BUFFER - self._end < HEADER_SIZE + MAX_PAYLOAD:
            rest = self._end - self._begin
            self._view[:rest] = self._view[self._begin : self._end]
            self._begin, self._end = 0, rest
        return self._view[self._end :]

    def received(self, count: int) -> None:
        """Note that `count` bytes were put there."""
        self._end += count

    def find_hello(self, nonce: bytes) -> tuple[int, int] | None:
        """Skip up to and including the greeting with `nonce`; return its range of versions.

        Returns None if it has not come.  Raises AgentError if too much else comes.
        """
        whole = HEADER_SIZE + HELLO_SIZE
        while True:
            at = self._buffer.find(HELLO_BEGINS, self._begin, self._end)
            if at < 0:
                # The end may be the beginning of a greeting.
                self._skip_to(max(self._begin, self._end - len(HELLO_BEGINS) + 1))
                return None
            self._skip_to(at)
            if self._end - at < whole:
                return None
            found, lowest, highest = decode_hello(self._view[at + HEADER_SIZE : at + whole])
            if found == nonce:
                self._begin = at + whole
                return lowest, highest
            self.announced = self.announced or found == bytes(8)
            self._skip_to(at + whole)

    def _skip_to(self, at: int) -> None:
        self._skipped += at - self._begin
        self._begin = at
        if self._skipped > MAX_SKIPPED:
            raise violation(f"{MAX_SKIPPED >> 20} MiB came without a greeting")

    def take(self) -> Iterator[tuple[int, Kind, memoryview]]:
        """Yield each whole frame: channel, kind, payload.  A payload is valid until the next one.

        Raises AgentError for a frame that cannot be.
        """
        while self._end - self._begin >= HEADER_SIZE:
            channel, word = HEADER.unpack_from(self._buffer, self._begin)
            length = word & 0xFFFFFF
            kind = _KINDS.get(word >> 24)
            if length > MAX_PAYLOAD:
                raise violation(f"a frame of {length} bytes")
            if kind is None:
                raise violation(f"a frame of kind {word >> 24}")
            start = self._begin + HEADER_SIZE
            if self._end - start < length:
                return
            self._begin = start + length
            yield channel, kind, self._view[start : self._begin]
