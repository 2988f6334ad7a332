"""A checked Linux kernel, independent of its file's format."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ringlet.config import MEMORY, format_size
from ringlet.errors import ConfigError, ProgramError
from ringlet.machine import address_map as at

WANTED: Final = "a Linux kernel for x86-64 (bzImage or vmlinux)"


@dataclass(frozen=True, slots=True)
class Piece:
    """`size` bytes at `offset` of the file, to be copied to guest physical address `physical`."""

    offset: int
    size: int
    physical: int


@dataclass(frozen=True, slots=True)
class Kernel:
    """The pieces of a kernel and the facts that its loader needs.

    `header` is the setup header for `boot_params`, from its offset 1F1h on.  `entry` is physical.
    Until it has read the memory map, the kernel uses only memory below `end`.  Its initial RAM disk
    should end at or below `initrd_limit`; it may be higher only if `initrd_anywhere` is true.
    `command_line_limit` is the maximum length of the command line without its final zero.
    """

    path: Path
    header: bytes
    pieces: tuple[Piece, ...]
    entry: int
    end: int
    memory_size: int
    initrd_limit: int
    initrd_anywhere: bool
    command_line_limit: int


def check_end(path: Path, end: int, memory_size: int) -> None:
    """Raise ProgramError or ConfigError if the RAM is too small for a kernel that ends at `end`."""
    if end > at.DEVICE_HOLE:
        raise ProgramError(
            f"{path}: this kernel needs RAM up to {end:#x}, "
            f"but a PC has its devices at {at.DEVICE_HOLE:#x}"
        )
    if end > memory_size:
        raise too_little_memory(f"{path}: this kernel", end, memory_size)


def too_little_memory(what: str, least: int, memory_size: int) -> ConfigError:
    """Return the error for `what`, which needs `least` bytes of RAM."""
    # The size is in whole MiB, so that the user can give it as printed.
    return ConfigError(
        f"{what} does not fit in {format_size(memory_size)} of RAM; "
        f"give at least {MEMORY.flag} {-(-least // (1 << 20))}M"
    )
