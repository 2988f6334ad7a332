"""Small ELF files, right and wrong, made in memory."""

import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Part:
    """A program header; `data` is the segment's bytes in the file."""

    physical: int = 0x100000
    data: bytes = b"\xf4"
    size: int | None = None
    kind: int = 1
    file_size: int | None = None
    linear: int | None = None
    offset: int | None = None


def note(name: bytes, kind: int, content: bytes) -> bytes:
    """Return one entry of a PT_NOTE segment."""

    def padded(data: bytes) -> bytes:
        return data + bytes(-len(data) % 4)

    return struct.pack("<III", len(name), len(content), kind) + padded(name) + padded(content)


_LAYOUTS = {  # the header's and the program header's, and their sizes
    1: ("<16sHHIIIIIHHHHHH", "<8I", 52, 32),
    2: ("<16sHHIQQQIHHHHHH", "<IIQQQQQQ", 64, 56),
}


@dataclass(frozen=True)
class Elf:
    """An ELF64 executable for x86-64 unless said otherwise; `sections` are section headers."""

    parts: tuple[Part, ...] = (Part(),)
    entry: int = 0x100000
    elf_class: int = 2
    encoding: int = 1
    kind: int = 2
    machine: int = 62
    header_size: int | None = None
    abi: int = 0
    sections: bytes = b""
    section_size: int = 64
    section_count: int | None = None
    names: int = 0

    def bytes(self) -> bytes:
        header_form, form, header_bytes, part_bytes = _LAYOUTS[self.elf_class]
        ident = b"\x7fELF" + bytes([self.elf_class, self.encoding, 1, self.abi]) + bytes(8)
        offset = header_bytes + part_bytes * len(self.parts)
        table, body = b"", b""
        for part in self.parts:
            size = len(part.data) if part.size is None else part.size
            file_size = len(part.data) if part.file_size is None else part.file_size
            linear = part.physical if part.linear is None else part.linear
            begin = offset + len(body) if part.offset is None else part.offset
            place = (begin, linear, part.physical, file_size, size)
            fields = (part.kind, 5, *place, 1) if self.elf_class == 2 else (part.kind, *place, 5, 1)
            table += struct.pack(form, *fields)
            body += part.data
        count = len(self.sections) // self.section_size
        header = struct.pack(
            header_form, ident, self.kind, self.machine, 1, self.entry, header_bytes,
            offset + len(body) if self.sections else 0, 0, header_bytes,
            part_bytes if self.header_size is None else self.header_size, len(self.parts),
            self.section_size, count if self.section_count is None else self.section_count,
            self.names,
        )  # fmt: skip
        return header + table + body + self.sections

    def with_part(self, part: Part) -> "Elf":
        return replace(self, parts=(*self.parts, part))

    def write(self, path: Path) -> Path:
        path.write_bytes(self.bytes())
        return path


def elf32(parts: tuple[Part, ...] = (Part(),), entry: int = 0x100000, **fields: Any) -> Elf:
    """Return an ELF32 executable for the 80386."""
    return Elf(parts, entry, elf_class=1, machine=3, section_size=40, **fields)
