"""A checked kernel, independent of its file's format."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from ringlet.config import MEMORY, format_size
from ringlet.errors import ConfigError, ProgramError
from ringlet.machine import address_map as at
from ringlet.machine.cpu import Cpu

WANTED: Final = "a kernel for x86: Linux's bzImage or vmlinux, or one for Multiboot or PVH"


@dataclass(frozen=True, slots=True)
class Piece:
    """`size` bytes at `offset` of the file, to be copied to guest physical address `physical`."""

    offset: int
    size: int
    physical: int


@dataclass(frozen=True, slots=True)
class Module:
    """The initial RAM disk in guest memory, or another module; `text` is its name there."""

    address: int
    size: int
    text: bytes


@dataclass(frozen=True, slots=True)
class Places:
    """The addresses of what a kernel is told: of its boot protocol, and of its command line."""

    info: int = at.BOOT_INFO
    command_line: int = at.COMMAND_LINE


USUAL: Final = Places()


@dataclass(frozen=True, slots=True)
class Handed:
    """What a loaded kernel is told, besides its memory.

    The command line, `command_line` and a zero, is where the kernel's `places` say.  `modules`
    has the initial RAM disk, if there is one, and for a protocol that takes modules perhaps more.
    `rsdp` is the address of the ACPI root pointer, 0 for none, and `rsdp_table` that table's bytes.
    """

    command_line: bytes = b""
    modules: tuple[Module, ...] = ()
    rsdp: int = 0
    rsdp_table: bytes = b""


class Start(Protocol):
    """A boot protocol: writes what the kernel is told, and sets the registers for its entry."""

    @property
    def starts_linux(self) -> bool:
        """Whether the kernel may be Linux, which takes Ringlet's usual command line."""

    @property
    def takes_modules(self) -> bool:
        """Whether it has modules, of which there may be several."""

    def enter(self, cpu: Cpu, kernel: "Kernel", handed: Handed) -> None:
        """Write it to guest memory, where the kernel itself is, and set the registers."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """The pieces of a kernel and the facts that its loader needs.

    `start` is its boot protocol, and `entry` is physical.  Until it has read the memory map, the
    kernel uses only memory below `end`.  Its initial RAM disk should end at or below
    `initrd_limit`; it may be higher only if `initrd_anywhere` is true.  `command_line_limit` is the
    maximum length of the command line without its final zero.  `places` are free of its pieces.
    """

    path: Path
    start: Start
    pieces: tuple[Piece, ...]
    entry: int
    end: int
    memory_size: int
    initrd_limit: int
    initrd_anywhere: bool
    command_line_limit: int
    places: Places = USUAL


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
