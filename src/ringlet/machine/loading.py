"""Loads kernels: finds a file's format, and copies the kernel and its initial RAM disk to memory.

A file with Linux's setup header that is no ELF file is a bzImage.  Of the others, a Multiboot
header decides, that of Multiboot 2 before that of Multiboot 1; then an ELF file is a vmlinux or a
kernel with a PVH entry.
"""

import mmap
import os
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Final

from ringlet.config import format_size
from ringlet.errors import ConfigError, ProgramError
from ringlet.machine import address_map as at
from ringlet.machine import multiboot, multiboot2, ram_disk
from ringlet.machine import setup_header as field
from ringlet.machine.bzimage import read_bzimage
from ringlet.machine.cpu import Cpu
from ringlet.machine.elf import MAGIC as ELF_MAGIC
from ringlet.machine.elf import PT_LOAD, read_elf
from ringlet.machine.files import copy_to_memory, length_of, open_regular, read_at
from ringlet.machine.kernel import WANTED, Handed, Kernel, check_end, too_little_memory
from ringlet.machine.linux import LinuxStart
from ringlet.machine.vmlinux import read_vmlinux

_TO_RUN: Final = 16 << 20
"""What a kernel needs besides, to run a small program; Debian's need 2 MiB."""
_STEP: Final = 16 << 20
_FOR_FLAWS: Final = 1 << 20
"""The part of a file that is searched for headers that are almost ones."""
_BANNER: Final = b"Linux version "
_FOR_BANNER: Final = 256 << 20
_LARGE_INITRD: Final = 8 << 20
"""From this size on, a message about too little RAM names the initial RAM disk."""


def read_kernel(path: Path, memory_size: int) -> Kernel:
    """Read and check `path`, a kernel in any format, for a PC with `memory_size` bytes of RAM.

    Raises ProgramError, and ConfigError if the RAM is too small.
    """
    with open_regular(path, WANTED) as file:
        head = read_at(file, 0, multiboot2.SEARCHED)
        is_elf = head.startswith(ELF_MAGIC)
        if not is_elf and head[field.MAGIC : field.MAGIC + 4] == field.MAGIC_VALUE:
            return read_bzimage(path, file, memory_size)
        if (place := multiboot2.find(head)) is not None:
            return multiboot2.read(path, file, head, place, memory_size)
        if (place := multiboot.find(head)) is not None:
            return multiboot.read(path, file, head, place, memory_size)
        read = read_vmlinux if is_elf else read_bzimage
        why = _flaw(path, file)
        if not why or _names_linux(file):
            return read(path, file, memory_size)
        try:
            kernel = read(path, file, memory_size)
        except ProgramError:
            raise ProgramError(why) from None
        if isinstance(kernel.start, LinuxStart):
            raise ProgramError(why)
        return kernel


def unmarked(path: Path) -> str:
    """Return a line for the user if `path`, a kernel, has nothing that says how it starts.

    A vmlinux has no mark of its format, so any other ELF file is taken for one.  Raises
    ProgramError.
    """
    kernel = read_kernel(path, at.REST_OF_RAM)
    with open_regular(path, WANTED) as file:
        if read_at(file, 0, len(ELF_MAGIC)) != ELF_MAGIC or _names_linux(file):
            return ""
    if not isinstance(kernel.start, LinuxStart):
        return ""
    return (
        f"{path}: has no Multiboot header and no PVH note, so it starts as Linux's vmlinux, at "
        f"{kernel.entry:#x} in {kernel.start.bits}-bit code"
    )


