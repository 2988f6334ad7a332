"""Archives of OCI layouts, and what is kept of their members."""

import io
import tarfile
from collections.abc import Iterable

import pytest

from ringlet.errors import ImageError
from ringlet.images import oci
from ringlet.images.headers import open_tar
from ringlet.images.oci import Archive
from tests.unit.images.archives import link, member, tar
from tests.unit.images.test_headers import FILE, extended, octal, record, sparse


def opened(data: bytes) -> Archive:
    return Archive(open_tar(io.BytesIO(data), "r:"), "image.tar")


def archive(*members: Iterable[tuple[tarfile.TarInfo, bytes]]) -> Archive:
    return opened(tar([one for several in members for one in several]))


def test_members_of_one_name_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oci, "MAX_MEMBERS", 3)
    assert archive([member("a", b"1")] * 2, [member("a", b"2")]).read("a") == b"2"
    with pytest.raises(ImageError, match=r"^image\.tar: too many files"):
        archive([member("a")] * 4)


def test_parts_of_sparse_files_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oci, "MAX_MEMBERS", 3)
    parts = b"".join(octal(place) + octal(1) for place in (1, 2, 3)).ljust(96, b"\0")
    with pytest.raises(ImageError, match="too many files"):
        opened(sparse(parts, more=False) + bytes(2048))


def test_a_sparse_file_is_read() -> None:
    parts = (octal(512) + octal(512)).ljust(96, b"\0")
    found = opened(sparse(parts, more=False) + b"x" * 512 + bytes(1024))
    assert found.read("name") == bytes(512) + b"x" * 512 + bytes(3072)


def test_long_texts_of_members_are_not_kept() -> None:
    texts = [record(key, b"x" * 4096) for key in (b"linkpath", b"uname", b"gname", b"other")]
    found = opened((extended(b"".join(texts[1:])) + FILE) + bytes(1024))
    assert found.read("name") == b""
    assert "x" * 4096 not in str([vars_of(one) for one in found._members.values()])
    with pytest.raises(ImageError, match="has no file name"):
        opened(extended(texts[0]) + FILE + bytes(1024)).read("name")


def vars_of(info: tarfile.TarInfo) -> list[object]:
    return [getattr(info, name, None) for name in tarfile.TarInfo.__slots__]


@pytest.mark.parametrize("name", ["one/layer.tar", "./one/layer.tar"])
@pytest.mark.parametrize(
    "to",
    [link("two/layer.tar", "../one/layer.tar"), link("two/layer.tar", "one/layer.tar", hard=True),
     link("two/layer.tar", "./one/layer.tar", hard=True)],
)  # fmt: skip
def test_a_link_to_another_layer(name: str, to: tuple[tarfile.TarInfo, bytes]) -> None:
    assert archive([member(name, b"layer"), to]).read("two/layer.tar") == b"layer"


@pytest.mark.parametrize("target", ["a", "../a", "b", "/etc/passwd", "folder"])
def test_a_link_to_no_file(target: str) -> None:
    folder = member("folder", type=tarfile.DIRTYPE)
    with pytest.raises(ImageError, match="has no file a"):
        archive([folder, link("a", target)]).read("a")
