"""Reads an unpacked Linux kernel: vmlinux, an ELF64 file.

Its entry point is the code that a bzImage jumps to after unpacking itself: 64-bit code, with RSI
pointing at `boot_params`, by the same protocol as the bzImage's own entry.  This module makes the
setup header that a bzImage would have.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from ringlet.errors import ProgramError
from ringlet.machine import address_map as at
from ringlet.machine import setup_header as field
from ringlet.machine.elf import (
    ET_EXEC,
    PT_DYNAMIC,
    PT_INTERP,
    PT_LOAD,
    PT_NOTE,
    ElfFile,
    read_elf,
)
from ringlet.machine.files import read_at
from ringlet.machine.kernel import WANTED, Kernel, Piece, check_end

_ABI_GNU: Final = 3
_XEN: Final = b"Xen\0"
_XEN_ELFNOTE_PHYS32_ENTRY: Final = 18
_LONGEST_NOTES: Final = 1 << 20
_NOTE: Final = struct.Struct("<III")
_INITRD_ADDR_MAX: Final = 0xFFFF_FFFF
_COMMAND_LINE_SIZE: Final = 2047
"""COMMAND_LINE_SIZE of Linux's arch/x86/include/asm/setup.h, without the final zero."""


def read_vmlinux(path: Path, file: BinaryIO, memory_size: int) -> Kernel:
    """Check `file`, which is an ELF file, for a PC with `memory_size` bytes of RAM.

    Raises ProgramError, and ConfigError if the RAM is too small.
    """
    elf = read_elf(path, file, WANTED)
    if elf.abi == _ABI_GNU or any(s.kind in (PT_INTERP, PT_DYNAMIC) for s in elf.segments):
        raise ProgramError(f"{path}: is a program for Linux, not a kernel; give {WANTED}")
    if elf.kind != ET_EXEC:
        raise ProgramError(f"{path}: is not a linked ELF executable; give {WANTED}")
    _check_entry(elf, file)
    loaded = [s for s in elf.segments if s.kind == PT_LOAD]
    lowest = min(s.physical for s in loaded)
    if lowest < at.HIGH_RAM:
        raise ProgramError(f"{path}: is not a kernel: a segment of it is at {lowest:#x}")
    end = max(s.physical + s.size for s in loaded)
    check_end(path, end, memory_size)
    return Kernel(
        path,
        _header(),
        tuple(Piece(s.offset, s.file_size, s.physical) for s in loaded),
        elf.entry,
        end,
        memory_size,
        initrd_limit=_INITRD_ADDR_MAX + 1,
        initrd_anywhere=True,
        command_line_limit=_COMMAND_LINE_SIZE,
    )


def _check_entry(elf: ElfFile, file: BinaryIO) -> None:
    if elf.enters():
        return
    for entry in _pvh_entries(elf, file):
        raise ProgramError(
            f"{elf.path}: has no 64-bit entry, only a 32-bit one (PVH, at {entry:#x}), and 32-bit "
            f"code is not supported yet; give {WANTED}"
        )
    raise ProgramError(
        f"{elf.path}: its entry point {elf.entry:#x} is not in the physical addresses of its "
        f"segments; give {WANTED}"
    )


def _pvh_entries(elf: ElfFile, file: BinaryIO) -> Iterator[int]:
    """Yield the 32-bit entry points that the file's notes contain."""
    for segment in elf.segments:
        if segment.kind != PT_NOTE:
            continue
        notes = read_at(file, segment.offset, min(segment.file_size, _LONGEST_NOTES))
        place = 0
        while place + _NOTE.size <= len(notes):
            name_size, size, kind = _NOTE.unpack_from(notes, place)
            name = place + _NOTE.size
            content = name + _padded(name_size)
            if kind == _XEN_ELFNOTE_PHYS32_ENTRY and notes[name : name + name_size] == _XEN:
                yield int.from_bytes(notes[content : content + size][:8], "little")
            place = content + _padded(size)


def _padded(size: int) -> int:
    return -(-size // 4) * 4


def _header() -> bytes:
    """Return a setup header with the fields that a running kernel reads."""
    header = bytearray(field.LEAST_END - field.START)
    for offset, form, value in (
        (field.BOOT_FLAG, "H", field.BOOT_FLAG_VALUE),
        (field.MAGIC, "4s", field.MAGIC_VALUE),
        (field.VERSION, "H", field.LEAST_PROTOCOL),
        (field.LOADFLAGS, "B", field.LOADED_HIGH),
        (field.INITRD_ADDR_MAX, "I", _INITRD_ADDR_MAX),
        (field.XLOADFLAGS, "H", field.XLF_KERNEL_64 | field.XLF_CAN_BE_LOADED_ABOVE_4G),
        (field.CMDLINE_SIZE, "I", _COMMAND_LINE_SIZE),
    ):
        struct.pack_into("<" + form, header, offset - field.START, value)
    return bytes(header)
