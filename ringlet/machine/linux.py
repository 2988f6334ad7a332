"""Starts a Linux kernel (bzImage) by the 64-bit boot protocol.

The protocol is in the kernel's Documentation/arch/x86/boot.rst and zero-page.rst, from which the
fields' names are.  The real-mode part of the file is read for its header and not run: its
protected-mode part is loaded where the kernel prefers to be, and entered 200h bytes further in
long mode with RSI at a `boot_params` that says where the rest is.
"""

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from ringlet.config import MEMORY, format_size
from ringlet.errors import ConfigError, ProgramError
from ringlet.machine import address_map as at
from ringlet.machine import e820
from ringlet.machine.cpu import Cpu
from ringlet.machine.files import copy_to_memory, length_of, open_regular
from ringlet.machine.long_mode import enter_long_mode

_WANTED: Final = "a Linux kernel for x86-64 (bzImage)"
_PAGE: Final = 4096
_SECTOR: Final = 512
_ENTRY_64: Final = 0x200
LEAST_PROTOCOL: Final = 0x020C
"""2.12, of Linux 3.8: the first that tells whether a kernel has a 64-bit entry point."""

# The setup header, by offset in the file and, but for the last three, in boot_params too.
_HEADER_START: Final = 0x1F1
_SETUP_SECTS: Final = 0x1F1
_SYSSIZE: Final = 0x1F4
_BOOT_FLAG: Final = 0x1FE
_JUMP_LENGTH: Final = 0x201
_MAGIC: Final = 0x202
_VERSION: Final = 0x206
_TYPE_OF_LOADER: Final = 0x210
_LOADFLAGS: Final = 0x211
_RAMDISK_IMAGE: Final = 0x218
_RAMDISK_SIZE: Final = 0x21C
_CMD_LINE_PTR: Final = 0x228
_INITRD_ADDR_MAX: Final = 0x22C
_KERNEL_ALIGNMENT: Final = 0x230
_RELOCATABLE: Final = 0x234
_XLOADFLAGS: Final = 0x236
_CMDLINE_SIZE: Final = 0x238
_PREF_ADDRESS: Final = 0x258
_INIT_SIZE: Final = 0x260
_LEAST_HEADER_END: Final = 0x264
_HEADER_ROOM_END: Final = 0x290
_READ: Final = 0x300
_MAGIC_VALUE: Final = b"HdrS"
_LOADED_HIGH: Final = 1 << 0
_XLF_KERNEL_64: Final = 1 << 0
_XLF_CAN_BE_LOADED_ABOVE_4G: Final = 1 << 1
_UNASSIGNED_LOADER: Final = 0xFF

# boot_params alone
_ACPI_RSDP_ADDR: Final = 0x070
_EXT_RAMDISK_IMAGE: Final = 0x0C0
_EXT_RAMDISK_SIZE: Final = 0x0C4
_EXT_CMD_LINE_PTR: Final = 0x0C8
_E820_ENTRIES: Final = 0x1E8
_E820_TABLE: Final = 0x2D0

_OTHER_IMAGES: Final = (
    (0x38, b"ARM\x64", "is a kernel for AArch64"),
    (0x38, b"RSC\x05", "is a kernel for RISC-V"),
    (0x24, b"\x18\x28\x6f\x01", "is a kernel for 32-bit ARM"),
    (0x00, b"\x1f\x8b", "is compressed with gzip"),
)
_EM_X86_64: Final = 62
_ELF_MACHINES: Final = {3: "32-bit x86", 40: "ARM", 183: "AArch64", 243: "RISC-V"}


@dataclass(frozen=True, slots=True)
class Kernel:
    """A validated kernel: `size` bytes at `offset` of the file go to guest physical `load`.

    Until it has looked at the memory map the kernel uses what is below `end`.  `initrd_end` is
    where its initial RAM disk must end at the latest, and `command_line_limit` the command line's
    longest length without its final zero.
    """

    path: Path
    header: bytes
    offset: int
    size: int
    load: int
    end: int
    memory_size: int
    initrd_end: int
    command_line_limit: int


