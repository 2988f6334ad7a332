"""Headers of archives that are made to exhaust the host."""

import io
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import IO, Any, cast

import pytest

from ringlet.images import headers
from ringlet.images.headers import HEADER_DATA, members, open_tar
from ringlet.images.tree import MAX_FILES


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


def extended(data: bytes, kind: bytes = b"x") -> bytes:
    return block(kind, octal(len(data))) + data + bytes(-len(data) % 512)


def record(key: bytes, value: bytes) -> bytes:
    length = next(n for n in range(10_000_000) if n == len(b"%d %s=%s\n" % (n, key, value)))
    return b"%d %s=%s\n" % (length, key, value)


def sparse(parts: bytes, *, more: bool) -> bytes:
    """A header of GNU tar's old form for sparse files of 4096 bytes, with four parts."""
    header = bytearray(block(b"S", octal(0)))
    header[386 : 386 + len(parts)] = parts
    header[482] = more
    header[483:495] = octal(4096)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


class Endless(io.RawIOBase):
    """A file that never ends: `first`, then `again` for ever; it counts what was read."""

    def __init__(self, first: bytes, again: bytes) -> None:
        self.first, self.again, self.count = first, again, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = (self.first or self.again)[: len(buffer)]
        self.first = self.first[len(data) :]
        buffer[: len(data)] = data
        self.count += len(data)
        return len(data)


def opened(source: io.RawIOBase) -> tarfile.TarFile:
    return open_tar(cast("IO[bytes]", source), "r|")


def kept(archive: tarfile.TarFile) -> list[tarfile.TarInfo]:
    return cast("Any", archive).members  # type: ignore[no-any-return]  # no stub has it


FILE = block(b"0", octal(0))
PART = octal(1) + octal(1)


@pytest.mark.parametrize(
    "header", [extended(record(b"a", b"b")), block(b"L", octal(2)) + b"a\0".ljust(512, b"\0")]
)
@pytest.mark.parametrize("first", [b"", FILE])
def test_headers_of_one_member_are_bounded(header: bytes, first: bytes) -> None:
    with pytest.raises(tarfile.ReadError, match="more than 16 headers"):
        names(first + header * 1200 + FILE + bytes(1024))


@pytest.mark.parametrize(
    ("first", "again"),
    [
        (sparse(PART * 4, more=True), ((octal(7) + octal(7)) * 21 + b"\1").ljust(512, b"\0")),
        (
            extended(record(b"GNU.sparse.major", b"1") + record(b"GNU.sparse.minor", b"0")
                     + record(b"GNU.sparse.realsize", b"1"))
            + block(b"0", octal(1 << 30)) + b"1000000000\n",
            b"1\n" * 256,
        ),
    ],
    ids=["old", "pax"],
)  # fmt: skip
def test_the_map_of_a_sparse_file_is_bounded(first: bytes, again: bytes) -> None:
    source = Endless(first, again)

    with pytest.raises(tarfile.ReadError, match="too long"), opened(source) as archive:
        next(members(archive))

    assert source.count < 3 * headers.MEMBER_DATA


def test_all_headers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headers, "ALL_HEADERS", 4096)
    assert names(FILE * 5 + bytes(1024)) == ["name"] * 5
    with pytest.raises(tarfile.ReadError, match="headers are too long"):
        names(FILE * 9 + bytes(1024))


def test_a_sparse_header_that_is_cut_off() -> None:
    with pytest.raises(tarfile.ReadError, match="a header is damaged"):
        names(sparse(PART * 4, more=True))


@pytest.mark.parametrize(
    ("size", "words"), [(1 << 33, "unexpected end"), (1 << 62, "belongs to no file")]
)
def test_data_that_is_not_there_is_not_skipped_for_ever(size: int, words: str) -> None:
    header = bytearray(sparse(b"", more=False))
    header[124:136] = b"\x80" + size.to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)

    with (
        pytest.raises(tarfile.ReadError, match=words),
        opened(cast("Any", io.BytesIO(header + bytes(4096)))) as archive,
    ):
        list(members(archive))


@pytest.mark.parametrize(
    "parts", [octal(1024) + octal(512) + octal(512) + octal(512), octal(4000) + octal(512)]
)
def test_parts_of_a_sparse_file_that_are_out_of_order(parts: bytes) -> None:
    with pytest.raises(tarfile.ReadError, match="out of order"):
        names(sparse(parts.ljust(96, b"\0"), more=False) + bytes(2048))


@pytest.mark.skipif(shutil.which("tar") is None, reason="this host has no tar")
@pytest.mark.parametrize("parts", [0, 1, 3, 4, 5, 30])
@pytest.mark.parametrize("form", [["gnu"], *(["posix", f"--sparse-version={n}"] for n in
                                            ("0.0", "0.1", "1.0"))])  # fmt: skip
