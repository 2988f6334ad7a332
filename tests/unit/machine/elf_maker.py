"""Small ELF files, right and wrong, made in memory."""

import struct
from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True)
class Part:
    """A program header; `data` is the segment's bytes in the file."""

    physical: int = 0x100000
    data: bytes = b"\xf4"
    size: int | None = None
    kind: int = 1
    file_size: int | None = None


def note(name: bytes, kind: int, content: bytes) -> bytes:
    """Return one entry of a PT_NOTE segment."""

    def padded(data: bytes) -> bytes:
        return data + bytes(-len(data) % 4)

    return struct.pack("<III", len(name), len(content), kind) + padded(name) + padded(content)


@dataclass(frozen=True)
class Elf:
    """An ELF64 executable for x86-64 unless said otherwise."""

    parts: tuple[Part, ...] = (Part(),)
    entry: int = 0x100000
    elf_class: int = 2
    encoding: int = 1
    kind: int = 2
    machine: int = 62
    header_size: int = 56
    abi: int = 0

    def bytes(self) -> bytes:
        ident = b"\x7fELF" + bytes([self.elf_class, self.encoding, 1, self.abi]) + bytes(8)
        offset = 64 + 56 * len(self.parts)
        table, body = b"", b""
        for part in self.parts:
            size = len(part.data) if part.size is None else part.size
            file_size = len(part.data) if part.file_size is None else part.file_size
            table += struct.pack(
                "<IIQQQQQQ", part.kind, 5, offset + len(body), part.physical, part.physical,
                file_size, size, 1,
            )  # fmt: skip
            body += part.data
        header = struct.pack(
            "<16sHHIQQQIHHHHHH", ident, self.kind, self.machine, 1, self.entry, 64, 0, 0,
            64, self.header_size, len(self.parts), 0, 0, 0,
        )  # fmt: skip
        return header + table + body

    def with_part(self, part: Part) -> "Elf":
        return replace(self, parts=(*self.parts, part))

    def write(self, path: Path) -> Path:
        path.write_bytes(self.bytes())
        return path
