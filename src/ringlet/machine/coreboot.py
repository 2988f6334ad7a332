"""Writes coreboot's table, by which its payloads learn the memory map.

GRUB's image for coreboot has a Multiboot header and is loaded below 1 MiB.  It looks for the table
from 500h on.  The structures are those of coreboot's `commonlib/coreboot_tables.h`.
"""

import struct
from typing import Final

from ringlet.machine import e820

_HEADER: Final = struct.Struct("<4sIIIII")
_SIGNATURE: Final = b"LBIO"
_LB_TAG_MEMORY: Final = 1
_RECORD: Final = struct.Struct("<II")
_RANGE: Final = struct.Struct("<QQI")


def table(memory_size: int) -> bytes:
    """Return the table of a PC with `memory_size` bytes of RAM: its only record is the map."""
    ranges = e820.memory_map(memory_size)
    content = b"".join(_RANGE.pack(r.start, r.end - r.start, r.type) for r in ranges)
    record = _RECORD.pack(_LB_TAG_MEMORY, _RECORD.size + len(content)) + content
    fields = (len(record), _checksum(record), 1)
    header = _HEADER.pack(_SIGNATURE, _HEADER.size, 0, *fields)
    return _HEADER.pack(_SIGNATURE, _HEADER.size, _checksum(header), *fields) + record


def _checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071) of `data`, whose length is even."""
    words: tuple[int, ...] = struct.unpack(f"<{len(data) // 2}H", data)
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
