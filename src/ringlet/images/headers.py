"""Reads the headers of tar archives of others, which may be made to exhaust the host.

tarfile reads the data of some headers whole (long names, extended attributes, maps of sparse
files), takes any number of headers for one member, keeps what it has read, and believes a size
below zero, with which it reads the same header for ever.  Some versions of it take the square of
the time, or of the memory, for extended headers whose records do not end where they say.
"""

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from tarfile import ReadError
from typing import IO, Any, Final, cast

HEADER_DATA: Final = 1 << 20
"""The most bytes of a header's own data, as of a long name or extended attributes."""
GLOBAL_DATA: Final = 1 << 13
"""The most characters of what is said of all members."""
GLOBAL_RECORDS: Final = 64
"""The most records of what is said of all members: tarfile copies each to each member."""
HEADERS: Final = 16
"""The most headers of one member."""
MEMBER_DATA: Final = 4 << 20
"""The most bytes of all headers of one member."""
ALL_HEADERS: Final = 1 << 31
"""The most bytes of all headers of an archive."""
RECORDS: Final = 1 << 24
"""The most records of all extended headers of an archive."""
MEMBERS: Final = 1 << 21
"""The most members of an archive or of all layers: files, and marks of files that are removed."""
SKIPPED: Final = 1 << 34
"""The most bytes of an archive that are read and not used."""
LONGEST_PATH: Final = 4096
"""The most characters of a member's name (PATH_MAX)."""
_CHUNK: Final = 1 << 20
_DIGITS: Final = 256
_PAX: Final = frozenset({tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE})
_WITH_DATA: Final = _PAX | {tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}
_LENGTH: Final = re.compile(rb"([0-9]{1,8}) ")
_NUMBER: Final = re.compile(rb"[0-9]+")
# What tarfile raises about headers that it does not expect, besides its own errors.
_UNEXPECTED: Final = (IndexError, KeyError, RecursionError, TypeError, ValueError, OverflowError)


class Header(tarfile.TarInfo):
    """A header; one that would exhaust the host raises tarfile.ReadError."""

    def _proc_member(self, tarfile: tarfile.TarFile) -> Any:
        """Return the member whose header this is, or is one of.

        tarfile calls it for each header, whatever stands before that, when it has read the block.
        """
        if self.size < 0:
            raise ReadError("a member has a negative size")
        if self.type in _WITH_DATA and self.size > HEADER_DATA:
            raise ReadError(f"a header has {self.size} bytes of data")
        cast("Archive", tarfile).meter.begin_data(pax=self.type in _PAX)
        return cast("Any", super())._proc_member(tarfile)  # noqa: SLF001 - made to be overridden


@dataclass(slots=True)
class Spent:
    """What archives have taken so far of what the bounds allow; one for all layers of an image."""

    members: int = 0
    headers: int = 0
    """Bytes of headers."""
    records: int = 0
    skipped: int = 0
    """Bytes that were read and not used."""
    removed: int = 0
    """Files that whiteouts looked at."""