def test_sparse_files_are_read(tmp_path: Path, form: list[str], parts: int) -> None:
    with (tmp_path / "file").open("wb") as file:
        for place in range(parts):
            file.seek(place << 20)
            file.write(b"%d" % place)
        file.truncate(40 << 20)
    command = ["tar", "-C", str(tmp_path), "-S", f"--format={form[0]}", *form[1:], "-cf-", "file"]
    made = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    assert len(made) < 1 << 20

    with open_tar(io.BytesIO(made), "r:") as archive:
        member = next(members(archive))
        content = archive.extractfile(member)
        assert content is not None
        assert content.read() == (tmp_path / "file").read_bytes()
        content.seek(0)
        assert content.read(10) == (tmp_path / "file").read_bytes()[:10]


def test_what_is_said_of_all_members_is_bounded() -> None:
    said = [extended(record(b"k%d" % n, b"a" * 1000), b"g") + FILE for n in range(10)]
    assert names(b"".join(said[:8]) + bytes(1024)) == ["name"] * 8
    with pytest.raises(tarfile.ReadError, match="of all members is too long"):
        names(b"".join(said) + bytes(1024))


def test_records_of_all_members_are_bounded() -> None:
    said = [record(b"k%d" % n, b"") for n in range(headers.GLOBAL_RECORDS + 1)]
    assert names(extended(b"".join(said[:-1]), b"g") + FILE * 2 + bytes(1024)) == ["name"] * 2
    with pytest.raises(tarfile.ReadError, match="of all members is too long"):
        names(extended(b"".join(said), b"g") + FILE * 2 + bytes(1024))


def test_records_of_all_headers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headers, "RECORDS", 6)
    one = extended(record(b"a", b"") + record(b"b", b"")) + FILE
    assert names(one * 3 + bytes(1024)) == ["name"] * 3
    with pytest.raises(tarfile.ReadError, match="too many records"):
        names(one * 4 + bytes(1024))


def test_an_archive_has_room_for_all_files_of_an_image_and_as_many_marks() -> None:
    assert headers.MEMBERS == 2 * MAX_FILES


@pytest.mark.parametrize(
    "data",
    [b"2 " * 5000 + b"=", b"1" * 100_000, b"30 a=b\n", b"5 a=b\n", b"0 a=b\n", b"6 a b\n",
     b"5 =b\n", b"9 a=" + b"b\n", record(b"a", b"7" * 300), b"x"],
    ids=range(10),
)  # fmt: skip
def test_records_that_are_damaged(data: bytes) -> None:
    with pytest.raises(tarfile.ReadError, match=r"a record of|a number in"):
        names(extended(data) + FILE + bytes(1024))


def test_records_of_all_kinds_are_read() -> None:
    data = record(b"path", b"x" * 500) + record(b"a", b"b\n=c\n") + record(b"mtime", b"1.5")
    assert names(extended(data) + FILE + bytes(1024)) == ["x" * 500]


def long_name(name: bytes) -> bytes:
    return block(b"L", octal(len(name) + 1)) + (name + b"\0").ljust(512, b"\0")


@pytest.mark.parametrize("letter", ["x", "g", "X", "L", "S"])
@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_letters_of_a_long_name_are_no_type_of_a_header(letter: str, form: int) -> None:
    name, target = "a" * 90 + "/" + "b" * 65 + letter + "c" * 40, "d" * 156 + letter
    assert name[156] == letter
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=form) as archive:
        archive.addfile(info)

    with open_tar(io.BytesIO(made.getvalue()), "r|") as archive:
        assert [(m.name, m.linkname) for m in members(archive)] == [(name, target)]


@pytest.mark.parametrize("before", [b"", long_name(b"z" * 156 + b"x" + b"z" * 43)])
def test_records_behind_a_long_name_are_checked(before: bytes) -> None:
    header = bytearray(extended(b"9" * 300 + b" path=x\n"))
    header[:4] = bytes(4)  # a block that is no record, if it is taken for the data of a header
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])

    with pytest.raises(tarfile.ReadError, match="a number in an extended header is too long"):
        names(before + header + FILE + bytes(1024))


def test_a_long_name_is_refused() -> None:
    with pytest.raises(tarfile.ReadError, match="its name is too long"):
        names(extended(record(b"path", b"x" * 5000)) + FILE + bytes(1024))


def test_members_are_not_kept() -> None:
    data = (extended(record(b"a", b"b")) + FILE) * 3 + bytes(1024)
    with open_tar(io.BytesIO(data), "r:") as archive:
        assert [member.pax_headers for member in members(archive)] == [{"a": "b"}] * 3
        assert kept(archive) == []
