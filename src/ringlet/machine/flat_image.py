"""Reads and loads flat images: files without a format that start at their first byte."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ringlet.config import format_size
from ringlet.errors import ProgramError
from ringlet.flat_spec import FlatPlace
from ringlet.machine import address_map as at
from ringlet.machine.cpu import Memory
from ringlet.machine.e820 import ram_ends
from ringlet.machine.files import copy_to_memory, length_of, open_regular

_WANTED: Final = "a flat image"


SECTOR: Final = 512
"""The size of a boot sector, which ends with the signature."""
_SIGNATURE: Final = b"\x55\xaa"
_PLACE: Final = 0x7C00


def boot_sector(path: Path) -> str:
    """Return how to run a file that begins with a boot sector, or nothing if it does not fit.

    Nothing, too, for other files, and those that cannot be read.
    """
    try:
        with open_regular(path, "a boot sector") as file:
            fits = 0 < length_of(file) <= at.PROGRAM_START - _PLACE
            if not fits or not file.read(SECTOR).endswith(_SIGNATURE):
                return ""
    except (OSError, ProgramError):
        return ""
    return f"run its boot sector, without a BIOS, by ringlet run --bare --flat 16@0x7c00 {path}"


def advice(path: Path) -> str:
    """Return how to run a file without a format as a flat image."""
    return boot_sector(path) or "run a flat image by --bare --flat 16@0x7c00 or 32@0x100000"


@dataclass(frozen=True, slots=True)
class FlatImage:
    """A checked image of `size` bytes and its place."""

    path: Path
    place: FlatPlace
    size: int


def read_flat(path: Path, place: FlatPlace, ram_size: int) -> FlatImage:
    """Check that `path` fits at `place` in a machine with `ram_size` bytes of RAM.

    Raises ProgramError.
    """
    with open_regular(path, _WANTED) as file:
        size = length_of(file)
    if not size:
        raise ProgramError(f"{path}: is empty; give {_WANTED}")
    end, (ram_end, _) = place.address + size, ram_ends(ram_size)
    where = f"{path}: an image at {place.address:#x}"
    if place.bits != 16 and place.address < at.PROGRAM_START:
        raise ProgramError(
            f"{where} is below 1 MiB, where the loader's tables and stack are; give an address of "
            "1 MiB or above"
        )
    if place.bits == 16 and end > at.PROGRAM_START:
        raise ProgramError(
            f"{where} ends at {end:#x}, but code of 16 bits reaches 1 MiB; give a lower address "
            "or a smaller image"
        )
    if end > ram_end:
        raise ProgramError(
            f"{where} ends at {end:#x}, beyond the first {format_size(ram_end)} of RAM; give a "
            "lower address or more RAM with --memory"
        )
    return FlatImage(path, place, size)


def load_flat(image: FlatImage, memory: Memory) -> None:
    """Copy the image to guest memory."""
    with open_regular(image.path, _WANTED) as file:
        copy_to_memory(file, 0, image.size, memory, image.place.address)
