"""The options of a run, each declared once with its help text, its default and its check."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ringlet.errors import ConfigError

PAGE_SIZE: Final = 4096
MIN_MEMORY: Final = 2 << 20
_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@dataclass(frozen=True, slots=True)
class Option:
    """One option of the command line."""

    flag: str
    help: str
    default: str = ""

    @property
    def parameter(self) -> str:
        """The name of the option in Python, which messages of the Python interface use."""
        return self.flag.removeprefix("--")


MEMORY: Final = Option(
    "--memory",
    "Size of guest RAM: a number of bytes, or a number with K, M or G (powers of 1024). Default: "
    "128M for a bare program; for Linux 1G, or half of a smaller host's RAM.",
)
BARE_MEMORY: Final = "128M"
LINUX_MEMORY: Final = 1 << 30
"""Linux uses transparent huge pages, which take fewer faults, only with more than 512 MiB."""
DEBIAN_LEAST: Final = 96 << 20
"""Debian's kernel runs out of memory with less than some 72 MiB."""
KERNEL: Final = Option("--kernel", "Start this Linux kernel (a bzImage or vmlinux) on a PC.")
INITRD: Final = Option("--initrd", "The initial RAM disk for --kernel.")
APPEND: Final = Option(
    "--append", "The kernel's command line; with debian, text to append to its command line."
)
CONSOLE: Final = Option(
    "--console",
    "What the first serial port is connected to: stdio, file:PATH (output only) or none.",
    "stdio",
)
NO_REBOOT: Final = Option(
    "--no-reboot", "Exit with status 3 when the guest resets the machine, instead of rebooting."
)
DEBUG_EXIT: Final = Option(
    "--debug-exit",
    "Add a debug exit port at F4h: when the guest writes v there, exit with status 2v + 1.",
)
VERBOSE: Final = Option(
    "--verbose", "With a command for the guest, show the kernel's messages on standard error."
)
PACKAGE: Final = Option(
    "--package",
    "The Debian package that contains the kernel; linux-image-amd64 has more drivers, and "
    "NAME/bookworm is Debian 12's.",
    "linux-image-cloud-amd64",
)
STATS: Final = Option(
    "--stats", "When the run ends, and on SIGUSR1, print its counters on standard error."
)
EXACT: Final = Option(
    "--exact",
    "Keep all arithmetic flags exact at every fault, even flags that nothing reads, and prevent "
    "accesses from speculating past a bounds check; slower.",
)
DIRECT: Final = Option(
    "--direct",
    "Run the guest's user code directly on the processor, in processes of its own: auto (where "
    "that is faster), never, or always.",
    "auto",
)
DIRECT_CHOICES: Final = ("auto", "never", "always")
COLD: Final = Option(
    "--cold", "Translate all guest code anew; neither use nor keep stored translations."
)
GDB: Final = Option(
    "--gdb",
    "Serve gdb at this port of the loopback interface, or at a Unix socket with this path.",
)
GDB_WAIT: Final = Option(
    "--gdb-wait", "With --gdb: run nothing until gdb connects and continues the guest."
)
TRACE: Final = Option(
    "--trace",
    "When the run ends, write its last 131,072 blocks, exceptions and interrupts to this file; "
    "slower.",
)
COMPARE: Final = Option(
    "--compare",
    "Also run each block of guest code on Unicorn, the first N times it runs, and exit with "
    "status 6 at the first instruction that differs; much slower.",
)
BARE: Final = Option(
    "--bare",
    "Run PROGRAM, a static ELF64 file, on the bare machine: long mode, CPL 0, no firmware.",
)


@dataclass(frozen=True, slots=True)
class MachineConfig:
    """The configuration of a bare machine.  `memory` is the size of guest RAM in bytes."""

    program: Path
    memory: int
    stats: bool = False
    exact: bool = False


@dataclass(frozen=True, slots=True)
class LinuxConfig:
    """The configuration of a PC that starts Linux.

    `memory` is the size of guest RAM in bytes.  `initrd` is the initial RAM disk: the path of a
    file, or its contents.
    """

    kernel: Path
    memory: int
    initrd: Path | bytes | None = None
    append: str = ""


def parse_direct(text: str, name: str = DIRECT.flag) -> str:
    """Return `text` if it is a choice of --direct.  Raises ConfigError, which calls it `name`."""
    if text not in DIRECT_CHOICES:
        raise ConfigError(f"{name} {text}: give auto, never or always")
    return text


def parse_memory(
    text: str,
    host_memory: int | None = None,
    *,
    name: str = MEMORY.flag,
    least: int = MIN_MEMORY,
) -> int:
    """Return the number of bytes that `text` ("128M", "0x8000000", "1048576") stands for.

    `host_memory` is the host's RAM in bytes.  A larger size is refused, because the host would
    kill a guest that touches all its RAM.  So is one below `least`.
    Raises ConfigError, which calls the size `name`.
    """
    size = _parse_size(text, name)
    if size <= 0:
        raise ConfigError(f"{name} {text}: a machine needs RAM; give a size such as 128M")
    if size < least:
        raise ConfigError(f"{name} {text}: too small; give at least {least >> 20}M")
    if size % PAGE_SIZE:
        raise ConfigError(
            f"{name} {text}: {size} bytes is not a multiple of 4 KiB; "
            f"the next larger multiple is {(size // PAGE_SIZE + 1) * 4}K"
        )
    if host_memory is not None and size > host_memory:
        raise ConfigError(
            f"{name} {text}: this host has {format_size(host_memory)} of RAM; give a smaller size"
        )
    return size


def linux_memory(
    given: str | int | None,
    host_memory: int,
    *,
    name: str = MEMORY.flag,
    least: int = MIN_MEMORY,
) -> int:
    """Return the bytes of RAM of a Linux guest; arguments as for `parse_memory`, or none given."""
    if given is None or given == "":
        given = min(LINUX_MEMORY, host_memory // 2) & -PAGE_SIZE
    return parse_memory(str(given), host_memory, name=name, least=least)


def _parse_size(text: str, name: str) -> int:
    cleaned = text.strip().upper()
    for suffix in ("IB", "B"):
        if not cleaned.startswith("0X"):
            cleaned = cleaned.removesuffix(suffix)
    unit = cleaned[-1:] if cleaned[-1:] in _UNITS and cleaned[-1:] else ""
    digits = cleaned.removesuffix(unit)
    try:
        if len(digits) > 20 or not digits.isascii() or "_" in digits:
            raise ValueError
        return int(digits, 16 if digits.startswith("0X") else 10) * _UNITS[unit]
    except ValueError:
        raise ConfigError(
            f"{name} {_shorten(text)!r}: not a size; "
            "give a number of bytes, or a number with K, M or G, such as 128M"
        ) from None


def _shorten(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."


def format_size(size: int) -> str:
    """Return `size` in bytes as readable text: "128 MiB", "23.5 GiB"."""
    value = float(size)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.1f}".removesuffix(".0") + f" {unit}"
        value /= 1024
    return f"{value:.1f}".removesuffix(".0") + " TiB"
