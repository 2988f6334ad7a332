"""Large reads in order: the host reads what will be asked for next.

The host's own reading ahead waits for its disk again and again, because requests are as long as
what it reads at once.
"""

from dataclasses import dataclass
from typing import Final

LARGE: Final = 1 << 16
"""The least length in bytes of a request that can belong to a stream."""
AHEAD: Final = 8 << 20
"""The most bytes that are read ahead."""
PIECE: Final = 1 << 20
"""The most bytes of one call that reads ahead: Linux ignores what exceeds one request."""
STREAMS: Final = 4
"""How many places are read in order at the same time."""
_SLACK: Final = 1 << 20
"""How far from its place in order a request may be: drivers send some of them out of order."""
_FIRST: Final = 4 * LARGE
"""The bytes in order after which reading ahead begins."""

Range = tuple[int, int]
"""Offset and length in bytes."""


@dataclass(slots=True)
class _Stream:
    """What was read in order: up to `next`, `run` bytes; the host reads up to `told`."""

    next: int
    run: int = 0
    told: int = 0


class ReadAhead:
    """Sees the reads of a disk and says what the host should read now."""

    def __init__(self) -> None:
        self._streams: list[_Stream] = []

    def after(self, offset: int, length: int, *, ask: bool = True) -> Range | None:
        """Note a large read; with `ask`, return what should be read ahead of it, or None."""
        end = offset + length
        stream = self._stream(offset)
        stream.next = max(stream.next, end)
        stream.run += length
        ahead = min(2 * stream.run, AHEAD)
        if not ask or stream.run < _FIRST or stream.told - stream.next > ahead // 2:
            return None
        begin = max(stream.told, stream.next)
        stream.told = stream.next + ahead
        return begin, stream.told - begin

    def _stream(self, offset: int) -> _Stream:
        """Return the stream that a read at `offset` continues, the latest first, or a new one."""
        streams = self._streams
        for stream in streams:
            if -_SLACK <= offset - stream.next <= _SLACK:
                break
        else:
            stream = _Stream(offset)
        self._streams = [stream, *(other for other in streams if other is not stream)][:STREAMS]
        return stream