class Meter:
    """The file of an archive; it bounds and checks what is read as a header.

    All that it gives is hostile input.
    """

    def __init__(self, file: Any, spent: Spent) -> None:
        self.spent = spent
        self._file = file
        self._in_headers = False
        self._headers = 0
        self._member = 0
        self._data_is_pax = False

    def begin_member(self) -> None:
        """Note that headers follow, up to `end_member`."""
        self._in_headers = True
        self._headers = self._member = 0
        self._data_is_pax = False

    def end_member(self) -> None:
        """Note that no headers follow."""
        self._in_headers = False

    def begin_data(self, *, pax: bool) -> None:
        """Note that a header has been read, whose data follows: records if `pax`.

        Raises tarfile.ReadError if the header is one too many.
        """
        self._headers += 1
        if self._headers > HEADERS:
            raise ReadError(f"a member has more than {HEADERS} headers")
        self._data_is_pax = pax

    def read(self, size: int = -1) -> bytes:
        """Return `size` bytes, fewer at the end.  Raises tarfile.ReadError."""
        data: bytes = self._file.read(size)
        if not self._in_headers:
            return data
        self._member += len(data)
        self.spent.headers += len(data)
        if self._member > MEMBER_DATA or self.spent.headers > ALL_HEADERS:
            raise ReadError("its headers are too long")
        if self._data_is_pax:
            self.spent.records += _check_records(data)
            if self.spent.records > RECORDS:
                raise ReadError("its extended headers have too many records")
            self._data_is_pax = False
        return data

    def tell(self) -> int:
        """Return the place in the archive, in bytes."""
        return cast("int", self._file.tell())

    def seek(self, place: int, whence: int = 0) -> Any:
        """Go to `place`.  Raises tarfile.ReadError if a stream ends before, or goes on too long."""
        if whence or hasattr(self._file, "seekable"):
            return self._file.seek(place, whence)
        # tarfile would go on to read behind the end, once for each block that a header claims.
        left = place - self.tell()
        self.spent.skipped += max(left, 0)
        if self.spent.skipped > SKIPPED:
            raise ReadError("it has too much that belongs to no file")
        while left > 0:
            data = self._file.read(min(left, _CHUNK))
            if not data:
                raise ReadError("unexpected end of data")
            left -= len(data)
        return self._file.seek(place)

    def seekable(self) -> bool:
        """Return whether `seek` goes back."""
        return not hasattr(self._file, "seekable") or bool(self._file.seekable())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Archive(tarfile.TarFile):
    """An archive whose headers are bounded.  Its methods raise tarfile.TarError."""

    tarinfo = Header

    def __init__(
        self,
        name: Any = None,
        mode: Any = "r",
        fileobj: Any = None,
        *,
        spent: Spent | None = None,
        **options: Any,
    ) -> None:
        self.meter = Meter(fileobj, spent or Spent())
        super().__init__(name, mode, cast("Any", self.meter), **options)

    def next(self) -> tarfile.TarInfo | None:
        """Return the next member, or None."""
        self.meter.begin_member()
        try:
            member = super().next()
        except _UNEXPECTED as error:
            raise ReadError("a header is damaged") from error
        finally:
            self.meter.end_member()
        said = sum(len(key) + len(value) for key, value in self.pax_headers.items())
        if said > GLOBAL_DATA or len(self.pax_headers) > GLOBAL_RECORDS:
            raise ReadError("what it says of all members is too long")
        return member


def open_tar(source: IO[bytes], mode: str, **options: Any) -> tarfile.TarFile:
    """Open an archive whose members are to be read by `members`.  Raises tarfile.TarError.

    Among `options` may be `spent`, which then counts for several archives.
    """
    return Archive.open(fileobj=source, mode=mode, **options)  # type: ignore[call-overload, no-any-return, unused-ignore]


def members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the members of an archive, which does not keep them.  Raises tarfile.TarError."""
    spent = cast("Archive", archive).meter.spent
    while (member := archive.next()) is not None:
        spent.members += 1
        if member.size < 0 or spent.members > MEMBERS:
            raise ReadError("it has a negative size, or too many members")
        if len(member.name) > LONGEST_PATH:
            raise ReadError(f"{member.name[:40]!a}...: its name is too long")
        if member.issparse():
            _check_sparse(member)
        yield member
        cast("Any", archive).members = []


def _check_records(data: bytes) -> int:
    """Return how many records an extended header has, which are checked.

    They are "LENGTH KEY=VALUE" and a line's end (POSIX pax).
    """
    if any(found.end() - found.start() > _DIGITS for found in _NUMBER.finditer(data)):
        raise ReadError("a number in an extended header is too long")
    at = count = 0
    while at < len(data) and data[at]:
        found = _LENGTH.match(data, at)
        end = at + int(found[1]) if found else 0
        if found is None or not found.end() < end <= len(data) or data[end - 1 : end] != b"\n":
            raise ReadError("a record of an extended header is damaged")
        if data.find(b"=", found.end(), end) <= found.end():
            raise ReadError("a record of an extended header has no key")
        at = end
        count += 1
    return count


def _check_sparse(member: tarfile.TarInfo) -> None:
    """Check that the parts of a sparse file follow each other; else to read it takes for ever.

    Parts without bytes are dropped: GNU tar marks the end with one, and the room behind it holds
    zeros, which tarfile takes for more of them.
    """
    parts = [(start, size) for start, size in cast("Any", member).sparse or () if size]
    last = 0
    for start, size in parts:
        if size < 0 or start < last or start + size > member.size:
            raise ReadError("the parts of a sparse file are out of order")
        last = start + size
    cast("Any", member).sparse = parts
