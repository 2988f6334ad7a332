"""Images: made, recognized, and refused if they lead to files that the user did not name."""

import contextlib
import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringlet.devices.backends.disks import create_image, describe_image
from ringlet.devices.backends.disks.chain import DEEPEST
from ringlet.devices.backends.disks.qcow2 import MAGIC
from ringlet.disk_spec import Below, Format
from ringlet.errors import DiskError

MIB = 1 << 20


def header(name: bytes = b"", *, version: int = 3, encryption: int = 0, features: int = 0,
           bits: int = 16, size: int = MIB, name_size: int | None = None) -> bytes:
    """The head of a qcow2 image that names `name` as its backing file."""
    return (
        struct.pack(">4sIQIIQI", MAGIC, version, 112 if name else 0,
                    len(name) if name_size is None else name_size, bits, size, encryption)
        + struct.pack(">IQQIIQ", 1, 3 << 16, 1 << 16, 1, 0, 0)
        + struct.pack(">QQQII", features, 0, 0, 4, 104)
        + bytes(8) + name
    )  # fmt: skip


def image_of(path: Path, data: bytes) -> Path:
    path.write_bytes(data.ljust(1 << 16, b"\0"))
    return path


@pytest.mark.parametrize("size", [512, MIB, 10 << 30, 3 << 40])
def test_qcow2_image_passes_qemus_check(tmp_path: Path, size: int) -> None:
    if shutil.which("qemu-img") is None:
        pytest.skip("needs qemu-img (qemu-utils)")
    path = tmp_path / "a.qcow2"

    made = create_image(path, size, Format.QCOW2)

    subprocess.run(["qemu-img", "check", "-q", path], check=True)
    assert made == describe_image(path)
    assert (made.format, made.size, made.backing) == (Format.QCOW2, size, None)


def test_raw_image_is_sparse_zeros(tmp_path: Path) -> None:
    path = tmp_path / "a.img"

    assert create_image(path, 1 << 30, Format.RAW) == describe_image(path)
    assert (path.stat().st_size, path.stat().st_blocks) == (1 << 30, 0)


def test_overlay_of_an_image_knows_what_is_below(tmp_path: Path) -> None:
    create_image(tmp_path / "base.img", MIB, Format.RAW)
    create_image(tmp_path / "middle.qcow2", None, Format.QCOW2, tmp_path / "base.img")
    top = tmp_path / "top.qcow2"

    create_image(top, 2 * MIB, Format.QCOW2, tmp_path / "middle.qcow2")

    chain = describe_image(top).chain()
    assert [(image.path.name, image.format, image.size) for image in chain] == [
        ("top.qcow2", Format.QCOW2, 2 * MIB),
        ("middle.qcow2", Format.QCOW2, MIB),
        ("base.img", Format.RAW, MIB),
    ]


def test_image_below_in_another_directory_needs_the_users_word(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    create_image(tmp_path / "base.img", MIB, Format.RAW)
    top = tmp_path / "other" / "top.qcow2"
    create_image(top, None, Format.QCOW2, tmp_path / "base.img")

    with pytest.raises(DiskError, match=f"shows the guest {tmp_path}/base.img.*,format=qcow2"):
        describe_image(top)

    assert describe_image(top, below=Below.ANY).backing is not None


def test_a_raw_disk_in_which_a_guest_wrote_a_header_shows_no_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"s" * 4096)
    disk = image_of(tmp_path / "disk.img", header(b"secret"))

    with pytest.raises(DiskError, match="if you trust this image, add ,format=qcow2"):
        describe_image(disk)

    assert describe_image(disk, Format.RAW).format is Format.RAW


@pytest.mark.parametrize(
    "name", [b"nbd://host/x", b"json:{}", b"http://host/", b"fat:rw:dir", b"file:nbd:host:1"]
)
def test_a_backing_file_that_is_no_file_is_refused_always(tmp_path: Path, name: bytes) -> None:
    image = image_of(tmp_path / "a.qcow2", header(name))

    with pytest.raises(DiskError, match="is not a file of this host"):
        describe_image(image, Format.QCOW2, Below.ANY)


def test_a_format_alone_is_no_trust(tmp_path: Path) -> None:
    image = image_of(tmp_path / "a.qcow2", header(b"/etc/shadow"))

    with pytest.raises(DiskError, match="shows the guest /etc/shadow"):
        describe_image(image, Format.QCOW2)


