"""Starts a Linux kernel by the 64-bit or the 32-bit boot protocol.

The kernel's Documentation/arch/x86/boot.rst and zero-page.rst describe the protocols and name their
fields.  The kernel is entered in long mode, or in protected mode without paging, with RSI pointing
at a `boot_params`, which has the addresses of everything else.
"""

import struct
from dataclasses import dataclass
from typing import Final

from ringlet.machine import address_map as at
from ringlet.machine import e820
from ringlet.machine import setup_header as field
from ringlet.machine.cpu import Cpu
from ringlet.machine.kernel import Handed, Kernel
from ringlet.machine.long_mode import enter_long_mode
from ringlet.machine.short_modes import enter_protected_mode

_SIZE: Final = 4096

# fields that only boot_params has
_ACPI_RSDP_ADDR: Final = 0x070
_EXT_RAMDISK_IMAGE: Final = 0x0C0
_EXT_RAMDISK_SIZE: Final = 0x0C4
_EXT_CMD_LINE_PTR: Final = 0x0C8
_E820_ENTRIES: Final = 0x1E8
_E820_TABLE: Final = 0x2D0


@dataclass(frozen=True, slots=True)
class LinuxStart:
    """Linux's protocol for entries of 64 or 32 `bits`.

    `header` is the setup header for `boot_params`, from its offset 1F1h on.
    """

    header: bytes
    bits: int = 64
    starts_linux: bool = True
    takes_modules: bool = False

    def enter(self, cpu: Cpu, kernel: Kernel, handed: Handed) -> None:
        """Write `boot_params`, and set the registers for the entry."""
        params = bytearray(_SIZE)
        params[field.START : field.START + len(self.header)] = self.header
        params[field.TYPE_OF_LOADER] = field.UNASSIGNED_LOADER
        params[field.LOADFLAGS] |= field.LOADED_HIGH
        struct.pack_into("<Q", params, _ACPI_RSDP_ADDR, handed.rsdp)
        _put_split(params, field.CMD_LINE_PTR, _EXT_CMD_LINE_PTR, at.COMMAND_LINE)
        ranges = e820.memory_map(kernel.memory_size)
        params[_E820_ENTRIES] = len(ranges)
        table = e820.pack(ranges)
        params[_E820_TABLE : _E820_TABLE + len(table)] = table
        address, size = next(((m.address, m.size) for m in handed.modules), (0, 0))
        _put_split(params, field.RAMDISK_IMAGE, _EXT_RAMDISK_IMAGE, address)
        _put_split(params, field.RAMDISK_SIZE, _EXT_RAMDISK_SIZE, size)
        if self.bits == 32:
            struct.pack_into("<I", params, field.CODE32_START, kernel.entry)
        cpu.write_phys(at.BOOT_PARAMS, bytes(params))
        if self.bits == 64:
            selector = at.LINUX_CODE_SELECTOR
            enter_long_mode(cpu, kernel.entry, avx=False, code_selector=selector)
        else:
            enter_protected_mode(cpu, kernel.entry, code_selector=at.LINUX_CODE_SELECTOR)
        cpu.set("rsi", at.BOOT_PARAMS)


def _put_split(params: bytearray, low: int, high: int, value: int) -> None:
    """Write a 64-bit field whose halves come from two versions of the protocol."""
    struct.pack_into("<I", params, low, value & 0xFFFF_FFFF)
    struct.pack_into("<I", params, high, value >> 32)
