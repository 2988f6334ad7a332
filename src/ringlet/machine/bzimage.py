"""Reads a Linux kernel that unpacks itself: a bzImage.

Only the setup header of the file's real-mode part is used.  The protected-mode part is loaded at
the kernel's preferred address.  It is entered there at offset 200h, in long mode, or, if it has no
such entry, at its 32-bit entry: its first byte, or where `code32_start` says.
"""

from pathlib import Path
from typing import BinaryIO, Final

from ringlet.errors import ProgramError
from ringlet.machine import address_map as at
from ringlet.machine import setup_header as field
from ringlet.machine.files import length_of, read_at
from ringlet.machine.flat_image import advice
from ringlet.machine.kernel import WANTED, Kernel, Piece, check_end
from ringlet.machine.linux import LinuxStart

_PAGE: Final = 4096
_SECTOR: Final = 512
_ENTRY_64: Final = 0x200
_OLD_LOAD: Final = 0x100000
_OLD_INITRD_MAX: Final = 0x37FF_FFFF
_OLD_COMMAND_LINE: Final = 255
_READ: Final = 0x300
_PARAGRAPH: Final = 16
"""The unit of the code's size.  A file, such as memtest86+, may end within the last one."""

_WITH_INITRD_MAX: Final = 0x0203
_WITH_RELOCATABLE: Final = 0x0205
_WITH_SIZE: Final = 0x0204
_WITH_COMMAND_LINE_SIZE: Final = 0x0206
_WITH_PREF_ADDRESS: Final = 0x020A
_LEAST_ENDS: Final = (
    (field.LEAST_PROTOCOL, 0x22C),
    (_WITH_INITRD_MAX, 0x230),
    (_WITH_RELOCATABLE, 0x235),
    (_WITH_COMMAND_LINE_SIZE, 0x23C),
    (_WITH_PREF_ADDRESS, field.LEAST_END),
)
"""The versions of the protocol that added fields, and where the header then ends."""

_OTHER_IMAGES: Final = (
    (0x38, b"ARM\x64", "is a kernel for AArch64"),
    (0x38, b"RSC\x05", "is a kernel for RISC-V"),
    (0x24, b"\x18\x28\x6f\x01", "is a kernel for 32-bit ARM"),
    (0x00, b"\x1f\x8b", "is compressed with gzip"),
)


def read_bzimage(path: Path, file: BinaryIO, memory_size: int) -> Kernel:
    """Check `file` and read its setup header for a PC with `memory_size` bytes of RAM.

    Raises ProgramError, and ConfigError if the RAM is too small.
    """
    head = read_at(file, 0, _READ)
    length = length_of(file)
    _check_kind(path, head)
    header = _setup_header(path, head)
    version = _u16(head, field.VERSION)
    flags = _u16(head, field.XLOADFLAGS) if version >= field.PROTOCOL_64 else 0
    bits = 64 if flags & field.XLF_KERNEL_64 else 32
    offset = ((head[field.SETUP_SECTS] or 4) + 1) * _SECTOR
    size = _code_size(head, version, length - offset)
    if offset >= length:
        raise ProgramError(f"{path}: is truncated: it ends in its setup code")
    if size <= _ENTRY_64:
        raise ProgramError(f"{path}: is damaged: its header claims {size} bytes of code")
    if offset + size >= length + _PARAGRAPH:
        raise ProgramError(f"{path}: is truncated: it has {length} of {offset + size} bytes")
    load = _load_address(path, head, version)
    if bits == 64:
        entry = load + _ENTRY_64
    else:
        start = _u32(head, field.CODE32_START)
        entry = start if load <= start < load + size else load
    init_size = _u32(head, field.INIT_SIZE) if version >= _WITH_PREF_ADDRESS else 0
    end = load + max(init_size, size)
    check_end(path, end, memory_size)
    new = version >= _WITH_INITRD_MAX
    initrd_max = _u32(head, field.INITRD_ADDR_MAX) if new else _OLD_INITRD_MAX
    sized = version >= _WITH_COMMAND_LINE_SIZE
    return Kernel(
        path,
        LinuxStart(header, bits),
        (Piece(offset, min(size, length - offset), load),),
        entry,
        end,
        memory_size,
        initrd_limit=initrd_max + 1,
        initrd_anywhere=bool(flags & field.XLF_CAN_BE_LOADED_ABOVE_4G) and bits == 64,
        command_line_limit=_u32(head, field.CMDLINE_SIZE) if sized else _OLD_COMMAND_LINE,
    )


def _code_size(head: bytes, version: int, rest: int) -> int:
    """Return the size of the protected-mode code, of which the file has `rest` bytes.

    Before protocol 2.04 the field had 16 bits, too few for most kernels.
    """
    return _u32(head, field.SYSSIZE) * _PARAGRAPH if version >= _WITH_SIZE else rest


def _check_kind(path: Path, head: bytes) -> None:
    """Raise ProgramError if the file is of another kind that is easily confused with a kernel."""
    if not head:
        raise ProgramError(f"{path}: is empty; give {WANTED}")
    for offset, magic, what in _OTHER_IMAGES:
        if head[offset : offset + len(magic)] == magic:
            raise ProgramError(f"{path}: {what}; give {WANTED}")
    if head[field.MAGIC : field.MAGIC + 4] != field.MAGIC_VALUE:
        raise ProgramError(f"{path}: is not a kernel; give {WANTED}, or {advice(path)}")


def _setup_header(path: Path, head: bytes) -> bytes:
    """Return the setup header, checked for the needs of the two protocols."""
    if len(head) < _READ:
        raise ProgramError(f"{path}: is truncated: {len(head)} bytes cannot hold a setup header")
    version = _u16(head, field.VERSION)
    if version < field.LEAST_PROTOCOL:
        raise ProgramError(
            f"{path}: uses boot protocol {version >> 8}.{version & 0xFF:02}; "
            "give a kernel with 2.02 or later (Linux 2.4)"
        )
    if not head[field.LOADFLAGS] & field.LOADED_HIGH:
        raise ProgramError(f"{path}: is a zImage, which runs below 1 MiB; give {WANTED}")
    end = field.MAGIC + head[field.JUMP_LENGTH]
    flag = _u16(head, field.BOOT_FLAG)
    least = max(place for since, place in _LEAST_ENDS if since <= version)
    if flag != field.BOOT_FLAG_VALUE or not least <= end <= field.ROOM_END:
        raise ProgramError(f"{path}: is damaged: its setup header contradicts itself")
    return head[field.START : end]


def _load_address(path: Path, head: bytes, version: int) -> int:
    """Return the kernel's preferred load address, which for old kernels is 1 MiB.

    Even a relocatable kernel moves itself up to that address if it is loaded below it, so another
    address would have no advantage.
    """
    if version < _WITH_PREF_ADDRESS:
        return _OLD_LOAD
    load = _u64(head, field.PREF_ADDRESS)
    if head[field.RELOCATABLE]:
        alignment = _u32(head, field.KERNEL_ALIGNMENT)
        if alignment < _PAGE or alignment & (alignment - 1):
            raise ProgramError(f"{path}: is damaged: its alignment is {alignment:#x}")
        load = -(-load // alignment) * alignment
    if load < at.HIGH_RAM:
        raise ProgramError(f"{path}: is damaged: its load address {load:#x} is below 1 MiB")
    return load


def _u16(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 2], "little")


def _u32(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 4], "little")


def _u64(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 8], "little")
