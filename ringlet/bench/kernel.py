"""A Debian kernel to measure with: fetched without root, unpacked to its text.

The image is the one `linux-image-cloud-amd64` stands for, downloaded by apt with lists and state
of its own.  A bzImage's layout is in Linux's Documentation/arch/x86/boot.rst.
"""

import bz2
import lzma
import os
import re
import shutil
import struct
import subprocess
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from ringlet.bench.toolchain import cache_directory
from ringlet.errors import ConfigError, HostError

METAPACKAGE = "linux-image-cloud-amd64"

SETUP_SECTORS = 0x1F1
HEADER_MAGIC = 0x202
PAYLOAD_OFFSET = 0x248
SECTOR = 512


def kernel_text(image: Path | None = None, cache: Path | None = None) -> tuple[bytes, int]:
    """The `.text` of a kernel and its linear address.

    `image` is a bzImage or a vmlinux; without it Debian's cloud kernel is fetched, once.
    """
    path = image or fetch(cache)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the kernel {path}: {error.strerror}") from error
    return elf_text(data if data.startswith(b"\x7fELF") else decompress(payload(data)))


def fetch(cache: Path | None = None) -> Path:
    """Debian's cloud kernel as a bzImage in the cache, downloaded if it is not there yet."""
    directory = (cache or cache_directory()) / "kernel"
    kept = sorted(directory.glob("vmlinuz-*"), key=lambda path: path.stat().st_mtime)
    if kept:
        return kept[-1]
    for tool in ("apt-get", "apt-cache", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise HostError(f"fetching a Debian kernel needs {tool}: name one with --kernel")
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        found = _download(Path(scratch))
        return found.replace(directory / found.name)


def payload(image: bytes) -> bytes:
    """The compressed kernel inside a bzImage."""
    if image[HEADER_MAGIC : HEADER_MAGIC + 4] != b"HdrS":
        raise ConfigError("the kernel is neither a bzImage nor an ELF file")
    offset, length = struct.unpack_from("<II", image, PAYLOAD_OFFSET)
    start = ((image[SETUP_SECTORS] or 4) + 1) * SECTOR + offset
    return image[start : start + length]


def decompress(data: bytes) -> bytes:
    """Undoes whichever compression the kernel was built with; a length may follow the stream."""
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
    raise ConfigError(f"the kernel is compressed in an unknown way (it starts {data[:4].hex()})")


def elf_text(elf: bytes) -> tuple[bytes, int]:
    """The section `.text` of an ELF64 file, and its address."""
    (table,) = struct.unpack_from("<Q", elf, 40)
    size, count, names_index = struct.unpack_from("<HHH", elf, 58)
    headers = [struct.unpack_from("<IIQQQQ", elf, table + i * size) for i in range(count)]
    for name, _, _, address, offset, length in headers:
        start = headers[names_index][4] + name
        if elf[start : start + 6] == b".text\0":
            return elf[offset : offset + length], address
    raise ConfigError("the kernel has no section .text")


def _filter(tool: str, data: bytes) -> bytes:
    if shutil.which(tool) is None:
        raise HostError(f"the kernel is compressed with {tool}: install {tool}")
    return subprocess.run([tool, "-dc"], input=data, capture_output=True, check=True).stdout


def _download(scratch: Path) -> Path:
    """Runs apt with all it writes below `scratch`; returns the kernel's image there."""
    for name in ("state/lists/partial", "cache/archives/partial", "root"):
        (scratch / name).mkdir(parents=True)
    options = [
        f"Dir::State={scratch}/state",
        f"Dir::Cache={scratch}/cache",
        "Dir::State::status=/var/lib/dpkg/status",
        "APT::Sandbox::User=",
        "Acquire::Languages=none",
        "APT::Architecture=amd64",
    ]
    flags = [word for option in options for word in ("-o", option)]
    _run(["apt-get", *flags, "-qq", "update"], scratch)
    record = _run(["apt-cache", *flags, "show", "--no-all-versions", METAPACKAGE], scratch)
    depends = re.search(r"^Depends: (linux-image-[\w.+-]+)", record, re.MULTILINE)
    if depends is None:
        raise HostError(f"apt does not know {METAPACKAGE} here: name a kernel with --kernel")
    _run(["apt-get", *flags, "-qq", "download", depends.group(1)], scratch)
    package = next(scratch.glob("*.deb"))
    _run(["dpkg-deb", "-x", str(package), str(scratch / "root")], scratch)
    return next((scratch / "root" / "boot").glob("vmlinuz-*"))


def _run(command: Sequence[str], directory: Path) -> str:
    result = subprocess.run(
        command, cwd=directory, capture_output=True, text=True, check=False,
        env={**os.environ, "LC_ALL": "C"},
    )  # fmt: skip
    if result.returncode:
        last = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise HostError(f"cannot fetch a Debian kernel ({last}): name one with --kernel")
    return result.stdout
