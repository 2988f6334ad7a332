"""The messages of FUSE as Linux writes them: opcodes, flags and layouts of version 7.38.

Source: include/uapi/linux/fuse.h.  Fields that no server reads are skipped (`x`).  Times are
signed, as the kernel takes them.
"""

from struct import Struct
from typing import Final

MAJOR: Final = 7
MINOR: Final = 38
MINOR_LEAST: Final = 31
"""The oldest minor version that a guest may have; virtio-fs began with it (Linux 5.4)."""
ROOT_ID: Final = 1

LOOKUP: Final = 1
FORGET: Final = 2
GETATTR: Final = 3
SETATTR: Final = 4
READLINK: Final = 5
SYMLINK: Final = 6
MKNOD: Final = 8
MKDIR: Final = 9
UNLINK: Final = 10
RMDIR: Final = 11
RENAME: Final = 12
LINK: Final = 13
OPEN: Final = 14
READ: Final = 15
WRITE: Final = 16
STATFS: Final = 17
RELEASE: Final = 18
FSYNC: Final = 20
SETXATTR: Final = 21
GETXATTR: Final = 22
LISTXATTR: Final = 23
REMOVEXATTR: Final = 24
FLUSH: Final = 25
INIT: Final = 26
OPENDIR: Final = 27
READDIR: Final = 28
RELEASEDIR: Final = 29
FSYNCDIR: Final = 30
GETLK: Final = 31
SETLK: Final = 32
SETLKW: Final = 33
ACCESS: Final = 34
CREATE: Final = 35
INTERRUPT: Final = 36
DESTROY: Final = 38
IOCTL: Final = 39
BATCH_FORGET: Final = 42
FALLOCATE: Final = 43
READDIRPLUS: Final = 44
RENAME2: Final = 45
LSEEK: Final = 46
COPY_FILE_RANGE: Final = 47
SYNCFS: Final = 50

# Flags of INIT.
ASYNC_READ: Final = 1 << 0
POSIX_LOCKS: Final = 1 << 1
ATOMIC_O_TRUNC: Final = 1 << 3
BIG_WRITES: Final = 1 << 5
FLOCK_LOCKS: Final = 1 << 10
AUTO_INVAL_DATA: Final = 1 << 12
DO_READDIRPLUS: Final = 1 << 13
READDIRPLUS_AUTO: Final = 1 << 14
ASYNC_DIO: Final = 1 << 15
WRITEBACK_CACHE: Final = 1 << 16
PARALLEL_DIROPS: Final = 1 << 18
MAX_PAGES: Final = 1 << 22
CACHE_SYMLINKS: Final = 1 << 23
HANDLE_KILLPRIV_V2: Final = 1 << 28

# Flags of other messages.
FATTR_MODE: Final = 1 << 0
FATTR_UID: Final = 1 << 1
FATTR_GID: Final = 1 << 2
FATTR_SIZE: Final = 1 << 3
FATTR_ATIME: Final = 1 << 4
FATTR_MTIME: Final = 1 << 5
FATTR_FH: Final = 1 << 6
FATTR_ATIME_NOW: Final = 1 << 7
FATTR_MTIME_NOW: Final = 1 << 8
FOPEN_KEEP_CACHE: Final = 1 << 1
FOPEN_CACHE_DIR: Final = 1 << 3
GETATTR_FH: Final = 1 << 0
WRITE_CACHE: Final = 1 << 0
FSYNC_FDATASYNC: Final = 1 << 0
LK_FLOCK: Final = 1 << 0

MAX_WRITE: Final = 1 << 20
"""The most bytes of a file that one READ or WRITE carries."""
PAGES: Final = MAX_WRITE >> 12

IN_HEADER: Final = Struct("<IIQQIIII")  # len, opcode, unique, nodeid, uid, gid, pid, padding
OUT_HEADER: Final = Struct("<IiQ")  # len, error, unique

INIT_IN: Final = Struct("<IIII")  # major, minor, max_readahead, flags
INIT_OUT: Final = Struct("<IIIIHHIIHHI28x")
"""major, minor, max_readahead, flags, max_background, congestion_threshold, max_write, time_gran,
max_pages, map_alignment, flags2"""

ATTR: Final = "QQQqqqIIIIIIIIII"
"""ino, size, blocks, atime, mtime, ctime, their nanoseconds, mode, nlink, uid, gid, rdev, blksize,
flags"""
ATTR_OUT: Final = Struct("<QI4x" + ATTR)  # attr_valid, its nanoseconds, attributes
ENTRY_OUT: Final = Struct("<QQQQII" + ATTR)
"""nodeid, generation, entry_valid, attr_valid, their nanoseconds, attributes"""

FORGET_IN: Final = Struct("<Q")
FORGET_ONE: Final = Struct("<QQ")  # nodeid, nlookup
INTERRUPT_IN: Final = Struct("<Q")  # unique
BATCH_FORGET_IN: Final = Struct("<I4x")
GETATTR_IN: Final = Struct("<I4xQ")  # flags, fh
SETATTR_IN: Final = Struct("<I4xQQ8xqq8xII4xI4xII4x")
"""valid, fh, size, atime, mtime, nanoseconds of atime and mtime, mode, uid, gid"""
MKNOD_IN: Final = Struct("<II8x")  # mode, rdev
MKDIR_IN: Final = Struct("<I4x")  # mode
RENAME_IN: Final = Struct("<Q")  # newdir
RENAME2_IN: Final = Struct("<QI4x")  # newdir, flags
LINK_IN: Final = Struct("<Q")  # oldnodeid
OPEN_IN: Final = Struct("<II")  # flags, open_flags
OPEN_OUT: Final = Struct("<QI4x")  # fh, open_flags
CREATE_IN: Final = Struct("<II4xI")  # flags, mode, open_flags
RELEASE_IN: Final = Struct("<Q4xIQ")  # fh, release_flags, lock_owner
FLUSH_IN: Final = Struct("<Q8xQ")  # fh, lock_owner
READ_IN: Final = Struct("<QQI20x")  # fh, offset, size
WRITE_IN: Final = Struct("<QQII16x")  # fh, offset, size, write_flags
WRITE_OUT: Final = Struct("<I4x")  # size
STATFS_OUT: Final = Struct("<QQQQQIII4x24x")
"""blocks, bfree, bavail, files, ffree, bsize, namelen, frsize"""
FSYNC_IN: Final = Struct("<QI4x")  # fh, flags
SETXATTR_IN: Final = Struct("<II")  # size, flags
GETXATTR_IN: Final = Struct("<I4x")  # size
GETXATTR_OUT: Final = Struct("<I4x")  # size
LK_IN: Final = Struct("<QQQQIII4x")  # fh, owner, start, end, type, pid, flags
LK_OUT: Final = Struct("<QQII")  # start, end, type, pid
ACCESS_IN: Final = Struct("<I4x")  # mask
FALLOCATE_IN: Final = Struct("<QQQI4x")  # fh, offset, length, mode
LSEEK_IN: Final = Struct("<QQI4x")  # fh, offset, whence
LSEEK_OUT: Final = Struct("<Q")  # offset
COPY_IN: Final = Struct("<QQQQQQQ")  # fh_in, off_in, nodeid_out, fh_out, off_out, len, flags
DIRENT: Final = Struct("<QQII")  # ino, off, namelen, type; then the name, filled up to 8 bytes

PAYLOAD: Final = IN_HEADER.size + WRITE_IN.size
"""Where the data of a WRITE begins, in bytes."""
