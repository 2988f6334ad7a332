"""Loads a static ELF64 program for x86-64 (System V ABI, "Object Files"; AMD64 supplement).

A segment goes to its physical address (p_paddr), as firmware would put it; the entry point is a
linear address, which the bare machine maps identically.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from ringlet.config import format_size
from ringlet.errors import ProgramError
from ringlet.machine import address_map
from ringlet.machine.cpu import Memory
from ringlet.machine.files import copy_to_memory, length_of, open_regular

_HEADER: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT: Final = struct.Struct("<IIQQQQQQ")
_CLASS_64: Final = 2
_LITTLE_ENDIAN: Final = 1
_ET_EXEC: Final = 2
_TYPES: Final = {
    0: "has no type",
    1: "is an object file; link it first",
    3: "is position independent; link it with -static -no-pie",
    4: "is a core dump",
}
_MACHINES: Final = {3: "32-bit x86", 40: "ARM", 183: "AArch64", 243: "RISC-V", 8: "MIPS"}
_EM_X86_64: Final = 62
_PT_LOAD: Final = 1
_PT_DYNAMIC: Final = 2
_PT_INTERP: Final = 3
_WANTED: Final = "an ELF64 program"


@dataclass(frozen=True, slots=True)
class Segment:
    """One PT_LOAD: `file_size` bytes at file offset `offset`, then zeros up to `size` bytes."""

    physical: int
    linear: int
    offset: int
    file_size: int
    size: int


@dataclass(frozen=True, slots=True)
class Program:
    """A validated program: where it starts, and what goes where."""

    path: Path
    entry: int
    segments: tuple[Segment, ...]


def read_program(path: Path, ram_size: int) -> Program:
    """Read and check the headers of `path` for a machine with `ram_size` bytes of RAM.

    Raises ProgramError, with one line that says what is wrong and what to do.
    """
    with open_regular(path, _WANTED) as file:
        length = length_of(file)
        entry, table = _read_header(path, file, length)
        segments = tuple(_read_segments(path, table, length, ram_size))
    if not segments:
        raise ProgramError(f"{path}: has nothing to load (no PT_LOAD segment)")
    if not any(s.physical <= entry < s.physical + s.size for s in segments):
        raise ProgramError(
            f"{path}: its entry point {entry:#x} is in none of its segments' physical addresses; "
            "set one with ENTRY(...) or ld -e, and link it where it is loaded"
        )
    return Program(path, entry, segments)


def load_program(program: Program, memory: Memory) -> None:
    """Copy the segments to guest memory, which holds zeros, so that nothing else is written."""
    with open_regular(program.path, _WANTED) as file:
        for s in program.segments:
            copy_to_memory(file, s.offset, s.file_size, memory, s.physical)


def _read_header(path: Path, file: BinaryIO, length: int) -> tuple[int, bytes]:
    """Return the entry point and the program headers."""
    raw = file.read(_HEADER.size)
    if not raw.startswith(b"\x7fELF"):
        what = "is empty" if not raw else "is not an ELF file"
        raise ProgramError(f"{path}: {what}; give a static ELF64 program for x86-64")
    if len(raw) > 4 and raw[4] != _CLASS_64:
        raise ProgramError(f"{path}: is a 32-bit ELF file; the bare machine starts in 64-bit mode")
    if len(raw) < _HEADER.size:
        raise ProgramError(f"{path}: is truncated: {len(raw)} bytes do not hold an ELF header")
    (ident, kind, machine, _, entry, table_at, _, _, _, entry_size, count, *_) = _HEADER.unpack(raw)
    if ident[5] != _LITTLE_ENDIAN:
        raise ProgramError(f"{path}: is a big-endian ELF file; give one for x86-64")
    if machine != _EM_X86_64:
        name = _MACHINES.get(machine, f"machine {machine}")
        raise ProgramError(f"{path}: is for {name}; give one for x86-64")
    if kind != _ET_EXEC:
        raise ProgramError(f"{path}: {_TYPES.get(kind, f'has the unknown type {kind}')}")
    if count and entry_size != _SEGMENT.size:
        raise ProgramError(f"{path}: is damaged: its program headers have {entry_size} bytes")
    if table_at + count * entry_size > length:
        raise ProgramError(f"{path}: is truncated: its program headers lie past its end")
    file.seek(table_at)
    return entry, file.read(count * _SEGMENT.size)


def _read_segments(path: Path, table: bytes, length: int, ram_size: int) -> Iterator[Segment]:
    for kind, _, offset, linear, physical, file_size, size, _ in _SEGMENT.iter_unpack(table):
        if kind in (_PT_INTERP, _PT_DYNAMIC):
            raise ProgramError(f"{path}: is dynamically linked; link it with -static -no-pie")
        if kind != _PT_LOAD or size == 0:
            continue
        segment = Segment(physical, linear, offset, file_size, size)
        where = f"{path}: its segment at {physical:#x}"
        if file_size > size:
            raise ProgramError(f"{where} is damaged: more bytes in the file than in memory")
        if offset + file_size > length:
            raise ProgramError(f"{where} is truncated: the file ends before it")
        if physical < address_map.PROGRAM_START:
            raise ProgramError(
                f"{where} is below 1 MiB, where the loader's page tables and stack are; "
                "link the program at 1 MiB or above, for example with ld -Ttext=0x100000"
            )
        if physical + size > ram_size:
            raise ProgramError(
                f"{where} ends at {physical + size:#x}, beyond the {format_size(ram_size)} of "
                "RAM; link it lower or give more with --memory"
            )
        yield segment