def read_kernel(path: Path, memory_size: int) -> Kernel:
    """Read and check the setup header of `path` for a PC with `memory_size` bytes of RAM.

    Raises ProgramError, and ConfigError if that is too little or too much memory.
    """
    if memory_size > at.DEVICE_HOLE:
        raise ConfigError(
            f"{MEMORY.flag}: a PC has at most {format_size(at.DEVICE_HOLE)} of RAM so far; "
            f"{format_size(memory_size)} is more"
        )
    with open_regular(path, _WANTED) as file:
        head = _read(file, path)
        length = length_of(file)
    _check_kind(path, head)
    header = _setup_header(path, head)
    offset = ((head[_SETUP_SECTS] or 4) + 1) * _SECTOR
    size = _u32(head, _SYSSIZE) * 16
    if size <= _ENTRY_64:
        raise ProgramError(f"{path}: is damaged: its header speaks of {size} bytes of code")
    if offset + size > length:
        raise ProgramError(f"{path}: is truncated: {length} of {offset + size} bytes are there")
    load = _load_address(path, head)
    end = load + max(_u32(head, _INIT_SIZE), size)
    if end > memory_size:
        raise _too_little(f"{path}: this kernel", end, memory_size)
    return Kernel(
        path,
        header,
        offset,
        size,
        load,
        end,
        memory_size,
        initrd_end=_initrd_end(head, memory_size),
        command_line_limit=min(
            _u32(head, _CMDLINE_SIZE), at.COMMAND_LINE_END - at.COMMAND_LINE - 1
        ),
    )


def load_linux(
    cpu: Cpu,
    kernel: Kernel,
    *,
    command_line: str,
    initrd: Path | bytes | None = None,
    rsdp: int = 0,
) -> None:
    """Copy everything into guest memory, which holds zeros, and set the registers for the entry.

    `initrd` is the initial RAM disk's file or its contents.  `rsdp` is the guest physical address
    of the ACPI root pointer, 0 for none.  Raises ProgramError and ConfigError.
    """
    arguments = _command_line(kernel, command_line)
    params = bytearray(_PAGE)
    params[_HEADER_START : _HEADER_START + len(kernel.header)] = kernel.header
    params[_TYPE_OF_LOADER] = _UNASSIGNED_LOADER
    params[_LOADFLAGS] |= _LOADED_HIGH
    struct.pack_into("<Q", params, _ACPI_RSDP_ADDR, rsdp)
    _put_split(params, _CMD_LINE_PTR, _EXT_CMD_LINE_PTR, at.COMMAND_LINE)
    ranges = e820.memory_map(kernel.memory_size)
    params[_E820_ENTRIES] = len(ranges)
    table = e820.pack(ranges)
    params[_E820_TABLE : _E820_TABLE + len(table)] = table

    with open_regular(kernel.path, _WANTED) as file:
        copy_to_memory(file, kernel.offset, kernel.size, cpu, kernel.load)
    address, size = _load_initrd(cpu, kernel, initrd) if initrd is not None else (0, 0)
    _put_split(params, _RAMDISK_IMAGE, _EXT_RAMDISK_IMAGE, address)
    _put_split(params, _RAMDISK_SIZE, _EXT_RAMDISK_SIZE, size)
    cpu.write_phys(at.COMMAND_LINE, arguments + b"\0")
    cpu.write_phys(at.BOOT_PARAMS, bytes(params))

    enter_long_mode(cpu, kernel.load + _ENTRY_64, avx=False, code_selector=at.LINUX_CODE_SELECTOR)
    cpu.set("rsi", at.BOOT_PARAMS)


# --- the header


def _read(file: BinaryIO, path: Path) -> bytes:
    try:
        return file.read(_READ)
    except OSError as error:
        raise ProgramError(f"{path}: cannot be read: {error.strerror}") from None


def _check_kind(path: Path, head: bytes) -> None:
    """Say what the file is, if it is something else that people take for a kernel."""
    if not head:
        raise ProgramError(f"{path}: is empty; give {_WANTED}")
    if head.startswith(b"\x7fELF") and len(head) >= 20:
        machine = _u16(head, 18)
        what = _ELF_MACHINES.get(machine, f"machine {machine}")
        if machine != _EM_X86_64:
            raise ProgramError(f"{path}: is an ELF file for {what}; give {_WANTED}")
        raise ProgramError(f"{path}: is an ELF file, perhaps vmlinux; give its bzImage (vmlinuz)")
    for offset, magic, what in _OTHER_IMAGES:
        if head[offset : offset + len(magic)] == magic:
            raise ProgramError(f"{path}: {what}; give {_WANTED}")
    if head[_MAGIC : _MAGIC + 4] != _MAGIC_VALUE:
        raise ProgramError(f"{path}: is not a Linux kernel; give {_WANTED}")


