"""The head of a qcow2 image (QEMU's docs/interop/qcow2.txt); the engine reads all the rest.

Ringlet reads it to know the chain of backing files before the engine opens one: an image may name
any file of the host, or a server, as its backing file.
"""

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ringlet.errors import DiskError

MAGIC: Final = b"QFI\xfb"
HEAD: Final = struct.Struct(">4sIQIIQIIQQIIQ")
MORE: Final = struct.Struct(">QQQII")
_V2_HEADER: Final = 72
BACKING_FORMAT: Final = 0xE2792ACA
_EXTERNAL_DATA: Final = 1 << 2
LONGEST_NAME: Final = 1023
_HEADER_AREA: Final = 1 << 16
_CLUSTER_BITS: Final = range(9, 22)


@dataclass(frozen=True, slots=True)
class Head:
    """What the head of an image says: the disk's size in bytes and the image below it."""

    size: int
    backing: str | None
    backing_format: str | None


def read_head(path: Path, fd: int) -> Head | None:
    """Return the checked head of the image `fd`, None if it is not qcow2.

    The file is hostile input.  Raises DiskError or OSError.
    """
    data = os.pread(fd, _HEADER_AREA, 0)
    if not data.startswith(MAGIC):
        return None
    if len(data) < _V2_HEADER + MORE.size:
        data = data.ljust(_V2_HEADER + MORE.size, b"\0")
    _, version, name_at, name_size, cluster_bits, size, encryption, *_ = HEAD.unpack_from(data)
    incompatible, header_size = 0, _V2_HEADER
    if version == 3:
        incompatible, _, _, _, header_size = MORE.unpack_from(data, _V2_HEADER)
    elif version != 2:
        raise _unusable(path, f"version {version} of qcow2 is unknown")
    if cluster_bits not in _CLUSTER_BITS or not 0 < size < 1 << 62 or header_size < _V2_HEADER:
        raise _unusable(path, "its header is damaged")
    if encryption:
        raise _unusable(path, "it is encrypted; convert it with qemu-img convert")
    if incompatible & _EXTERNAL_DATA:
        raise _unusable(path, "its data is in another file; convert it with qemu-img convert")
    if not name_at:
        return Head(size, None, None)
    if not 0 < name_size <= LONGEST_NAME or name_at + name_size > len(data):
        raise _unusable(path, "its header is damaged")
    name = os.fsdecode(data[name_at : name_at + name_size])
    if "\0" in name:
        raise _unusable(path, "its header is damaged")
    return Head(size, name, _backing_format(data[header_size:name_at]))


def _backing_format(extensions: bytes) -> str | None:
    at = 0
    while at + 8 <= len(extensions):
        kind, length = struct.unpack_from(">II", extensions, at)
        if not kind:
            break
        if kind == BACKING_FORMAT:
            return extensions[at + 8 : at + 8 + length].decode(errors="replace")
        at += 8 + (length + 7 & -8)
    return None


def _unusable(path: Path, why: str) -> DiskError:
    return DiskError(f"disk {path}: this qcow2 image cannot be used: {why}")


def is_local(name: str) -> bool:
    """Return whether QEMU takes the name of a backing file as that of a file ("json:", "nbd:")."""
    head, colon, _ = name.partition(":")
    return not colon or "/" in head
