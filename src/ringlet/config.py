"""The options of a run, each declared once with its help text, its default and its check."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ringlet.errors import ConfigError
from ringlet.flat_spec import FlatPlace

PAGE_SIZE: Final = 4096
MIN_MEMORY: Final = 2 << 20
BYTES_FROM: Final = 1 << 20
"""A size without a unit is in bytes from this number on, and in MiB below, as for QEMU's -m."""
_FRACTION: Final = re.compile(r"\d+\.\d+")
_DURATION: Final = re.compile(r"\d{1,12}(\.\d{1,9})?", re.ASCII)
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600}
LONGEST_TIMEOUT: Final = 1e9
_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@dataclass(frozen=True, slots=True)
class Option:
    """One option of the command line."""

    flag: str
    help: str
    default: str = ""
    python: str = ""

    @property
    def parameter(self) -> str:
        """The name of the option in Python, which messages of the Python interface use."""
        return self.python or self.flag.removeprefix("--")


MEMORY: Final = Option(
    "--memory",
    "Size of guest RAM: a number of MiB, as for QEMU, or a number with K, M or G (powers of 1024), "
    "such as 1.5G; a number of 1048576 or more is in bytes. Default: 128M for a bare program; for "
    "Linux 1G, or half of a smaller host's RAM.",
)
BARE_MEMORY: Final = "128M"
LINUX_MEMORY: Final = 1 << 30
"""Linux uses transparent huge pages, which take fewer faults, only with more than 512 MiB."""
DEBIAN_LEAST: Final = 96 << 20
"""Debian's kernel runs out of memory with less than some 72 MiB."""
CPUS: Final = Option("-c", "The number of the guest's processors: 1.", "1", python="cpus")
KERNEL: Final = Option(
    "--kernel",
    "Start this kernel on a PC: Linux's bzImage or vmlinux, or one for Multiboot or PVH; before "
    "the name of a guest, in place of the guest's own.",
)
INITRD: Final = Option(
    "--initrd",
    "The initial RAM disk for a kernel of your own; for Multiboot its modules: FILE[ TEXT],....",
)
APPEND: Final = Option(
    "--append",
    "The kernel's command line, or, with a guest's name, text to append to the guest's. Default "
    "for a kernel of your own: console=ttyS0 panic=-1, or for Multiboot nothing.",
)
ROOT: Final = Option(
    "--root",
    "Use this directory of the host as the guest's root, read-only below an overlay: what the "
    "guest writes is dropped with the run; add -v DIR:DIR to keep it.",
)
MOUNTS: Final = Option(
    "-v",
    "Share a directory of the host with the guest: HOST:GUEST, perhaps with :ro, or :delegated if "
    "only the guest changes it (faster); repeat for more.",
    python="mounts",
)
DISKS: Final = Option(
    "--disk",
    "Add a disk: the file of an image, then perhaps ,ro (read-only) or ,snapshot (changes are "
    "dropped when the run ends); repeat for more.",
    python="disks",
)
PORTS: Final = Option(
    "-p",
    "Forward a port of the host to the guest: [ADDRESS:]HOST:GUEST[/udp]; repeat for more.",
    python="ports",
)
NET: Final = Option(
    "--net",
    "The guest's network: none, user (NAT, needs no privileges) or tap:NAME. Default: none, or "
    "user with -p.",
)
USER_DATA: Final = Option(
    "--user-data",
    "Settings for cloud-init in the guest, in this file: it gets a disk with them (NoCloud).",
    python="user_data",
)
VSOCK: Final = Option(
    "--vsock",
    "Streams to and from the guest by AF_VSOCK: connect to the socket PATH and send CONNECT PORT; "
    "the guest's calls of port N of the host reach the socket PATH_N.",
)
ENV: Final = Option(
    "-e",
    "Set a variable for the command: NAME=VALUE, or NAME to pass the host's; repeat for more.",
    python="env",
)
ENV_FILE: Final = Option("--env-file", "Read variables from this file: a NAME=VALUE in each line.")
WORKDIR: Final = Option(
    "-w",
    "Run the command in this directory of the guest.",
    python="cwd",
)
TIMEOUT: Final = Option(
    "--timeout",
    "End the run after this time, with status 124: seconds, or a number with s, m or h (30s, 2m).",
)
NAME: Final = Option("--name", "The name of the machine.")
DETACH: Final = Option("--detach", "Run the machine in the background.")
CONSOLE: Final = Option(
    "--console",
    "What the first serial port is connected to: stdio, file:PATH (output only) or none.",
    "stdio",
)
LOG: Final = Option(
    "--log", "Also write what the guest prints on its first serial port to this file."
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
    "NAME/bookworm is Debian 12's, NAME/bullseye Debian 11's; NAME:i386/bookworm is for 32 bits.",
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
    "Serve gdb at [HOST]:PORT or PORT of the loopback interface, or at unix:PATH.",
)
GDB_DEFAULT: Final = Option("-s", "Serve gdb at port 1234, as QEMU does: --gdb :1234.")
GDB_WAIT: Final = Option(
    "--gdb-wait", "With --gdb or -s: run nothing until gdb connects and continues the guest."
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
    "Run PROGRAM, a static ELF file, on the bare machine, without firmware, at CPL 0: ELF64 in "
    "long mode, ELF32 in protected mode without paging.",
)
FLAT: Final = Option(
    "--flat",
    "With --bare: PROGRAM is no ELF file but a flat image; load it at an address and start at its "
    "first byte: 16@SEGMENT:OFFSET or 16@ADDRESS (real mode; 16@0x7c00 for a boot sector), "
    "32@ADDRESS (protected mode, flat, without paging) or 64@ADDRESS (long mode).",
)


@dataclass(frozen=True, slots=True)
class MachineConfig:
    """The configuration of a bare machine.  `memory` is the size of guest RAM in bytes.

    With `flat`, the program is a flat image.
    """

    program: Path
    memory: int
    stats: bool = False
    exact: bool = False
    flat: FlatPlace | None = None


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
    """Return the number of bytes that `text` ("128M", "1.5G", "128", "0x8000000") stands for.

    A number without a unit is in MiB below `BYTES_FROM`, else in bytes.

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


def parse_seconds(given: str | float, name: str = TIMEOUT.flag) -> float:
    """Return the seconds that `given` stands for: a number, or one with s, m or h ("30s", "1.5m").

    Raises ConfigError, which calls the time `name`.
    """
    text = str(given).strip().lower()
    number = text[:-1] if text[-1:] in _SECONDS else text
    if not _DURATION.fullmatch(number) or not 0 < (seconds := float(number)) < LONGEST_TIMEOUT:
        raise ConfigError(
            f"{name} {_shorten(str(given))!r}: not a time; give seconds, or a number with s, m or "
            "h, such as 30s"
        )
    return seconds * _SECONDS.get(text[-1:], 1)


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
        if unit and _FRACTION.fullmatch(digits):
            whole, _, part = digits.partition(".")
            return int(whole + part) * _UNITS[unit] // int("1" + "0" * len(part))
        number = int(digits, 16 if digits.startswith("0X") else 10)
    except ValueError:
        raise ConfigError(
            f"{name} {_shorten(text)!r}: not a size; "
            "give a number of MiB, or a number with K, M or G, such as 128M"
        ) from None
    return number * (_UNITS[unit] if unit or number >= BYTES_FROM else 1 << 20)


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