def _flaw(path: Path, file: BinaryIO) -> str:
    """Return what is wrong with the first Multiboot header that is almost one, or nothing."""
    head = read_at(file, 0, _FOR_FLAWS)
    parts = [(0, len(head))]
    if head.startswith(ELF_MAGIC):  # its symbols may have the value of the magic number
        segments = read_elf(path, file, WANTED).segments
        parts = [(s.offset, s.offset + s.file_size) for s in segments if s.kind == PT_LOAD]
    for name, protocol in (("Multiboot 2", multiboot2), ("Multiboot", multiboot)):
        magic = protocol.HEADER_MAGIC.to_bytes(4, "little")
        found = [place for begin, end in parts if (place := head.find(magic, begin, end)) >= 0]
        if found:
            place = min(found)
            return (
                f"{path}: has {protocol.HEADER_MAGIC:X}h at offset {place:#x}, but is no "
                f"{name} kernel: {protocol.flaw(head, place)}"
            )
    return ""


def _names_linux(file: BinaryIO) -> bool:
    """Return whether the file contains Linux's banner."""
    length = min(length_of(file), _FOR_BANNER)
    if not length:
        return False
    with mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ) as content:
        return content.find(_BANNER) >= 0


def starts_linux(path: Path) -> bool:
    """Return whether `path` may be a Linux kernel.  Raises ProgramError if it is no kernel."""
    return read_kernel(path, at.REST_OF_RAM).start.starts_linux


def read_fitting(
    path: Path, memory_size: int, command_line: str, initrd: Path | bytes | None
) -> Kernel:
    """Read and check a kernel, its command line and its initial RAM disk together.

    Raises ProgramError, and ConfigError, which says with how much RAM they run: a kernel that has
    only what it is loaded into finds no memory and panics.
    """
    kernel = read_kernel(path, at.REST_OF_RAM)
    size = ram_disk.total_size(ram_disk.sources(kernel, initrd))
    least = -(-kernel.end // ram_disk.PAGE) * ram_disk.PAGE + size
    if memory_size < least <= min(at.DEVICE_HOLE, kernel.initrd_limit):
        what = f"{path}: this kernel"
        if size > _LARGE_INITRD:
            what += f" with an initial RAM disk of {format_size(size)}"
        raise too_little_memory(what, -(-(least + _TO_RUN) // _STEP) * _STEP, memory_size)
    kernel = replace(kernel, memory_size=memory_size)
    check_end(path, kernel.end, memory_size)
    check(kernel, command_line, initrd)
    return kernel


def check(kernel: Kernel, command_line: str, initrd: Path | bytes | None) -> None:
    """Raise the errors that `load_kernel` would raise for the command line and initial RAM disk."""
    _command_line(kernel, command_line)
    ram_disk.places(kernel, ram_disk.sources(kernel, initrd))


def load_kernel(
    cpu: Cpu,
    kernel: Kernel,
    *,
    command_line: str,
    initrd: Path | bytes | None = None,
    rsdp: int = 0,
    rsdp_table: bytes = b"",
) -> None:
    """Copy everything into guest memory, which holds zeros, and set the registers for the entry.

    `initrd` is the initial RAM disk's file or its contents, or for Multiboot a list of modules.
    `rsdp` is the guest physical address of the ACPI root pointer, 0 for none, and `rsdp_table` its
    bytes.  Raises ProgramError and ConfigError.
    """
    arguments = _command_line(kernel, command_line)
    with open_regular(kernel.path, WANTED) as file:
        for piece in kernel.pieces:
            copy_to_memory(file, piece.offset, piece.size, cpu, piece.physical)
    modules = ram_disk.load(cpu, kernel, ram_disk.sources(kernel, initrd))
    cpu.write_phys(kernel.places.command_line, arguments + b"\0")
    kernel.start.enter(cpu, kernel, Handed(arguments, modules, rsdp, rsdp_table))


def _command_line(kernel: Kernel, text: str) -> bytes:
    arguments = os.fsencode(text)
    limit = min(kernel.command_line_limit, at.COMMAND_LINE_END - at.COMMAND_LINE - 1)
    if b"\0" in arguments:
        raise ConfigError("the kernel's command line contains a zero byte")
    if len(arguments) > limit:
        raise ConfigError(
            f"the kernel's command line has {len(arguments)} bytes; "
            f"{kernel.path} takes at most {limit}"
        )
    return arguments
