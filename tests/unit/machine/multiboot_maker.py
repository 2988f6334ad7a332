"""Multiboot headers, right and wrong, made in memory."""

import struct

MAGIC_1 = 0x1BADB002
MAGIC_2 = 0xE85250D6
END_TAG = (0, 0, b"")
Tag = tuple[int, int, bytes]


def header_1(flags: int = 0, fields: tuple[int, ...] = (), checksum: int | None = None) -> bytes:
    """Return a header of Multiboot 1 with address `fields`."""
    if checksum is None:
        checksum = -(MAGIC_1 + flags) & 0xFFFF_FFFF
    return struct.pack(f"<{3 + len(fields)}I", MAGIC_1, flags, checksum, *fields)


def tag(kind: int, *words: int, optional: int = 0) -> Tag:
    """Return a tag of 32-bit words."""
    return kind, optional, struct.pack(f"<{len(words)}I", *words)


def header_2(
    *tags: Tag, arch: int = 0, length: int | None = None, end: tuple[Tag, ...] = (END_TAG,)
) -> bytes:
    """Return a header of Multiboot 2 with these tags."""
    body = b""
    for kind, flags, content in (*tags, *end):
        body += struct.pack("<HHI", kind, flags, 8 + len(content)) + content
        body += bytes(-len(body) % 8)
    length = 16 + len(body) if length is None else length
    checksum = -(MAGIC_2 + arch + length) & 0xFFFF_FFFF
    return struct.pack("<IIII", MAGIC_2, arch, length, checksum) + body
