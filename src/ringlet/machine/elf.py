"""Reads ELF files for x86 (System V ABI, "Object Files", and its supplements); loads programs.

A file is ELF64 for x86-64, or ELF32 for the Intel 80386.  A segment is loaded at its physical
address (p_paddr), as firmware would do.  The entry point of a program is a linear address, which
the bare machine maps identically.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from ringlet.config import format_size
from ringlet.errors import ProgramError
from ringlet.machine import address_map, flat_image
from ringlet.machine.cpu import Memory
from ringlet.machine.e820 import ram_ends
from ringlet.machine.files import copy_to_memory, length_of, open_regular, read_at

MAGIC: Final = b"\x7fELF"
ET_EXEC: Final = 2
PT_LOAD: Final = 1
PT_DYNAMIC: Final = 2
PT_INTERP: Final = 3
PT_NOTE: Final = 4

_IDENT_SIZE: Final = 16
_LITTLE_ENDIAN: Final = 1
_TYPES: Final = {
    0: "has no type",
    1: "is an object file; link it first",
    3: "is position independent; link it with -static -no-pie",
    4: "is a core dump",
}
_MACHINES: Final = {
    3: "32-bit x86", 6: "the Intel MCU", 8: "MIPS", 40: "ARM", 62: "x86-64", 183: "AArch64",
    243: "RISC-V",
}  # fmt: skip
_WANTED: Final = "a static ELF program for x86 (ELF64 or ELF32)"


def is_elf64(path: Path) -> bool:
    """Return whether `path` is an ELF64 file; False if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(5) == MAGIC + b"\x02"
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class _Format:
    """One class of ELF files: its name, its machine, and the layouts of its headers."""

    bits: int
    machine: int
    header: struct.Struct
    segment: struct.Struct


_FORMATS: Final = {
    1: _Format(32, 3, struct.Struct("<16sHHIIIIIHHHHHH"), struct.Struct("<8I")),
    2: _Format(64, 62, struct.Struct("<16sHHIQQQIHHHHHH"), struct.Struct("<IIQQQQQQ")),
}
"""By EI_CLASS."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A program header; a PT_LOAD's `file_size` bytes are followed by zeros up to `size`."""

    kind: int
    physical: int
    linear: int
    offset: int
    file_size: int
    size: int


@dataclass(frozen=True, slots=True)
class Sections:
    """Where the section headers are in the file: `count` of them; `names` is e_shstrndx."""

    offset: int
    size: int
    count: int
    names: int


@dataclass(frozen=True, slots=True)
class ElfFile:
    """The headers of an ELF file for x86: `kind` is ET_EXEC or another, `abi` EI_OSABI.

    `bits` is 32 or 64.
    """

    path: Path
    bits: int
    kind: int
    abi: int
    entry: int
    segments: tuple[Segment, ...]
    sections: Sections

    def enters(self) -> bool:
        """Return whether the entry point is the physical address of a loaded segment's byte."""
        return self.loads(self.entry)

    def loads(self, physical: int) -> bool:
        """Return whether a loaded segment has a byte at address `physical`."""
        return any(
            s.kind == PT_LOAD and s.physical <= physical < s.physical + s.size
            for s in self.segments
        )

    def physical_entry(self) -> int | None:
        """Return the physical address of the entry point; None if it is in no loaded segment.

        The entry point is a linear address or, if no segment has that, a physical one.
        """
        for s in self.segments:
            if s.kind == PT_LOAD and s.linear <= self.entry < s.linear + s.size:
                return self.entry - s.linear + s.physical
        return self.entry if self.enters() else None


@dataclass(frozen=True, slots=True)
class Program:
    """A validated program of 32 or 64 `bits`: its entry point and its segments."""

    path: Path
    bits: int
    entry: int
    segments: tuple[Segment, ...]


