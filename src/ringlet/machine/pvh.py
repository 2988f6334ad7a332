"""Starts kernels by Xen's x86/HVM direct boot ABI (PVH), as virtual machines use it.

An ELF note has the entry point.  The kernel is entered there in protected mode without paging, with
EBX at an `hvm_start_info`, which has the addresses of the rest: the command line, the initial RAM
disk as the only module, the memory map and the ACPI root pointer.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from ringlet.machine import address_map as at
from ringlet.machine import e820
from ringlet.machine.cpu import Cpu
from ringlet.machine.elf import ElfFile
from ringlet.machine.kernel import Handed, Kernel
from ringlet.machine.notes import notes
from ringlet.machine.short_modes import enter_protected_mode

START_MAGIC: Final = 0x336E_C578
_VERSION: Final = 1
_XEN: Final = b"Xen\0"
_XEN_ELFNOTE_PHYS32_ENTRY: Final = 18
_START_INFO: Final = struct.Struct("<IIIIQQQQII")
_MODULE: Final = struct.Struct("<QQQQ")
_RANGE: Final = struct.Struct("<QQII")


@dataclass(frozen=True, slots=True)
class PvhStart:
    """The protocol of PVH."""

    starts_linux: bool = True
    takes_modules: bool = False

    def enter(self, cpu: Cpu, kernel: Kernel, handed: Handed) -> None:
        """Write `hvm_start_info` and what it points at, and set the registers."""
        ranges = e820.memory_map(kernel.memory_size)
        modules = b"".join(_MODULE.pack(m.address, m.size, 0, 0) for m in handed.modules)
        table = b"".join(_RANGE.pack(r.start, r.end - r.start, r.type, 0) for r in ranges)
        modules_at = at.BOOT_INFO + _START_INFO.size
        info = _START_INFO.pack(
            START_MAGIC, _VERSION, 0, len(modules) // _MODULE.size, modules_at if modules else 0,
            at.COMMAND_LINE, handed.rsdp, modules_at + len(modules), len(ranges), 0,
        )  # fmt: skip
        cpu.write_phys(at.BOOT_INFO, info + modules + table)
        enter_protected_mode(cpu, kernel.entry)
        cpu.set("rbx", at.BOOT_INFO)


def pvh_entries(elf: ElfFile, file: BinaryIO) -> Iterator[int]:
    """Yield the 32-bit entry points that the file's notes contain."""
    for note in notes(elf, file):
        if (note.name, note.kind) == (_XEN, _XEN_ELFNOTE_PHYS32_ENTRY):
            yield int.from_bytes(note.content[:8], "little")
