"""Reads the section headers of an ELF kernel, and finds a place for its symbols.

A kernel that prints its own backtraces wants its symbol and string tables, which no segment loads.
"""

import struct
from dataclasses import dataclass
from typing import BinaryIO, Final

from ringlet.machine.elf import ElfFile
from ringlet.machine.files import length_of, read_at
from ringlet.machine.kernel import Piece

LONGEST: Final = 1 << 16
"""A longer table is not handed over; the linkers of kernels make some dozens of sections."""
_SHT_SYMTAB: Final = 2
_SHT_STRTAB: Final = 3
_ALIGNMENT: Final = 16


@dataclass(frozen=True, slots=True)
class _Header:
    """The layout of a section header, and the form and the offset of its sh_addr."""

    layout: struct.Struct
    address_form: str
    address: int


_HEADERS: Final = {
    32: _Header(struct.Struct("<10I"), "<I", 12),
    64: _Header(struct.Struct("<IIQQQQIIQQ"), "<Q", 16),
}


@dataclass(frozen=True, slots=True)
class SectionTable:
    """`count` section headers of `size` bytes, with the places of the symbols in their sh_addr.

    `names` is the number of the section with the names.
    """

    count: int = 0
    size: int = 0
    names: int = 0
    headers: bytes = b""


NO_SECTIONS: Final = SectionTable()


def read_sections(
    elf: ElfFile, file: BinaryIO, end: int
) -> tuple[SectionTable, tuple[Piece, ...], int]:
    """Return the section headers, the pieces of symbols, which are put at `end`, and their end.

    A table that is damaged or very long is no reason to refuse the kernel: there is none then.
    """
    nothing = NO_SECTIONS, (), end
    form, place, length = _HEADERS[elf.bits], elf.sections, length_of(file)
    size = place.count * place.size
    if not place.count or place.size != form.layout.size or size > LONGEST:
        return nothing
    if place.offset + size > length:
        return nothing
    headers = bytearray(read_at(file, place.offset, size))
    if len(headers) < size:
        return nothing
    pieces: list[Piece] = []
    left = length
    for start in range(0, size, place.size):
        _, kind, _, address, offset, bytes_of, *_ = form.layout.unpack_from(headers, start)
        if kind not in (_SHT_SYMTAB, _SHT_STRTAB) or address or not bytes_of:
            continue
        left -= bytes_of
        if offset + bytes_of > length or left < 0:  # the sections overlap in the file
            return nothing
        end = -(-end // _ALIGNMENT) * _ALIGNMENT
        if end + bytes_of >= 1 << 32:
            return nothing
        struct.pack_into(form.address_form, headers, start + form.address, end)
        pieces.append(Piece(offset, bytes_of, end))
        end += bytes_of
    table = SectionTable(place.count, place.size, place.names, bytes(headers))
    return table, tuple(pieces), end
