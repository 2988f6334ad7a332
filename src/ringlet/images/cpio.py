"""Writes cpio archives in the "new ASCII" format, from which Linux unpacks its initial root.

The kernel's Documentation/driver-api/early-userspace/buffer-format.rst describes the format.  The
same contents give the same bytes: times are 0, owners are root, inodes count from 1.
"""

import io
import os
import stat
from typing import BinaryIO, Final

_MAGIC: Final = "070701"
_TRAILER: Final = b"TRAILER!!!"
_LARGEST: Final = 0xFFFF_FFFF


class CpioWriter:
    """An archive that is written to `out`, or else to memory.

    A name is a path below the root, without a leading slash.  A directory must be added before its
    contents.
    """

    def __init__(self, out: BinaryIO | None = None) -> None:
        self._out = out or io.BytesIO()
        self._inode = 0

    def directory(self, name: str, mode: int = 0o755) -> None:
        """Add a directory."""
        self._inode += 1
        self._add(os.fsencode(name), stat.S_IFDIR | mode, self._inode, links=2)

    def file(self, name: str, content: bytes, mode: int = 0o644) -> None:
        """Add a regular file.  Raises ValueError if it has 4 GiB or more."""
        if len(content) > _LARGEST:
            raise ValueError(f"{name}: {len(content)} bytes are too many for the format")
        self._inode += 1
        self._add(os.fsencode(name), stat.S_IFREG | mode, self._inode, content=content)

    def symlink(self, name: str, target: str) -> None:
        """Add a symbolic link."""
        self._inode += 1
        content = os.fsencode(target)
        self._add(os.fsencode(name), stat.S_IFLNK | 0o777, self._inode, content=content)

    def character_device(self, name: str, major: int, minor: int, mode: int = 0o600) -> None:
        """Add a character device."""
        self._inode += 1
        self._add(name.encode(), stat.S_IFCHR | mode, self._inode, device=(major, minor))

    def contents(self) -> bytes:
        """Return the complete archive with the members added so far, if it is in memory."""
        assert isinstance(self._out, io.BytesIO)
        ended = io.BytesIO()
        CpioWriter(ended).end()
        return self._out.getvalue() + ended.getvalue()

    def end(self) -> None:
        """Write the archive's end; another archive may follow it."""
        self._add(_TRAILER, 0, 0)

    def _add(
        self,
        name: bytes,
        mode: int,
        inode: int,
        *,
        links: int = 1,
        content: bytes = b"",
        device: tuple[int, int] = (0, 0),
    ) -> None:
        owner = group = time = major = minor = check = 0
        fields = (
            inode, mode, owner, group, links, time, len(content), major, minor, *device,
            len(name) + 1, check,
        )  # fmt: skip
        header = _MAGIC + "".join(f"{field:08X}" for field in fields)
        self._out.write(_padded(header.encode() + name + b"\0"))
        self._out.write(content)
        self._out.write(bytes(-len(content) % 4))


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
