"""Undoes the compression of archives and layers, whose first bytes say which one it is."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, Final, cast

from ringlet.errors import ImageError

DAMAGED: Final = (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile)
"""What the decompressors raise about damaged data, besides OSError without a number."""
_LONGEST: Final = 6


@contextmanager
def decompressed(source: Any, name: str) -> Iterator[IO[bytes]]:
    """Give the uncompressed bytes of `source`, a file that is read from where it stands.

    Raises ImageError; damaged data raises the errors that `DAMAGED` has.
    """
    buffered = io.BufferedReader(cast("io.RawIOBase", source), 1 << 20)
    try:
        magic = buffered.peek(_LONGEST)[:_LONGEST]
        if magic.startswith(b"\x1f\x8b"):
            yield cast("IO[bytes]", gzip.GzipFile(fileobj=buffered))
        elif magic.startswith(b"BZh"):
            yield bz2.BZ2File(buffered)
        elif magic.startswith(b"\xfd7zXZ\0"):
            with lzma.LZMAFile(buffered) as file:
                yield file
        elif magic.startswith(b"\x28\xb5\x2f\xfd"):
            yield _zstd(buffered, name)
        else:
            yield buffered
    finally:
        buffered.detach()  # the source stays open


def _zstd(source: Any, name: str) -> IO[bytes]:
    try:
        import zstandard  # type: ignore[import-not-found,unused-ignore]  # an optional package
    except ImportError:
        raise ImageError(f"{name}: it is compressed by zstd; pip install zstandard") from None
    return cast("IO[bytes]", zstandard.ZstdDecompressor().stream_reader(source))
