"""Reads the headers of tar archives of others, which may be made to exhaust the host.

tarfile reads the data of some headers whole (long names, extended attributes), and believes a size
below zero, with which it reads the same header for ever.
"""

import tarfile
from collections.abc import Iterator
from typing import IO, Any, Final, Self

HEADER_DATA: Final = 1 << 20
"""The most bytes of a header's own data, as of a long name or extended attributes."""
MEMBERS: Final = 4_000_000
"""The most members of an archive."""
_WITH_DATA: Final = frozenset({
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
})  # fmt: skip


class Header(tarfile.TarInfo):
    """A header; one that would exhaust the host raises tarfile.ReadError."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Return the header that a block of 512 bytes is."""
        header = super().frombuf(buf, encoding, errors)
        if header.size < 0:
            raise tarfile.ReadError("a member has a negative size")
        if header.type in _WITH_DATA and header.size > HEADER_DATA:
            raise tarfile.ReadError(f"a header has {header.size} bytes of data")
        return header


def open_tar(source: IO[bytes], mode: str, **options: Any) -> tarfile.TarFile:
    """Open an archive whose members are to be read by `members`.  Raises tarfile.TarError."""
    return tarfile.open(fileobj=source, mode=mode, tarinfo=Header, **options)  # type: ignore[call-overload, no-any-return, unused-ignore]


def members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the members of an archive.  Raises tarfile.TarError."""
    for number, member in enumerate(archive):
        if member.size < 0 or number >= MEMBERS:
            raise tarfile.ReadError("it has a negative size, or too many members")
        yield member
