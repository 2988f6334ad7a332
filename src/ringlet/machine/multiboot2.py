"""Starts kernels of the Multiboot2 Specification, version 2.0.

The header is in the first 32 KiB of the file, and its tags say what the kernel needs.  The kernel
is entered in protected mode without paging, with EAX = 36D76289h and EBX at the information, whose
tags have the memory map, the command line, the modules, the name of the boot loader, the ELF
section headers and the ACPI root pointer.

The entry points for EFI are not used.  A framebuffer that the kernel prefers is not there.  A
relocatable kernel is moved only if it cannot be where it was linked: to the lowest address that its
header allows, whatever it prefers.
"""

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from ringlet.errors import ProgramError
from ringlet.machine import address_map as at
from ringlet.machine import e820
from ringlet.machine.cpu import Cpu
from ringlet.machine.elf_sections import NO_SECTIONS, SectionTable, read_sections
from ringlet.machine.kernel import USUAL, Handed, Kernel, Piece, check_end
from ringlet.machine.multiboot_image import (
    BOOT_LOADER,
    COMMAND_LINE_LIMIT,
    Addresses,
    Image,
    header_flaw,
    image_of_addresses,
    image_of_elf,
    places_beside,
)
from ringlet.machine.short_modes import enter_protected_mode

SEARCHED: Final = 32768
HEADER_MAGIC: Final = 0xE852_50D6
LOADED_MAGIC: Final = 0x36D7_6289
_HEADER: Final = struct.Struct("<IIII")
_I386: Final = 0
_TAG: Final = struct.Struct("<HHI")
_OPTIONAL: Final = 1 << 0
_WHOLE_FILE: Final = 0xFFFF_FFFF
_CONSOLE_REQUIRED: Final = 1 << 0

# the header's tags
_END: Final = 0
_INFORMATION_REQUEST: Final = 1
_ADDRESS: Final = 2
_ENTRY_ADDRESS: Final = 3
_CONSOLE_FLAGS: Final = 4
_RELOCATABLE: Final = 10
_LAST_TAG: Final = 10
_SIZES: Final = {_ADDRESS: 24, _ENTRY_ADDRESS: 12, _CONSOLE_FLAGS: 12, _RELOCATABLE: 24}
"""The least sizes of those that are read."""

# the information's tags
_COMMAND_LINE: Final = 1
_LOADER_NAME: Final = 2
_MODULE: Final = 3
_MEMORY: Final = 4
_MEMORY_MAP: Final = 6
_SECTIONS: Final = 9
_RSDP_1: Final = 14
_RSDP_2: Final = 15
_LOAD_BASE: Final = 21
_LAST_INFORMATION: Final = 21
_RSDP_1_SIZE: Final = 20
_KIB: Final = 1 << 10


def find(head: bytes) -> int | None:
    """Return the offset of the Multiboot2 header in `head`, the file's first bytes, or None."""
    for place in range(0, min(len(head), SEARCHED) - _HEADER.size + 1, 8):
        magic, arch, length, checksum = _HEADER.unpack_from(head, place)
        if magic == HEADER_MAGIC and not (magic + arch + length + checksum) & 0xFFFF_FFFF:
            return place
    return None


def flaw(head: bytes, place: int) -> str:
    """Return why there is no Multiboot2 header at `place`, where its magic number is."""
    fields = "magic, architecture, length and checksum"
    return header_flaw(head, place, _HEADER, SEARCHED, 8, fields)


@dataclass(slots=True)
class _Header:
    """What the tags say."""

    addresses: tuple[int, int, int, int] | None = None
    entry: int | None = None
    relocatable: tuple[int, int, int] | None = None
    seen: set[int] = field(default_factory=set)


def read(path: Path, file: BinaryIO, head: bytes, place: int, memory_size: int) -> Kernel:
    """Check the kernel whose header is at `place` for a PC with `memory_size` bytes of RAM.

    Raises ProgramError, and ConfigError if the RAM is too small.
    """
    header = _read_header(path, head, place)
    if header.addresses is not None:
        if header.entry is None:
            raise ProgramError(
                f"{path}: is damaged: its Multiboot2 header has addresses, but no entry point"
            )
        fields = Addresses(place, *header.addresses)
        whole = fields.load_addr == _WHOLE_FILE
        image = image_of_addresses(path, file, fields, header.entry, whole=whole)
    else:
        image = image_of_elf(path, file, head, header.entry)
    base = None
    if header.relocatable is not None:
        image = _relocated(path, image, *header.relocatable)
        base = image.start
    places = places_beside(path, image)
    end = max(image.end, at.HIGH_RAM)
    sections, pieces = NO_SECTIONS, tuple[Piece, ...]()
    if image.elf is not None and places == USUAL:  # section headers may be long
        sections, pieces, end = read_sections(image.elf, file, end)
    check_end(path, end, memory_size)
    return Kernel(
        path,
        Multiboot2Start(sections, base),
        (*image.pieces, *pieces),
        image.entry,
        end,
        memory_size,
        initrd_limit=at.DEVICE_HOLE,
        initrd_anywhere=False,
        command_line_limit=COMMAND_LINE_LIMIT,
        places=places,
    )


