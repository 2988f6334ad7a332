"""Unpacking kernels."""

import bz2
import gzip
import lzma
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from ringlet.bench.kernel import decompress, elf_text, kernel_text, payload
from ringlet.errors import ConfigError
from ringlet.images.debian import CLOUD_KERNEL, kernels_of
from ringlet.images.store import Store, default_root

TEXT = b"\x90\xc3" * 50


def elf(text: bytes = TEXT, address: int = 0xFFFFFFFF81000000) -> bytes:
    """An ELF64 with a .text and the table of section names."""
    names = b"\0.text\0.shstrtab\0"
    header = bytearray(64)
    header[:4] = b"\x7fELF"
    struct.pack_into("<Q", header, 40, 64)
    struct.pack_into("<HHH", header, 58, 64, 3, 2)
    start = 64 + 3 * 64
    table = bytes(64)
    table += struct.pack("<IIQQQQ", 1, 1, 6, address, start, len(text)).ljust(64, b"\0")
    table += struct.pack("<IIQQQQ", 7, 3, 0, 0, start + len(text), len(names)).ljust(64, b"\0")
    return bytes(header) + table + text + names


def elf32(text: bytes = TEXT, address: int = 0xC1000000) -> bytes:
    """An ELF32 with a .text and the table of section names."""
    names = b"\0.text\0.shstrtab\0"
    header = bytearray(52)
    header[:5] = b"\x7fELF\1"
    struct.pack_into("<I", header, 32, 52)
    struct.pack_into("<HHH", header, 46, 40, 3, 2)
    start = 52 + 3 * 40
    table = bytes(40)
    table += struct.pack("<6I", 1, 1, 6, address, start, len(text)).ljust(40, b"\0")
    table += struct.pack("<6I", 7, 3, 0, 0, start + len(text), len(names)).ljust(40, b"\0")
    return bytes(header) + table + text + names


def bzimage(packed: bytes, sectors: int = 3) -> bytes:
    image = bytearray((sectors + 1) * 512)
    image[0x1F1] = sectors
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", image, 0x248, 40, len(packed))
    return bytes(image) + bytes(40) + packed + b"after"


def test_text_and_its_address_come_from_the_section_table() -> None:
    assert elf_text(elf()) == (TEXT, 0xFFFFFFFF81000000)
    assert elf_text(elf32()) == (TEXT, 0xC1000000)


def test_the_payload_follows_the_setup_sectors() -> None:
    assert payload(bzimage(b"packed")) == b"packed"


def test_a_file_that_is_no_bzimage_is_refused() -> None:
    with pytest.raises(ConfigError, match="neither a bzImage nor an ELF"):
        payload(bytes(2048))


@pytest.mark.parametrize(
    "compress",
    [
        gzip.compress,
        bz2.compress,
        lzma.compress,
        lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE),
        bytes,
    ],
    ids=["gzip", "bzip2", "xz", "lzma", "none"],
)
def test_a_stream_with_its_length_behind_it_is_unpacked(
    compress: Callable[[bytes], bytes],
) -> None:
    data = elf()

    assert decompress(compress(data) + struct.pack("<I", len(data))).startswith(data)


def test_an_unknown_compression_is_named() -> None:
    with pytest.raises(ConfigError, match="01020304"):
        decompress(bytes([1, 2, 3, 4, 5]))


def test_a_kernel_file_gives_its_text(tmp_path: Path) -> None:
    image = tmp_path / "vmlinuz"
    image.write_bytes(bzimage(lzma.compress(elf())))

    assert kernel_text(image) == (TEXT, 0xFFFFFFFF81000000)


def test_a_missing_kernel_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        kernel_text(tmp_path / "none")


def test_a_kernel_already_fetched_is_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with Store(default_root()).adding(kernels_of(), CLOUD_KERNEL) as (directory, facts):
        (directory / "vmlinuz").write_bytes(elf())
        (directory / "package.deb").write_bytes(b"")
        facts.update(package="linux-image-6.1", version="6.1-1", release="6.1")

    assert kernel_text() == (TEXT, 0xFFFFFFFF81000000)
