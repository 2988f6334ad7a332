"""Headers of archives that are made to exhaust the host."""

import io
import tarfile

import pytest

from ringlet.images import headers
from ringlet.images.headers import HEADER_DATA, members, open_tar


def block(kind: bytes, size: bytes) -> bytes:
    """A header with a size of 12 bytes as it stands there."""
    member = tarfile.TarInfo("name")
    member.type = kind
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])
    return bytes(header[:512])


def octal(size: int) -> bytes:
    return b"%011o\0" % size


def names(data: bytes) -> list[str]:
    with open_tar(io.BytesIO(data), "r:") as archive:
        return [member.name for member in members(archive)]


def test_an_ordinary_archive() -> None:
    assert names(block(b"0", octal(3)) + b"abc".ljust(512, b"\0") + bytes(1024)) == ["name"]


def test_negative_size_is_refused() -> None:
    negative = b"\xff" * 10 + (-1024 & 0xFFFF).to_bytes(2, "big")
    good = block(b"0", octal(0))
    with pytest.raises(tarfile.TarError, match="negative"):
        names(good + block(b"0", negative) + bytes(1024))


def test_negative_size_in_an_extended_header_is_refused() -> None:
    text = b"15 size=-51200\n"
    data = block(b"x", octal(len(text))) + text.ljust(512, b"\0") + block(b"0", octal(0))
    with pytest.raises(tarfile.TarError, match="negative"):
        names(block(b"0", octal(0)) + data + bytes(1024))


@pytest.mark.parametrize("kind", [b"L", b"K", b"x", b"g", b"X"])
def test_large_data_of_a_header_is_refused(kind: bytes) -> None:
    with pytest.raises(tarfile.TarError, match="a header has 1048577 bytes"):
        names(block(kind, octal(HEADER_DATA + 1)) + bytes(4096))


def test_number_of_members_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headers, "MEMBERS", 2)
    assert names(2 * block(b"0", octal(0)) + bytes(1024)) == ["name"] * 2
    with pytest.raises(tarfile.TarError, match="too many"):
        names(3 * block(b"0", octal(0)) + bytes(1024))
