"""Reads the notes of an ELF file."""

import struct
from collections.abc import Iterator
from typing import BinaryIO, Final, NamedTuple

from ringlet.machine.elf import PT_NOTE, ElfFile
from ringlet.machine.files import read_at

_LONGEST: Final = 1 << 20
_HEADER: Final = struct.Struct("<III")


class Note(NamedTuple):
    """A note: `name` says who defines what `kind` means."""

    name: bytes
    kind: int
    content: bytes


def notes(elf: ElfFile, file: BinaryIO) -> Iterator[Note]:
    """Yield the notes of the file's segments, which may be damaged, and may overlap."""
    room = _LONGEST
    for segment in elf.segments:
        if segment.kind != PT_NOTE:
            continue
        found = read_at(file, segment.offset, min(segment.file_size, room))
        room -= len(found)
        place = 0
        while place + _HEADER.size <= len(found):
            name_size, size, kind = _HEADER.unpack_from(found, place)
            name = place + _HEADER.size
            content = name + _padded(name_size)
            yield Note(found[name : name + name_size], kind, found[content : content + size])
            place = content + _padded(size)


def _padded(size: int) -> int:
    return -(-size // 4) * 4
