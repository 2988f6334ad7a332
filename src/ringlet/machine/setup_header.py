"""The setup header of Linux's boot protocol: fields by their offset in a bzImage.

Except SETUP_SECTS, the fields have the same offsets in `boot_params`.  Names and meanings are those
of the kernel's Documentation/arch/x86/boot.rst.
"""

from typing import Final

START: Final = 0x1F1
SETUP_SECTS: Final = 0x1F1
SYSSIZE: Final = 0x1F4
BOOT_FLAG: Final = 0x1FE
JUMP_LENGTH: Final = 0x201
MAGIC: Final = 0x202
VERSION: Final = 0x206
TYPE_OF_LOADER: Final = 0x210
LOADFLAGS: Final = 0x211
CODE32_START: Final = 0x214
RAMDISK_IMAGE: Final = 0x218
RAMDISK_SIZE: Final = 0x21C
CMD_LINE_PTR: Final = 0x228
INITRD_ADDR_MAX: Final = 0x22C
KERNEL_ALIGNMENT: Final = 0x230
RELOCATABLE: Final = 0x234
XLOADFLAGS: Final = 0x236
CMDLINE_SIZE: Final = 0x238
PREF_ADDRESS: Final = 0x258
INIT_SIZE: Final = 0x260
LEAST_END: Final = 0x264
ROOM_END: Final = 0x290

BOOT_FLAG_VALUE: Final = 0xAA55
MAGIC_VALUE: Final = b"HdrS"
LOADED_HIGH: Final = 1 << 0
XLF_KERNEL_64: Final = 1 << 0
XLF_CAN_BE_LOADED_ABOVE_4G: Final = 1 << 1
UNASSIGNED_LOADER: Final = 0xFF
PROTOCOL_64: Final = 0x020C
"""2.12, of Linux 3.8: the first version that says whether a kernel has a 64-bit entry point."""
LEAST_PROTOCOL: Final = 0x0202
"""2.02, of Linux 2.4: the first with CMD_LINE_PTR."""