def _setup_header(path: Path, head: bytes) -> bytes:
    """Return the setup header, checked for what the 64-bit protocol needs."""
    if len(head) < _READ:
        raise ProgramError(f"{path}: is truncated: {len(head)} bytes do not hold a setup header")
    version = _u16(head, _VERSION)
    if version < LEAST_PROTOCOL:
        raise ProgramError(
            f"{path}: speaks boot protocol {version >> 8}.{version & 0xFF:02}; "
            "the least is 2.12, of Linux 3.8"
        )
    if not _u16(head, _XLOADFLAGS) & _XLF_KERNEL_64 or not head[_LOADFLAGS] & _LOADED_HIGH:
        raise ProgramError(f"{path}: is a 32-bit kernel; give {_WANTED}")
    end = _MAGIC + head[_JUMP_LENGTH]
    if _u16(head, _BOOT_FLAG) != 0xAA55 or not _LEAST_HEADER_END <= end <= _HEADER_ROOM_END:
        raise ProgramError(f"{path}: is damaged: its setup header contradicts itself")
    return head[_HEADER_START:end]


def _load_address(path: Path, head: bytes) -> int:
    """Return where the kernel prefers to be.

    A relocatable one, too, moves up to there itself if it is loaded lower, so that there is nothing
    to be won by another place.
    """
    load = _u64(head, _PREF_ADDRESS)
    if head[_RELOCATABLE]:
        alignment = _u32(head, _KERNEL_ALIGNMENT)
        if alignment < _PAGE or alignment & (alignment - 1):
            raise ProgramError(f"{path}: is damaged: it asks for an alignment of {alignment:#x}")
        load = -(-load // alignment) * alignment
    if load < at.HIGH_RAM:
        raise ProgramError(f"{path}: is damaged: it wants to be at {load:#x}, below 1 MiB")
    return load


def _initrd_end(head: bytes, memory_size: int) -> int:
    if _u16(head, _XLOADFLAGS) & _XLF_CAN_BE_LOADED_ABOVE_4G:
        return memory_size
    return min(memory_size, _u32(head, _INITRD_ADDR_MAX) + 1)


# --- what goes with it


def _command_line(kernel: Kernel, text: str) -> bytes:
    arguments = os.fsencode(text)
    if b"\0" in arguments:
        raise ConfigError("the kernel's command line holds a zero byte")
    if len(arguments) > kernel.command_line_limit:
        raise ConfigError(
            f"the kernel's command line has {len(arguments)} bytes; "
            f"{kernel.path} takes {kernel.command_line_limit}"
        )
    return arguments


def _load_initrd(cpu: Cpu, kernel: Kernel, initrd: Path | bytes) -> tuple[int, int]:
    """Copy the initial RAM disk as high as it may be; return its address and its size."""
    if isinstance(initrd, bytes):
        address = _initrd_address(kernel, "the guest", len(initrd))
        cpu.write_phys(address, initrd)
        return address, len(initrd)
    with open_regular(initrd, "an initial RAM disk") as file:
        size = length_of(file)
        address = _initrd_address(kernel, str(initrd), size)
        copy_to_memory(file, 0, size, cpu, address)
    return address, size


def _initrd_address(kernel: Kernel, name: str, size: int) -> int:
    if not size:
        raise ProgramError(f"{name}: is empty; give an initial RAM disk")
    address = (kernel.initrd_end - size) // _PAGE * _PAGE
    if address >= kernel.end:
        return address
    least = -(-kernel.end // _PAGE) * _PAGE + -(-size // _PAGE) * _PAGE
    what = f"{name}: an initial RAM disk of {format_size(size)}"
    if least > kernel.memory_size:
        raise _too_little(what, least, kernel.memory_size)
    raise ProgramError(
        f"{what} is too large: this kernel finds one below {format_size(kernel.initrd_end)} only"
    )


def _too_little(what: str, least: int, memory_size: int) -> ConfigError | ProgramError:
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


def _put_split(params: bytearray, low: int, high: int, value: int) -> None:
    """Write the halves of a 64-bit field that came in two versions of the protocol."""
    struct.pack_into("<I", params, low, value & 0xFFFF_FFFF)
    struct.pack_into("<I", params, high, value >> 32)


def _u16(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 2], "little")


def _u32(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 4], "little")


def _u64(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 8], "little")
