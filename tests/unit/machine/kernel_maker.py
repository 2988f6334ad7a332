"""Small bzImages, right and wrong, made in memory: a setup header and some bytes of code."""

import struct
from dataclasses import dataclass
from pathlib import Path

CODE = bytes(range(256)) * 8


@dataclass(frozen=True)
class BzImage:
    """A relocatable 64-bit kernel by boot protocol 2.15 unless said otherwise."""

    code: bytes = CODE
    setup_sects: int = 3
    boot_flag: int = 0xAA55
    jump_length: int = 0x6A
    magic: bytes = b"HdrS"
    version: int = 0x020F
    loadflags: int = 0x01
    initrd_addr_max: int = 0x7FFF_FFFF
    alignment: int = 0x20_0000
    relocatable: int = 1
    xloadflags: int = 0x3F
    cmdline_size: int = 2047
    pref_address: int = 0x100_0000
    init_size: int = 0x10_0000
    code32_start: int = 0x10_0000
    syssize: int | None = None

    def bytes(self) -> bytes:
        image = bytearray(((self.setup_sects or 4) + 1) * 512)
        syssize = len(self.code) // 16 if self.syssize is None else self.syssize
        for offset, form, value in (
            (0x1F1, "B", self.setup_sects),
            (0x1F4, "I", syssize),
            (0x1FA, "H", 0xFFFF),
            (0x1FE, "H", self.boot_flag),
            (0x200, "B", 0xEB),
            (0x201, "B", self.jump_length),
            (0x206, "H", self.version),
            (0x211, "B", self.loadflags),
            (0x214, "I", self.code32_start),
            (0x22C, "I", self.initrd_addr_max),
            (0x230, "I", self.alignment),
            (0x234, "B", self.relocatable),
            (0x236, "H", self.xloadflags),
            (0x238, "I", self.cmdline_size),
            (0x258, "Q", self.pref_address),
            (0x260, "I", self.init_size),
            (0x264, "I", 0x190),
        ):
            struct.pack_into("<" + form, image, offset, value)
        image[0x202:0x206] = self.magic
        return bytes(image) + self.code

    def write(self, path: Path) -> Path:
        path.write_bytes(self.bytes())
        return path