@pytest.mark.parametrize("layout", [None, Format.QCOW2])
@pytest.mark.parametrize("name", [b"base", b"/etc/shadow", b"nbd:host:1"])
def test_an_image_that_must_be_whole(tmp_path: Path, name: bytes, layout: Format | None) -> None:
    (tmp_path / "base").write_bytes(bytes(512))
    image = image_of(tmp_path / "a.qcow2", header(name))

    with pytest.raises(DiskError, match=r"qemu-img convert -O qcow2 a.qcow2 whole.qcow2"):
        describe_image(image, layout, Below.NONE)


@pytest.mark.parametrize("make", [lambda p: p.symlink_to("/etc/shadow"), os.mkfifo])
def test_a_file_beside_is_a_file(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "base")
    image = image_of(tmp_path / "a.qcow2", header(b"base"))

    with pytest.raises(DiskError, match=r"base: an image stands on this one, which is no file but"):
        describe_image(image)


def test_a_trusted_image_may_stand_on_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(bytes(1024))
    (tmp_path / "base").symlink_to("real")
    image = image_of(tmp_path / "a.qcow2", header(b"base"))

    assert [below.size for below in describe_image(image, below=Below.ANY).chain()] == [MIB, 1024]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (header(features=4), "in another file"),
        (header(encryption=1), "encrypted"),
        (header(version=7), "version 7"),
        (header(bits=40), "damaged"),
        (header(size=1 << 63), "damaged"),
        (header(size=0), "damaged"),
        (header(b"x", name_size=5000), "damaged"),
        (header(b"x", name_size=0), "damaged"),
        (header(b"a\0b"), "damaged"),
    ],
)
def test_heads_that_cannot_be_used(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(DiskError, match=words):
        describe_image(image_of(tmp_path / "a.qcow2", data))


@pytest.mark.parametrize("length", range(4, 120, 9))
def test_a_head_that_is_cut_off_is_refused_or_zeros(tmp_path: Path, length: int) -> None:
    path = tmp_path / "a.qcow2"
    path.write_bytes(header(b"base")[:length])

    with pytest.raises(DiskError):
        describe_image(path)


@given(changes=st.lists(st.tuples(st.integers(4, 160), st.integers(0, 255)), max_size=12))
def test_a_damaged_head_is_used_or_refused(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(header(b"base.img").ljust(1 << 16, b"\0"))
    for at, value in changes:
        data[at] = value
    place = tmp_path_factory.mktemp("damaged")
    (place / "base.img").write_bytes(bytes(512))
    (place / "a.qcow2").write_bytes(data)

    with contextlib.suppress(DiskError):
        image = describe_image(place / "a.qcow2")
        assert {below.path.parent for below in image.chain()} == {place}


def test_an_image_below_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match=f"more than {DEEPEST} images"):
        describe_image(image_of(tmp_path / "a.qcow2", header(b"a.qcow2")))


def test_a_missing_backing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match=r"gone.img: No such file .*; this is the backing file of"):
        describe_image(image_of(tmp_path / "a.qcow2", header(b"gone.img")))


def test_raw_format_is_believed_and_qcow2_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "a.img"
    path.write_bytes(bytes(1024))

    with pytest.raises(DiskError, match="not a qcow2 image"):
        describe_image(path, Format.QCOW2)


@pytest.mark.parametrize(
    ("size", "layout", "words"),
    [
        (0, Format.RAW, "positive multiple"),
        (1000, Format.RAW, "positive multiple"),
        (None, Format.QCOW2, "positive multiple"),
        (1 << 50, Format.QCOW2, "at most 64 TiB"),
    ],
)
def test_sizes_that_cannot_be_made(
    tmp_path: Path, size: int | None, layout: Format, words: str
) -> None:
    with pytest.raises(DiskError, match=words):
        create_image(tmp_path / "a", size, layout)

    assert list(tmp_path.iterdir()) == []


def test_an_image_that_exists_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("precious")

    with pytest.raises(DiskError, match="the file exists"):
        create_image(path, MIB, Format.RAW)

    assert path.read_text() == "precious"


def test_no_directory_and_no_backing_of_raw(tmp_path: Path) -> None:
    create_image(tmp_path / "base", MIB, Format.RAW)

    with pytest.raises(DiskError, match="no directory"):
        create_image(tmp_path / "none" / "a", MIB, Format.RAW)
    with pytest.raises(DiskError, match="raw image has no backing file"):
        create_image(tmp_path / "b", MIB, Format.RAW, tmp_path / "base")
