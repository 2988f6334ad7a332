"""A Linux kernel that was read and found well, whatever its file's format."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ringlet.config import MEMORY, format_size
from ringlet.errors import ConfigError, ProgramError
from ringlet.machine import address_map as at

WANTED: Final = "a Linux kernel for x86-64 (bzImage or vmlinux)"


@dataclass(frozen=True, slots=True)
class Piece:
    """`size` bytes at `offset` of the file that go to guest physical address `physical`."""

    offset: int
    size: int
    physical: int


@dataclass(frozen=True, slots=True)
class Kernel:
    """What goes where.

    `header` is the setup header for `boot_params`, from its offset 1F1h on.  `entry` is physical.
    Until it has looked at the memory map the kernel uses what is below `end`.  Its initial RAM disk
    should end at `initrd_limit` at the latest; only if `initrd_anywhere`, it may be beyond.
    `command_line_limit` is the command line's longest length without its final zero.
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
    """Raise ProgramError or ConfigError if a kernel that uses what is below `end` has no room."""
    if end > at.DEVICE_HOLE:
        raise ProgramError(
            f"{path}: this kernel needs the RAM up to {end:#x}; "
            f"a PC has its devices at {at.DEVICE_HOLE:#x}"
        )
    if end > memory_size:
        raise too_little_memory(f"{path}: this kernel", end, memory_size)


def too_little_memory(what: str, least: int, memory_size: int) -> ConfigError:
    """Return the error to raise where `what` needs `least` bytes of RAM."""
    # In whole MiB, so that the size can be given as it is printed.
    return ConfigError(
        f"{what} does not fit in {format_size(memory_size)} of RAM; "
        f"the least that works is {MEMORY.flag} {-(-least // (1 << 20))}M"
    )
