"""Undoes the compression of archives and layers, whose first bytes say which one it is.

Compressed data is hostile input.  It may ask for a window of gigabytes, and it may be long without
saying anything, as a million empty streams are.
"""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Final, cast

from ringlet.errors import ImageError

MEMORY: Final = 256 << 20
"""The most bytes of memory that a decompressor takes.  What `xz -9` made needs 65 MiB."""
WASTE: Final = 4 << 20
"""The most compressed bytes, beyond twice those that come of them, which all layers have."""
DAMAGED: Final = (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile)
"""What the decompressors raise about damaged data, besides OSError without a number."""
_LONGEST: Final = 6
_BUFFER: Final = 1 << 20
_INPUT: Final = 1 << 13
"""The bytes that are given to liblzma at once; it gives back those behind the end of a stream."""
_ZSTD_INPUT: Final = 1 << 10
"""The bytes that are given to zstd at once.  Each block of 4 bytes may be one of 128 KiB."""
_WINDOW: Final = 1 << 27
"""The largest window of zstd, in bytes: that of `zstd --ultra -22`."""


@dataclass(slots=True)
class Flow:
    """The compressed bytes that were read, and the uncompressed ones that came of them."""

    read: int = 0
    made: int = 0


@contextmanager
def decompressed(source: Any, name: str, flow: Flow | None = None) -> Iterator[IO[bytes]]:
    """Give the uncompressed bytes of `source`, a file that is read from where it stands.

    `name` is for messages, and `flow` counts for all layers of an image.  Raises ImageError;
    damaged data raises the errors that `DAMAGED` has.
    """
    flow = flow or Flow()
    input_ = _Input(source, name, flow)
    buffered = io.BufferedReader(input_, _BUFFER)
    try:
        magic = buffered.peek(_LONGEST)[:_LONGEST]
        if magic.startswith(b"\x1f\x8b"):
            file: Any = gzip.GzipFile(fileobj=buffered)
        elif magic.startswith(b"BZh"):
            file = bz2.BZ2File(buffered)
        elif magic.startswith(b"\xfd7zXZ\0"):
            file = open_xz(buffered, name)
        elif magic.startswith(b"\x28\xb5\x2f\xfd"):
            file = _open_zstd(buffered, name)
        else:
            input_.compressed = False
            file = buffered
        yield cast("IO[bytes]", _Output(file, flow))
    finally:
        buffered.detach()  # the source stays open


def open_xz(source: IO[bytes], name: str) -> IO[bytes]:
    """Return the uncompressed bytes of a file in the format .xz.

    Reading raises lzma.LZMAError or EOFError if it is damaged, and ImageError if it needs too much
    memory.
    """
    return io.BufferedReader(_Xz(source, name), _BUFFER)


class _Input(io.RawIOBase):
    """A compressed file; more of it is read only while something comes of it."""

    def __init__(self, source: Any, name: str, flow: Flow) -> None:
        self._source = source
        self._name = name
        self._flow = flow
        self.compressed = True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._source.read(len(buffer)) or b""
        buffer[: len(data)] = data
        self._flow.read += len(data)
        if self.compressed and self._flow.read > 2 * self._flow.made + WASTE:
            raise ImageError(f"{self._name}: its compressed data is long and says too little")
        return len(data)


class _Output:
    """The uncompressed bytes."""

    def __init__(self, file: Any, flow: Flow) -> None:
        self._file = file
        self._flow = flow

    def read(self, size: int = -1) -> bytes:
        """Return `size` bytes, fewer at the end, or all."""
        parts = []
        while size:
            data = self._file.read(_BUFFER if size < 0 else min(size, _BUFFER))
            if not data:
                break
            self._flow.made += len(data)
            size -= len(data) if size > 0 else 0
            parts.append(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)


class _Xz(io.RawIOBase):
    """The uncompressed bytes of .xz: of one stream after the other, with zeros between them.

    lzma.LZMAFile takes as much memory as the data asks for.
    """

    def __init__(self, source: IO[bytes], name: str) -> None:
        self._source = source
        self._name = name
        self._stream = _xz_stream()
        self._next = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._stream.eof or self._begin():
            data = self._next
            if not data and self._stream.needs_input:
                data = self._source.read(_INPUT)
                if not data:
                    raise EOFError("its compressed data ends too early")
            self._next = b""
            try:
                plain = self._stream.decompress(data, len(buffer))
            except lzma.LZMAError as error:
                if "limit" not in str(error):  # "Memory usage limit exceeded"
                    raise
                raise _too_large(self._name, MEMORY, "xz -9 or less") from error
            if plain:
                buffer[: len(plain)] = plain
                return len(plain)
        return 0

    def _begin(self) -> bool:
        """Go on with the next stream.  Return whether there is one."""
        data = self._stream.unused_data.lstrip(b"\0")
        while not data:
            more = self._source.read(_INPUT)
            if not more:
                return False
            data = more.lstrip(b"\0")
        self._stream, self._next = _xz_stream(), data
        return True


def _too_large(name: str, most: int, instead: str) -> ImageError:
    return ImageError(
        f"{name}: to undo its compression takes more than {most >> 20} MiB of memory; compress it "
        f"again with {instead}"
    )


def _xz_stream() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, MEMORY)


def _open_zstd(source: Any, name: str) -> Any:
    try:
        import zstandard  # type: ignore[import-not-found,unused-ignore]  # an optional package
    except ImportError:
        raise ImageError(f"{name}: it is compressed by zstd; pip install zstandard") from None
    return io.BufferedReader(_Zstd(zstandard, source, name), _BUFFER)


class _Zstd(io.RawIOBase):
    """The uncompressed bytes of .zst, of one frame after the other.

    The library's own reader takes a frame that breaks off for a whole one.
    """

    def __init__(self, zstandard: Any, source: Any, name: str) -> None:
        self._error = zstandard.ZstdError
        self._frames = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
        self._source = source
        self._name = name
        self._frame: Any = None
        self._next = b""
        self._plain = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._plain:
            data = self._next or self._source.read(_ZSTD_INPUT)
            if not data:
                if self._frame is not None:
                    raise EOFError("its compressed data ends too early")
                return 0
            self._plain = memoryview(self._more(data))
        size = min(len(buffer), len(self._plain))
        buffer[:size] = self._plain[:size]
        self._plain = self._plain[size:]
        return size

    def _more(self, data: bytes) -> bytes:
        """Return what comes of `data`, up to the end of a frame.  Raises ImageError."""
        if self._frame is None:
            self._frame = self._frames.decompressobj()
        try:
            plain: bytes = self._frame.decompress(data)
        except self._error as error:
            if "memory" in str(error):  # "Frame requires too much memory for decoding"
                raise _too_large(self._name, _WINDOW, "zstd -19 or less") from error
            raise ImageError(f"{self._name}: its compressed data is damaged: {error}") from error
        self._next = b""
        if self._frame.eof:
            self._next = self._frame.unused_data
            self._frame = None
        return plain
