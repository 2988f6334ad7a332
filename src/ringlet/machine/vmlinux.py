"""Reads an unpacked Linux kernel: vmlinux, an ELF file; or another ELF file with a PVH entry.

The entry point of a 64-bit vmlinux is the code that a bzImage jumps to after unpacking itself:
64-bit code, with RSI pointing at `boot_params`, by the same protocol as the bzImage's own entry.
That of a 32-bit one follows the 32-bit protocol.  This module makes the setup header that a bzImage
would have.

A kernel is entered at its PVH entry if it is a 32-bit one and has that, or if its other entry point
is none of 64-bit code: it is not in the kernel, or is the PVH entry itself.
"""

import struct
from pathlib import Path
from typing import BinaryIO, Final

from ringlet.errors import ProgramError
from ringlet.machine import address_map as at
from ringlet.machine import setup_header as field
from ringlet.machine.elf import ET_EXEC, PT_DYNAMIC, PT_INTERP, PT_LOAD, ElfFile, read_elf
from ringlet.machine.kernel import WANTED, Kernel, Piece, Start, check_end
from ringlet.machine.linux import LinuxStart
from ringlet.machine.notes import notes
from ringlet.machine.pvh import PvhStart, pvh_entries

_ABI_GNU: Final = 3
_GNU: Final = b"GNU\0"
_NT_GNU_ABI_TAG: Final = 1
_PROGRAMS_AT: Final = (0x804_8000, 0x40_0000, 0x20_0000)
"""Where linkers put programs of 32 and of 64 bits; the last is LLVM's place."""
_INITRD_ADDR_MAX: Final = 0xFFFF_FFFF
_COMMAND_LINE_SIZE: Final = 2047
"""COMMAND_LINE_SIZE of Linux's arch/x86/include/asm/setup.h, without the final zero."""


def read_vmlinux(path: Path, file: BinaryIO, memory_size: int) -> Kernel:
    """Check `file`, which is an ELF file, for a PC with `memory_size` bytes of RAM.

    Raises ProgramError, and ConfigError if the RAM is too small.
    """
    elf = read_elf(path, file, WANTED)
    if _is_program(elf, file):
        guest = "debian" if any(s.kind == PT_INTERP for s in elf.segments) else "busybox"
        raise ProgramError(
            f"{path}: is a program for Linux, not a kernel; run it in a guest: ringlet run "
            f"-v {path.parent}:/mnt {guest} /mnt/{path.name}"
        )
    if elf.kind != ET_EXEC:
        raise ProgramError(f"{path}: is not a linked ELF executable; give {WANTED}")
    start, entry = _start(elf, file)
    loaded = [s for s in elf.segments if s.kind == PT_LOAD]
    lowest = min(s.physical for s in loaded)
    if lowest < at.HIGH_RAM:
        raise ProgramError(f"{path}: is not a kernel: a segment of it is at {lowest:#x}")
    end = max(s.physical + s.size for s in loaded)
    check_end(path, end, memory_size)
    return Kernel(
        path,
        start,
        tuple(Piece(s.offset, s.file_size, s.physical) for s in loaded),
        entry,
        end,
        memory_size,
        initrd_limit=_INITRD_ADDR_MAX + 1,
        initrd_anywhere=elf.bits == 64 and isinstance(start, LinuxStart),
        command_line_limit=_COMMAND_LINE_SIZE,
    )


def _is_program(elf: ElfFile, file: BinaryIO) -> bool:
    """Return whether the file is a program for Linux.

    A static one need not say so.  It is where the linker puts programs, with its headers.
    """
    if elf.abi == _ABI_GNU or any(s.kind in (PT_INTERP, PT_DYNAMIC) for s in elf.segments):
        return True
    if any((note.name, note.kind) == (_GNU, _NT_GNU_ABI_TAG) for note in notes(elf, file)):
        return True
    return not any(pvh_entries(elf, file)) and any(
        s.kind == PT_LOAD and not s.offset and s.linear == s.physical and s.linear in _PROGRAMS_AT
        for s in elf.segments
    )


def _start(elf: ElfFile, file: BinaryIO) -> tuple[Start, int]:
    """Return the protocol of a kernel and its entry point.  Raises ProgramError."""
    entries = [*pvh_entries(elf, file)]
    for entry in entries:
        if elf.bits == 32 or not elf.enters() or entry == elf.entry:
            if not elf.loads(entry):
                raise ProgramError(
                    f"{elf.path}: is damaged: its PVH entry {entry:#x} is not in its segments"
                )
            return PvhStart(), entry
    if not elf.enters():
        raise ProgramError(
            f"{elf.path}: its entry point {elf.entry:#x} is not in the physical addresses of its "
            f"segments, and it has no Multiboot header and no PVH entry; give {WANTED}"
        )
    return LinuxStart(_header(elf.bits), elf.bits), elf.entry


def _header(bits: int) -> bytes:
    """Return a setup header with the fields that a running kernel reads."""
    flags = field.XLF_KERNEL_64 | field.XLF_CAN_BE_LOADED_ABOVE_4G if bits == 64 else 0
    header = bytearray(field.LEAST_END - field.START)
    for offset, form, value in (
        (field.BOOT_FLAG, "H", field.BOOT_FLAG_VALUE),
        (field.MAGIC, "4s", field.MAGIC_VALUE),
        (field.VERSION, "H", field.PROTOCOL_64),
        (field.LOADFLAGS, "B", field.LOADED_HIGH),
        (field.INITRD_ADDR_MAX, "I", _INITRD_ADDR_MAX),
        (field.XLOADFLAGS, "H", flags),
        (field.CMDLINE_SIZE, "I", _COMMAND_LINE_SIZE),
    ):
        struct.pack_into("<" + form, header, offset - field.START, value)
    return bytes(header)
