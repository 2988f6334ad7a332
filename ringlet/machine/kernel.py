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
    ends at the first of `initrd_ends` at the latest, or where that is too low, at the next.
    `command_line_limit` is the command line's longest length without its final zero.
    """

    path: Path
    header: bytes
    pieces: tuple[Piece, ...]
    entry: int
    end: int
    memory_size: int
    initrd_ends: tuple[int, ...]
    command_line_limit: int


def too_little_memory(what: str, least: int, memory_size: int) -> ConfigError | ProgramError:
    """Return the error to raise where `what` needs `least` bytes of RAM."""
    # In whole MiB, so that the size can be given as it is printed.
    mebibytes = -(-least // (1 << 20))
    if least > at.DEVICE_HOLE:
        return ProgramError(
            f"{what} needs {mebibytes}M of RAM; a PC has at most {format_size(at.DEVICE_HOLE)}"
        )
    return ConfigError(
        f"{what} does not fit in {format_size(memory_size)} of RAM; "
        f"the least that works is {MEMORY.flag} {mebibytes}M"
    )
