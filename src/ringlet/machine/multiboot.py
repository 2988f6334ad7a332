"""Starts kernels of the Multiboot Specification, version 0.6.96: Multiboot 1.

The header is in the first 8 KiB of the file.  The kernel is entered in protected mode without
paging, with EAX = 2BADB002h and EBX at the information structure, which has the memory map, the
command line, the modules, the name of the boot loader and the ELF section headers.  There is no
video mode, and a kernel that prefers one is started without.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from ringlet.errors import ProgramError
from ringlet.machine import address_map as at
from ringlet.machine import coreboot, e820
from ringlet.machine.cpu import Cpu
from ringlet.machine.elf_sections import NO_SECTIONS, SectionTable, read_sections
from ringlet.machine.kernel import USUAL, Handed, Kernel, Piece, check_end
from ringlet.machine.multiboot_image import (
    BOOT_LOADER,
    COMMAND_LINE_LIMIT,
    Addresses,
    header_flaw,
    image_of_addresses,
    image_of_elf,
    places_beside,
)
from ringlet.machine.short_modes import enter_protected_mode

SEARCHED: Final = 8192
HEADER_MAGIC: Final = 0x1BADB002
LOADED_MAGIC: Final = 0x2BADB002
_FLAGS_KNOWN: Final = 0x7
_FLAGS_REQUIRED: Final = 0xFFFF
_ADDRESSES: Final = 1 << 16
_FIELDS: Final = struct.Struct("<III")
_ADDRESS_FIELDS: Final = struct.Struct("<IIIII")

# the information structure: flags, then offsets of what they stand for
_INFO_SIZE: Final = 120
_MEMORY: Final = 1 << 0
_COMMAND_LINE: Final = 1 << 2
_MODULES: Final = 1 << 3
_SECTIONS: Final = 1 << 5
_MEMORY_MAP: Final = 1 << 6
_LOADER_NAME: Final = 1 << 9
_KIB: Final = 1 << 10


def find(head: bytes) -> int | None:
    """Return the offset of the Multiboot header in `head`, the file's first bytes, or None."""
    for place in range(0, min(len(head), SEARCHED) - _FIELDS.size + 1, 4):
        magic, flags, checksum = _FIELDS.unpack_from(head, place)
        if magic == HEADER_MAGIC and not (magic + flags + checksum) & 0xFFFF_FFFF:
            return place
    return None


def flaw(head: bytes, place: int) -> str:
    """Return why there is no Multiboot header at `place`, where its magic number is."""
    return header_flaw(head, place, _FIELDS, SEARCHED, 4, "magic, flags and checksum")


def read(path: Path, file: BinaryIO, head: bytes, place: int, memory_size: int) -> Kernel:
    """Check the kernel whose header is at `place` for a PC with `memory_size` bytes of RAM.

    Raises ProgramError, and ConfigError if the RAM is too small.
    """
    _, flags, _ = _FIELDS.unpack_from(head, place)
    unknown = flags & _FLAGS_REQUIRED & ~_FLAGS_KNOWN
    if unknown:
        raise ProgramError(
            f"{path}: its Multiboot header requires what Multiboot 1 does not have (flags "
            f"{unknown:#x})"
        )
    sections, pieces = NO_SECTIONS, tuple[Piece, ...]()
    if flags & _ADDRESSES:
        start = place + _FIELDS.size
        if start + _ADDRESS_FIELDS.size > min(len(head), SEARCHED):
            raise ProgramError(f"{path}: is truncated: its Multiboot header has no addresses")
        *fields, entry = _ADDRESS_FIELDS.unpack_from(head, start)
        image = image_of_addresses(path, file, Addresses(place, *fields), entry)
    else:
        image = image_of_elf(path, file, head)
    places = places_beside(path, image)
    end = max(image.end, at.HIGH_RAM)
    if image.elf is not None and places == USUAL:  # section headers may be long
        sections, pieces, end = read_sections(image.elf, file, end)
    check_end(path, end, memory_size)
    return Kernel(
        path,
        MultibootStart(sections),
        (*image.pieces, *pieces),
        image.entry,
        end,
        memory_size,
        initrd_limit=at.DEVICE_HOLE,
        initrd_anywhere=False,
        command_line_limit=COMMAND_LINE_LIMIT,
        places=places,
    )


@dataclass(frozen=True, slots=True)
class MultibootStart:
    """The protocol of Multiboot 1."""

    sections: SectionTable
    starts_linux: bool = False
    takes_modules: bool = True

    def enter(self, cpu: Cpu, kernel: Kernel, handed: Handed) -> None:
        """Write the information structure and what it points at, and set the registers."""
        info = bytearray(_INFO_SIZE)
        flags = _MEMORY | _COMMAND_LINE | _MEMORY_MAP | _LOADER_NAME

        def put(content: bytes) -> int:
            """Append `content`, aligned; return its guest address."""
            info.extend(bytes(-len(info) % 16))
            place = kernel.places.info + len(info)
            info.extend(content)
            return place

        low_end, _ = e820.ram_ends(kernel.memory_size)
        struct.pack_into("<II", info, 4, at.LOW_RAM_END // _KIB, (low_end - at.HIGH_RAM) // _KIB)
        struct.pack_into("<I", info, 16, kernel.places.command_line)
        ranges = e820.memory_map(kernel.memory_size)
        entries = b"".join(
            struct.pack("<IQQI", e820.ENTRY_SIZE, r.start, r.end - r.start, r.type) for r in ranges
        )
        struct.pack_into("<II", info, 44, len(entries), put(entries))
        struct.pack_into("<I", info, 64, put(BOOT_LOADER + b"\0"))
        if handed.modules:
            flags |= _MODULES
            table = b"".join(
                struct.pack("<IIII", m.address, m.address + m.size, put(m.text + b"\0"), 0)
                for m in handed.modules
            )
            struct.pack_into("<II", info, 20, len(handed.modules), put(table))
        if self.sections.count:
            flags |= _SECTIONS
            found = self.sections
            place = put(found.headers)
            struct.pack_into("<IIII", info, 28, found.count, found.size, place, found.names)
        struct.pack_into("<I", info, 0, flags)
        cpu.write_phys(kernel.places.info, bytes(info))
        if kernel.places != USUAL:  # it may be a payload of coreboot
            cpu.write_phys(at.COREBOOT_TABLE, coreboot.table(kernel.memory_size))
        enter_protected_mode(cpu, kernel.entry)
        cpu.set("rax", LOADED_MAGIC)
        cpu.set("rbx", kernel.places.info)
