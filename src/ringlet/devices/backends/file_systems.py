"""The kinds of file systems that hold files (statfs(2), linux/magic.h)."""

import ctypes
import os
from typing import Final

# The kernel's own, as /proc, reach into the host and are not here.
_NAMES: Final = {
    0xEF53: "ext4", 0x58465342: "XFS", 0x9123683E: "Btrfs", 0xF2F52010: "F2FS", 0x2FC12FC1: "ZFS",
    0xCA451A4E: "bcachefs", 0x01021994: "tmpfs", 0x858458F6: "ramfs", 0x794C7630: "overlayfs",
    0x6969: "NFS", 0xFE534D42: "SMB", 0xFF534D42: "CIFS", 0x65735546: "FUSE", 0x01021997: "9P",
    0x00C36400: "Ceph", 0x4D44: "FAT", 0x2011BAB0: "exFAT", 0x7366746E: "NTFS", 0x5346544E: "NTFS",
    0x73717368: "SquashFS", 0xE0F5E1E2: "EROFS", 0x9660: "ISO 9660", 0x15013346: "UDF",
    0x3153464A: "JFS", 0x52654973: "ReiserFS", 0xF15F: "eCryptfs", 0x61756673: "aufs",
    0x786F4256: "VirtualBox", 0x47504653: "GPFS", 0x0BD00BD0: "Lustre", 0x5346414F: "AFS",
}  # fmt: skip
_Statfs = ctypes.c_char * 120  # struct statfs of x86-64; f_type is its first field
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fstatfs.argtypes = (ctypes.c_int, ctypes.c_void_p)


def file_system(fd: int) -> str | None:
    """Return the name of the file system of `fd`, or None for one that holds no files.

    `fd` may be an O_PATH descriptor.  Raises OSError.
    """
    buffer = _Statfs()
    if _libc.fstatfs(fd, buffer) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return _NAMES.get(int.from_bytes(buffer.raw[:8], "little"))
