"""Reads Debian packages: an ar archive with two tar archives, as deb(5) describes.

Packages come from Debian by way of its signatures, but a damaged one gives an ImageError.
"""

import gzip
import io
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, Final, cast

from ringlet.errors import ImageError
from ringlet.images.compression import DAMAGED, open_xz

_MAGIC: Final = b"!<arch>\n"
_HEADER: Final = 60
_END: Final = b"`\n"
_MAX_CONTROL: Final = 16 << 20
_FIELD: Final = re.compile(r"^([A-Za-z0-9-]+):[ \t]*(.*(?:\n[ \t].*)*)$", re.MULTILINE)


@contextmanager
def open_data(deb: Path) -> Iterator[IO[bytes]]:
    """Give the package's files, as an uncompressed tar archive that can be read once."""
    with deb.open("rb") as file, _member(deb, file, "data.tar") as source:
        yield source


def read_control(deb: Path) -> dict[str, bytes]:
    """Return the package's control files by name: `control`, `postinst` and so on."""
    found = {}
    with deb.open("rb") as file, _member(deb, file, "control.tar") as source:
        try:
            data = source.read(_MAX_CONTROL + 1)
            if len(data) > _MAX_CONTROL:
                raise ImageError(f"{deb.name}: its control files are too large")
            with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
                for member in archive:
                    name = member.name.removeprefix("./")
                    if member.isfile() and "/" not in name:
                        content = archive.extractfile(member)
                        assert content is not None
                        found[name] = content.read()
        except (tarfile.TarError, *DAMAGED) as error:
            raise ImageError(f"{deb.name}: cannot unpack this package: {error}") from error
    return found


def fields(stanza: str) -> dict[str, str]:
    """Return the fields of a control file's stanza; a field of several lines keeps its newlines."""
    return dict(_FIELD.findall(stanza))


@contextmanager
def _member(deb: Path, file: BinaryIO, wanted: str) -> Iterator[IO[bytes]]:
    if file.read(len(_MAGIC)) != _MAGIC:
        raise ImageError(f"{deb.name}: this is not a Debian package")
    while len(header := file.read(_HEADER)) == _HEADER and header.endswith(_END):
        name = header[:16].decode("latin-1").rstrip(" /")
        try:
            size = int(header[48:58])
        except ValueError:
            break
        if name.startswith(f"{wanted}"):
            with _opened(deb, name.removeprefix(wanted), _Part(file, size)) as source:
                yield source
            return
        file.seek(size + size % 2, io.SEEK_CUR)
    raise ImageError(f"{deb.name}: this package has no {wanted}")


def _opened(deb: Path, suffix: str, part: "_Part") -> IO[bytes]:
    match suffix:
        case ".xz":
            return open_xz(io.BufferedReader(part), deb.name)
        case ".gz":
            return cast("IO[bytes]", gzip.GzipFile(fileobj=io.BufferedReader(part)))
        case "":
            return io.BufferedReader(part)
    raise ImageError(f"{deb.name}: packages compressed as {suffix[1:]!r} cannot be read")


class _Part(io.RawIOBase):
    """The next `size` bytes of a file."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # a wider buffer
        data = self._file.read(min(len(buffer), self._left))
        self._left -= len(data)
        buffer[: len(data)] = data
        return len(data)
