"""Compressed data, good and hostile: what it takes of the host's memory and time."""

import bz2
import gzip
import io
import lzma
import os
import shutil
import subprocess
import tracemalloc
import zlib
from collections.abc import Callable

import pytest

from ringlet.errors import ImageError
from ringlet.images import compression
from ringlet.images.compression import Flow, decompressed

Pack = Callable[[bytes], bytes]
DATA = b"".join(b"line %d\n" % n for n in range(50_000))
ALL: list[Pack] = [bytes, gzip.compress, bz2.compress, lzma.compress]


def plain(data: bytes, flow: Flow | None = None) -> bytes:
    with decompressed(io.BytesIO(data), "a.tar", flow) as file:
        return file.read()


@pytest.mark.parametrize("pack", ALL)
def test_all_kinds(pack: Pack) -> None:
    packed = io.BytesIO(pack(DATA))

    with decompressed(packed, "a.tar") as file:
        assert file.read(10) == DATA[:10]
        assert file.read() == DATA[10:]
        assert file.read(10) == b""

    assert not packed.closed


@pytest.mark.parametrize("pack", ALL[1:])
def test_one_stream_after_the_other(pack: Pack) -> None:
    assert plain(pack(DATA) + pack(b"") + pack(b"more")) == DATA + b"more"


@pytest.mark.parametrize("pack", ALL[1:])
def test_data_that_breaks_off(pack: Pack) -> None:
    with pytest.raises(compression.DAMAGED):
        plain(pack(DATA)[:-20])


def test_zeros_between_streams_of_xz() -> None:
    zeros = bytes(20_000)

    assert plain(lzma.compress(DATA) + zeros + lzma.compress(b"more") + zeros) == DATA + b"more"


@pytest.mark.parametrize(
    "data",
    [lzma.compress(DATA)[:200] + bytes(200) + lzma.compress(DATA)[400:],
     lzma.compress(b"") + b"x" * 20],
    ids=["inside", "behind"],
)  # fmt: skip
def test_damaged_xz(data: bytes) -> None:
    with pytest.raises(lzma.LZMAError):
        plain(data)


def of_dictionary(size: int) -> bytes:
    """Return 10 bytes in .xz that ask for a dictionary of `size` bytes."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 20}]
    data = bytearray(lzma.compress(bytes(10), check=lzma.CHECK_NONE, filters=filters))
    # The header of the block stands behind the 12 bytes of the stream's (The .xz File Format, 3.1):
    # sizes and flags, the filter 21h with one byte of properties, zeros, and a CRC32.
    assert data[14:16] == b"\x21\x01"
    data[16] = (size.bit_length() - 1 - 12) * 2
    data[20:24] = zlib.crc32(data[12:20]).to_bytes(4, "little")
    return bytes(data)


@pytest.mark.parametrize("size", [1 << 28, 1 << 31])
def test_xz_with_a_dictionary_that_is_too_large(size: int) -> None:
    with pytest.raises(
        ImageError, match=r"^a\.tar: to undo its compression takes more than 256 MiB of memory; "
    ):
        plain(of_dictionary(size))


def test_xz_with_the_largest_dictionary_of_its_presets() -> None:
    assert plain(of_dictionary(64 << 20)) == bytes(10)


@pytest.mark.parametrize(
    "data",
    [gzip.compress(b"") * 600_000, bz2.compress(b"") * 800_000, lzma.compress(b"") * 300_000,
     b"\x1f\x8b\x08\x08" + b"name" * 4_000_000],
    ids=["gz", "bz2", "xz", "name"],
)  # fmt: skip
def test_data_that_is_long_and_says_nothing(data: bytes) -> None:
    source = io.BytesIO(data)

    with (
        pytest.raises(ImageError, match=r"^a\.tar: its compressed data is long and says too"),
        decompressed(source, "a.tar") as file,
    ):
        file.read()

    assert source.tell() <= compression.WASTE + (1 << 20)


def test_what_says_nothing_is_counted_for_all_layers() -> None:
    flow = Flow()
    layer = b"\x1f\x8b\x08\x08" + b"n" * (1 << 20) + b"\0" + gzip.compress(b"x")[10:]

    assert [plain(layer, flow) for _ in range(3)] == [b"x"] * 3
    with pytest.raises(ImageError, match="says too little"):
        plain(layer, flow)


def test_data_that_cannot_be_compressed_is_no_waste(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "WASTE", 3 << 20)
    data = os.urandom(8 << 20)

    for pack in (gzip.compress, bz2.compress, lambda data: lzma.compress(data, preset=0)):
        assert plain(pack(data)) == data


def test_a_bomb_takes_no_memory() -> None:
    packed = gzip.compress(bytes(64 << 20))
    tracemalloc.start()
    try:
        with decompressed(io.BytesIO(packed), "a.tar") as file:
            while file.read(1 << 16):
                pass
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def zstd(data: bytes, *options: str) -> bytes:
    """Return what the program zstd makes of `data`."""
    if shutil.which("zstd") is None:
        pytest.skip("this host has no zstd")
    pytest.importorskip("zstandard")
    done = subprocess.run(["zstd", "-qc", *options], input=data, capture_output=True, check=True)
    return done.stdout


def test_zstd_of_several_frames() -> None:
    skippable = b"\x50\x2a\x4d\x18\x04\0\0\0name"

    assert plain(zstd(DATA) + skippable + zstd(b"more") + skippable) == DATA + b"more"


@pytest.mark.parametrize("left", [1, 4, 100, 10_000])
def test_zstd_that_breaks_off(left: int) -> None:
    packed = zstd(os.urandom(300_000) + DATA)

    for data in (packed[:-left], packed + packed[:-left]):
        with pytest.raises(compression.DAMAGED):
            plain(data)


def test_zstd_with_a_window_that_is_too_large() -> None:
    with pytest.raises(ImageError, match=r"more than 128 MiB of memory; .* zstd -19 or less$"):
        plain(zstd(DATA, "--ultra", "--long=31"))


def test_damaged_zstd() -> None:
    packed = zstd(DATA)

    with pytest.raises(ImageError, match=r"^a\.tar: its compressed data is damaged: "):
        plain(packed[:50] + bytes(50) + packed[100:])