def _read_header(path: Path, head: bytes, place: int) -> _Header:
    """Return what the header's tags say, each read at most once.  Raises ProgramError."""
    _, arch, length, _ = _HEADER.unpack_from(head, place)
    if arch != _I386:
        raise ProgramError(f"{path}: its Multiboot2 header is for architecture {arch}, not x86 (0)")
    if not _HEADER.size + _TAG.size <= length <= min(len(head), SEARCHED) - place:
        raise ProgramError(
            f"{path}: is damaged: its Multiboot2 header has {length} bytes, and must be in the "
            f"first {SEARCHED}"
        )
    header = _Header()
    end, at_tag = place + length, place + _HEADER.size
    while at_tag + _TAG.size <= end:
        kind, flags, size = _TAG.unpack_from(head, at_tag)
        least = _SIZES.get(kind, _TAG.size)
        if size < least or at_tag + size > end:
            raise ProgramError(
                f"{path}: is damaged: a tag of its Multiboot2 header (type {kind}) has {size} bytes"
            )
        if kind == _END:
            return header
        _read_tag(path, header, kind, flags, head[at_tag + _TAG.size : at_tag + size])
        at_tag += -(-size // 8) * 8
    raise ProgramError(f"{path}: is damaged: its Multiboot2 header has no end")


def _read_tag(path: Path, header: _Header, kind: int, flags: int, content: bytes) -> None:
    words = struct.unpack(f"<{len(content) // 4}I", content[: len(content) // 4 * 4])
    optional = flags & _OPTIONAL
    if kind in header.seen and kind in _SIZES:
        raise ProgramError(f"{path}: is damaged: its Multiboot2 header has two tags of type {kind}")
    header.seen.add(kind)
    if kind == _INFORMATION_REQUEST and not optional:
        for wanted in words:
            if wanted > _LAST_INFORMATION:
                raise ProgramError(
                    f"{path}: its Multiboot2 header requires information of the unknown type "
                    f"{wanted}"
                )
    elif kind == _ADDRESS:
        header.addresses = (words[0], words[1], words[2], words[3])
    elif kind == _ENTRY_ADDRESS:
        header.entry = words[0]
    elif kind == _CONSOLE_FLAGS and words[0] & _CONSOLE_REQUIRED and not optional:
        raise ProgramError(
            f"{path}: its Multiboot2 header requires a screen, which a PC does not have yet"
        )
    elif kind == _RELOCATABLE:
        header.relocatable = (words[0], words[1], words[2])
    elif kind > _LAST_TAG and not optional:
        raise ProgramError(f"{path}: its Multiboot2 header has a tag of the unknown type {kind}")


def _relocated(path: Path, image: Image, least: int, highest: int, alignment: int) -> Image:
    """Return `image` at an address that the header's tag allows.  Raises ProgramError."""
    if alignment & (alignment - 1):
        raise ProgramError(
            f"{path}: is damaged: the alignment in its Multiboot2 header is {alignment:#x}"
        )
    step, size = max(alignment, 1), image.end - image.start
    lowest = max(least, at.HIGH_RAM)
    if lowest <= image.start and image.end <= highest + 1 and not image.start % step:
        return image
    start = -(-lowest // step) * step
    if start + size > highest + 1:
        raise ProgramError(
            f"{path}: its Multiboot2 header has no room for it: {size} bytes between {lowest:#x} "
            f"and {highest:#x}"
        )
    return image.moved(start - image.start)


@dataclass(frozen=True, slots=True)
class Multiboot2Start:
    """The protocol of Multiboot 2; `base` is the address of a relocatable kernel."""

    sections: SectionTable
    base: int | None = None
    starts_linux: bool = False
    takes_modules: bool = True

    def enter(self, cpu: Cpu, kernel: Kernel, handed: Handed) -> None:
        """Write the information, and set the registers."""
        info = b"".join(
            _padded(struct.pack("<II", kind, 8 + len(content)) + content)
            for kind, content in self._tags(kernel, handed)
        )
        cpu.write_phys(kernel.places.info, struct.pack("<II", 8 + len(info), 0) + info)
        enter_protected_mode(cpu, kernel.entry)
        cpu.set("rax", LOADED_MAGIC)
        cpu.set("rbx", kernel.places.info)

    def _tags(self, kernel: Kernel, handed: Handed) -> list[tuple[int, bytes]]:
        low_end, _ = e820.ram_ends(kernel.memory_size)
        ranges = e820.memory_map(kernel.memory_size)
        entries = b"".join(
            struct.pack("<QQII", r.start, r.end - r.start, r.type, 0) for r in ranges
        )
        memory = at.LOW_RAM_END // _KIB, (low_end - at.HIGH_RAM) // _KIB
        tags = [
            (_COMMAND_LINE, handed.command_line + b"\0"),
            (_LOADER_NAME, BOOT_LOADER + b"\0"),
            (_MEMORY, struct.pack("<II", *memory)),
            (_MEMORY_MAP, struct.pack("<II", 24, 0) + entries),
        ]
        for m in handed.modules:
            place = struct.pack("<II", m.address, m.address + m.size)
            tags.append((_MODULE, place + m.text + b"\0"))
        if self.sections.count:
            table = self.sections
            head = struct.pack("<III", table.count, table.size, table.names)
            tags.append((_SECTIONS, head + table.headers))
        if handed.rsdp_table:
            tags.append((_RSDP_1, handed.rsdp_table[:_RSDP_1_SIZE]))
            tags.append((_RSDP_2, handed.rsdp_table))
        if self.base is not None:
            tags.append((_LOAD_BASE, struct.pack("<I", self.base)))
        return [*tags, (_END, b"")]


def _padded(tag: bytes) -> bytes:
    return tag + bytes(-len(tag) % 8)
