"""Unpacks the text of a kernel for measurements.

A bzImage's layout is in Linux's Documentation/arch/x86/boot.rst.
"""

import bz2
import lzma
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

from ringlet.errors import ConfigError, HostError
from ringlet.images.debian import fetch_kernel

SETUP_SECTORS = 0x1F1
HEADER_MAGIC = 0x202
PAYLOAD_OFFSET = 0x248
SECTOR = 512


def kernel_text(image: Path | None = None) -> tuple[bytes, int]:
    """Return the `.text` of a kernel and its linear address.

    `image` is a bzImage or a vmlinux; without it, Debian's cloud kernel is fetched once.
    """
    path = image or fetch_kernel().vmlinuz
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the kernel {path}: {error.strerror}") from error
    return elf_text(data if data.startswith(b"\x7fELF") else decompress(payload(data)))


def payload(image: bytes) -> bytes:
    """Return the compressed kernel inside a bzImage."""
    if image[HEADER_MAGIC : HEADER_MAGIC + 4] != b"HdrS":
        raise ConfigError("the kernel is neither a bzImage nor an ELF file")
    offset, length = struct.unpack_from("<II", image, PAYLOAD_OFFSET)
    start = ((image[SETUP_SECTORS] or 4) + 1) * SECTOR + offset
    return image[start : start + length]


def decompress(data: bytes) -> bytes:
    """Decompress a kernel, whatever its compression; a length may follow the stream."""
    if data.startswith((b"\xfd7zXZ\0", b"\x5d\0\0")):
        return lzma.LZMADecompressor().decompress(data)
    if data.startswith(b"\x1f\x8b"):
        return zlib.decompressobj(wbits=31).decompress(data)
    if data.startswith(b"BZh"):
        return bz2.BZ2Decompressor().decompress(data)
    for magic, tool in ((b"\x28\xb5\x2f\xfd", "zstd"), (b"\x02\x21\x4c\x18", "lz4")):
        if data.startswith(magic):
            return _filter(tool, data[:-4])
    if data.startswith(b"\x7fELF"):
        return data
    raise ConfigError(
        f"the kernel's compression is unknown (it starts with {data[:4].hex()}); give a vmlinux"
    )


def elf_text(elf: bytes) -> tuple[bytes, int]:
    """Return the section `.text` of an ELF file, and its address."""
    wide = elf[4] != 1  # ELFCLASS32
    (table,) = struct.unpack_from("<Q" if wide else "<I", elf, 40 if wide else 32)
    size, count, names_index = struct.unpack_from("<HHH", elf, 58 if wide else 46)
    header = "<IIQQQQ" if wide else "<6I"
    headers = [struct.unpack_from(header, elf, table + i * size) for i in range(count)]
    for name, _, _, address, offset, length in headers:
        start = headers[names_index][4] + name
        if elf[start : start + 6] == b".text\0":
            return elf[offset : offset + length], address
    raise ConfigError("the kernel has no section .text")


def _filter(tool: str, data: bytes) -> bytes:
    if shutil.which(tool) is None:
        raise HostError(f"the kernel is compressed with {tool}; install {tool}")
    return subprocess.run([tool, "-dc"], input=data, capture_output=True, check=True).stdout