def read_elf(path: Path, file: BinaryIO, wanted: str) -> ElfFile:
    """Read the headers of the open `file` and check the segments that are loaded.

    Messages tell the user to give `wanted` instead.  Raises ProgramError.
    """
    length = length_of(file)
    ident = read_at(file, 0, _IDENT_SIZE)
    if not ident.startswith(MAGIC):
        what = "is not an ELF file" if ident else "is empty"
        raise ProgramError(f"{path}: {what}; give {wanted}")
    form = _FORMATS.get(ident[4] if len(ident) > 4 else 2)
    if form is None:
        raise ProgramError(f"{path}: is an ELF file of unknown class {ident[4]}; give {wanted}")
    raw = read_at(file, 0, form.header.size)
    if len(raw) < form.header.size:
        raise ProgramError(f"{path}: is truncated: {len(raw)} bytes cannot hold an ELF header")
    (ident, kind, machine, _, entry, table_at, sections_at, _, _, entry_size, count,
     section_size, section_count, names) = form.header.unpack(raw)  # fmt: skip
    if ident[5] != _LITTLE_ENDIAN:
        raise ProgramError(f"{path}: is a big-endian ELF file; give {wanted}")
    if machine != form.machine:
        name = _MACHINES.get(machine, f"machine {machine}")
        raise ProgramError(f"{path}: is an ELF{form.bits} file for {name}; give {wanted}")
    if count and entry_size != form.segment.size:
        raise ProgramError(f"{path}: is damaged: its program headers have {entry_size} bytes")
    if table_at + count * entry_size > length:
        raise ProgramError(f"{path}: is truncated: its program headers lie past its end")
    table = read_at(file, table_at, count * form.segment.size)
    segments = tuple(_segments(path, _headers(form, table), length))
    sections = Sections(sections_at, section_size, section_count, names)
    return ElfFile(path, form.bits, kind, ident[7], entry, segments, sections)


def read_program(path: Path, ram_size: int) -> Program:
    """Read and check the headers of `path` for a machine with `ram_size` bytes of RAM.

    Raises ProgramError with one line that says what is wrong and what to do.
    """
    with open_regular(path, _WANTED) as file:
        if not MAGIC.startswith(read_at(file, 0, len(MAGIC))):
            how = flat_image.advice(path)
            raise ProgramError(f"{path}: is not an ELF file; give {_WANTED}, or {how}")
        elf = read_elf(path, file, _WANTED)
    if elf.kind != ET_EXEC:
        unknown = f"has the unknown type {elf.kind}"
        raise ProgramError(f"{path}: {_TYPES.get(elf.kind, unknown)}")
    if any(s.kind in (PT_INTERP, PT_DYNAMIC) for s in elf.segments):
        raise ProgramError(f"{path}: is dynamically linked; link it with -static -no-pie")
    loaded = tuple(s for s in elf.segments if s.kind == PT_LOAD)
    if not loaded:
        raise ProgramError(f"{path}: has nothing to load (no PT_LOAD segment)")
    for segment in loaded:
        _check_place(path, segment, ram_size)
    if not elf.enters():
        raise ProgramError(
            f"{path}: its entry point {elf.entry:#x} is not in the physical addresses of its "
            "segments; set it with ENTRY(...) or ld -e, and link the program at its load address"
        )
    return Program(path, elf.bits, elf.entry, loaded)


def load_program(program: Program, memory: Memory) -> None:
    """Copy the segments to guest memory, which holds zeros, so zeros need not be written."""
    with open_regular(program.path, _WANTED) as file:
        for s in program.segments:
            copy_to_memory(file, s.offset, s.file_size, memory, s.physical)


def _headers(form: _Format, table: bytes) -> Iterator[Segment]:
    """Yield the program headers of `table`."""
    for fields in form.segment.iter_unpack(table):
        if form.bits == 64:
            kind, _, offset, linear, physical, file_size, size, _ = fields
        else:
            kind, offset, linear, physical, file_size, size, _, _ = fields
        yield Segment(kind, physical, linear, offset, file_size, size)


def _segments(path: Path, headers: Iterable[Segment], length: int) -> Iterator[Segment]:
    """Yield the segments, except empty ones of type PT_LOAD."""
    loaded = 0
    for header in headers:
        if header.kind != PT_LOAD:
            yield header
            continue
        file_size, size = header.file_size, header.size
        where = f"{path}: its segment at {header.physical:#x}"
        if not size:
            continue
        if file_size > size:
            raise ProgramError(f"{where} is damaged: it has more bytes in the file than in memory")
        if header.offset + file_size > length:
            raise ProgramError(f"{where} is truncated: the file ends before the segment does")
        loaded += file_size
        if loaded > length:
            raise ProgramError(f"{path}: is damaged: its segments overlap in the file")
        yield header


def _check_place(path: Path, segment: Segment, ram_size: int) -> None:
    where = f"{path}: its segment at {segment.physical:#x}"
    if segment.physical < address_map.PROGRAM_START:
        raise ProgramError(
            f"{where} is below 1 MiB, where the loader's tables and stack are; "
            "link the program at 1 MiB or above, for example with ld -Ttext=0x100000"
        )
    end = segment.physical + segment.size
    ram_end, _ = ram_ends(ram_size)
    if end > address_map.DEVICE_HOLE:
        raise ProgramError(
            f"{where} ends at {end:#x}, where a machine has no RAM; give it a load address of its "
            "own, with AT(...) in the linker script, and enter it there"
        )
    if end > ram_end:
        raise ProgramError(
            f"{where} ends at {end:#x}, beyond the first {format_size(ram_end)} of "
            "RAM; link the program lower or give more RAM with --memory"
        )
