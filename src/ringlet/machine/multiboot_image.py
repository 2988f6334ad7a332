"""Reads the image of a Multiboot kernel: where its parts go, and where it is entered.

That is said by the address fields of the Multiboot header, or else by the ELF headers of the file.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from ringlet.config import PAGE_SIZE
from ringlet.errors import ProgramError
from ringlet.machine import address_map as at
from ringlet.machine.elf import (
    ET_EXEC,
    MAGIC,
    PT_INTERP,
    PT_LOAD,
    ElfFile,
    read_elf,
)
from ringlet.machine.files import length_of
from ringlet.machine.kernel import USUAL, WANTED, Piece, Places

BOOT_LOADER: Final = b"Ringlet"
COMMAND_LINE_LIMIT: Final = 4095


def header_flaw(
    head: bytes, place: int, form: struct.Struct, searched: int, alignment: int, fields: str
) -> str:
    """Return why there is no header at `place` of `head`, where its magic number is.

    A header of `form`, whose `fields` add up to 0, is aligned and in the `searched` first bytes.
    """
    if place + form.size > searched:
        return f"its header has to be in the first {searched} bytes of the file"
    if place % alignment:
        return f"its header has to be at a multiple of {alignment}"
    if place + form.size > len(head):
        return "the file ends in its header"
    total = sum(form.unpack_from(head, place)) & 0xFFFF_FFFF
    return f"its checksum is wrong: {fields} add up to {total:#x}, not to 0"


@dataclass(frozen=True, slots=True)
class Addresses:
    """The address fields of a Multiboot header, of which the file has `offset` bytes before it.

    The names are the specification's, where 0 stands for the file's end and for no .bss.
    """

    offset: int
    header_addr: int
    load_addr: int
    load_end_addr: int
    bss_end_addr: int


@dataclass(frozen=True, slots=True)
class Image:
    """The pieces of a kernel from physical address `start` to `end`; `elf` has its headers."""

    pieces: tuple[Piece, ...]
    start: int
    end: int
    entry: int
    elf: ElfFile | None = None

    def moved(self, distance: int) -> "Image":
        """Return the image `distance` bytes higher."""
        return Image(
            tuple(Piece(p.offset, p.size, p.physical + distance) for p in self.pieces),
            self.start + distance, self.end + distance, self.entry + distance, self.elf,
        )  # fmt: skip


def image_of_addresses(
    path: Path, file: BinaryIO, fields: Addresses, entry: int, *, whole: bool = False
) -> Image:
    """Return the image that the address fields describe.  Raises ProgramError.

    With `whole`, the file is loaded from its first byte on, whatever `load_addr` is.
    """
    damaged = f"{path}: is damaged: its Multiboot header"
    length = length_of(file)
    load = fields.header_addr - fields.offset if whole else fields.load_addr
    offset = fields.offset - (fields.header_addr - load)
    if load < 0 or not 0 <= offset <= fields.offset:
        raise ProgramError(
            f"{damaged} is to be at {fields.header_addr:#x}, but the image at {load:#x}"
        )
    load_end = fields.load_end_addr or load + length - offset
    end = max(fields.bss_end_addr, load_end)
    if not load < load_end or (fields.bss_end_addr and fields.bss_end_addr < load_end):
        raise ProgramError(f"{damaged} has the image end at {end:#x}, but begin at {load:#x}")
    size = load_end - load
    if offset + size > length:
        raise ProgramError(
            f"{path}: is truncated: its Multiboot header asks for {offset + size} of {length} bytes"
        )
    if not load <= entry < end:
        raise ProgramError(f"{damaged} has the entry point {entry:#x} outside of the image")
    return Image((Piece(offset, size, load),), load, end, entry)


def image_of_elf(path: Path, file: BinaryIO, head: bytes, entry: int | None = None) -> Image:
    """Return the image that the ELF headers describe; `entry` replaces their entry point.

    Raises ProgramError.
    """
    if not head.startswith(MAGIC):
        raise ProgramError(
            f"{path}: has a Multiboot header without addresses, but is no ELF file; give {WANTED}"
        )
    elf = read_elf(path, file, WANTED)
    if any(s.kind == PT_INTERP for s in elf.segments) or elf.kind != ET_EXEC:
        raise ProgramError(
            f"{path}: is no executable for Multiboot; link it with -static -no-pie"
        )
    loaded = [s for s in elf.segments if s.kind == PT_LOAD]
    if not loaded:
        raise ProgramError(f"{path}: has nothing to load (no PT_LOAD segment)")
    start = min(s.physical for s in loaded)
    end = max(s.physical + s.size for s in loaded)
    physical = elf.physical_entry() if entry is None else entry
    if physical is None or not start <= physical < end:
        raise ProgramError(
            f"{path}: its entry point {elf.entry if entry is None else entry:#x} is not in its "
            "segments; set it with ENTRY(...) or ld -e"
        )
    pieces = tuple(Piece(s.offset, s.file_size, s.physical) for s in loaded)
    return Image(pieces, start, end, physical, elf)


def places_beside(path: Path, image: Image) -> Places:
    """Return where the kernel is told things: its image leaves that and the PC's tables free.

    Raises ProgramError if the image does not.
    """
    if image.start >= at.HIGH_RAM:
        return USUAL
    spans = [(image.start, image.end)]
    if image.elf is not None:
        loaded = (s for s in image.elf.segments if s.kind == PT_LOAD)
        spans = [(s.physical, s.physical + s.size) for s in loaded]
    for start, end in spans:
        if start < at.HIGH_RAM and not at.LOW_KERNEL <= start < end <= at.LOW_KERNEL_END:
            # Without -n, ld loads the file's headers into the page before the first section.
            headers = at.HIGH_RAM - start == PAGE_SIZE
            hint = "; give ld -n, so that no headers come first" if headers else ""
            raise ProgramError(
                f"{path}: is to be loaded from {start:#x} to {end:#x}, where a PC has its tables; "
                f"link it at 1 MiB or above, or between {at.LOW_KERNEL:#x} and "
                f"{at.LOW_KERNEL_END:#x}{hint}"
            )
    return Places(at.LOW_KERNEL_INFO, at.LOW_KERNEL_COMMAND_LINE)
