"""What a user's word for a guest means."""

from pathlib import Path

import pytest

from ringlet.control.spec import machine_spec
from ringlet.control.words import Kind, Word, disk_format, meaning
from ringlet.errors import ConfigError
from ringlet.images.catalog import Images
from tests.unit.machine.elf_maker import Elf, elf32
from tests.unit.machine.kernel_maker import BzImage
from tests.unit.machine.multiboot_maker import header_1, header_2

ISO = bytes(0x8001) + b"CD001"
MBR = bytes(510) + b"\x55\xaa"
EXT4 = bytes(0x438) + b"\x53\xef"
FILES = {
    "bzImage": (BzImage().bytes(), Kind.KERNEL),
    "vmlinux": (Elf().bytes(), Kind.KERNEL),
    "vmlinux of 32 bits": (elf32().bytes(), Kind.KERNEL),
    "multiboot": (bytes(40) + header_1() + bytes(100), Kind.KERNEL),
    "multiboot 2": (bytes(16384) + header_2() + bytes(100), Kind.KERNEL),
    "disk with a boot loader": (MBR + bytes(100) + header_1(), Kind.DISK),
    "disk.qcow2": (b"QFI\xfb" + bytes(100), Kind.DISK),
    "disk": (b"QFI\xfb" + bytes(100), Kind.DISK),
    "cd.iso": (ISO, Kind.DISK),
    "cd": (ISO, Kind.DISK),
    "mbr": (MBR, Kind.DISK),
    "gpt": (bytes(512) + b"EFI PART", Kind.DISK),
    "ext4": (EXT4, Kind.DISK),
    "empty.img": (b"", Kind.DISK),
}


@pytest.mark.parametrize("name", FILES)
def test_files(tmp_path: Path, name: str) -> None:
    content, kind = FILES[name]
    (tmp_path / name).write_bytes(content)
    word = meaning(str(tmp_path / name))

    assert (word.kind, word.path) == (kind, tmp_path / name)


@pytest.mark.parametrize(
    ("word", "kind"),
    [("debian", Kind.GUEST), ("docker://python:3.12", Kind.IMAGE), ("oci:/tmp", Kind.IMAGE)],
)
def test_names(word: str, kind: Kind) -> None:
    assert meaning(word).kind is kind


def test_a_name_counts_before_a_file_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "debian").write_bytes(BzImage().bytes())
    monkeypatch.chdir(tmp_path)

    assert meaning("debian").kind is Kind.GUEST
    assert meaning("./debian").kind is Kind.KERNEL


def test_an_image_of_the_store_is_run_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "ubuntu:24.04", "ghcr.io/a/b:1"):
        with Images().adding(name, "tar") as draft:
            draft.disk.write_bytes(EXT4)
        assert meaning(name) == Word(Kind.IMAGE, name)
    (tmp_path / "mine").mkdir()

    assert meaning("mine").kind is Kind.IMAGE
    with pytest.raises(ConfigError, match=r"give --root ./mine"):
        meaning("./mine")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("ubuntu:24.04", "Ringlet has no guest of this name; .*, or docker://ubuntu:24.04 for the"),
        ("freebsd", "give busybox, debian or debian:python3, or --kernel and --initrd with files"),
        (
            "debain",
            "no guest or image has this name, and there is no such file; give busybox, debian",
        ),
        ("int,cpu", "^int,cpu: no guest has this name; for QEMU's -d int,cpu give --trace FILE"),
        ("disk.qcow2", "^disk.qcow2: no such file"),
        ("a/b", "^a/b: no such file"),
        ("/tmp", "give --root /tmp"),
        ("\0", "no guest or image has this name"),
        ("/dev/null", "has this name|no such file"),
    ],
)
def test_words_that_mean_nothing(word: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        meaning(word)


@pytest.mark.parametrize("word", ["debain", "freebsd", "/tmp"])
def test_python_is_told_of_no_options_of_the_command_line(word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        machine_spec(word)

    assert "--" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("text", b"#!/bin/sh\n", "is neither a kernel, nor a disk image.* --bare --flat 16@0x7c00"),
        ("disk.vmdk", b"KDMV", "qemu-img convert -O qcow2 .*disk.vmdk disk.qcow2"),
    ],
)
def test_files_that_nothing_starts_from(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)

    with pytest.raises(ConfigError, match=message):
        meaning(str(tmp_path / name))


def test_a_short_head_has_no_format() -> None:
    assert [disk_format(MBR[:length]) for length in (0, 1, 511, 512)] == ["", "", "", "raw"]


def test_archive_of_a_root(tmp_path: Path) -> None:
    (tmp_path / "root.tar.xz").write_bytes(b"\xfd7zXZ\0")

    assert meaning(str(tmp_path / "root.tar.xz")).kind is Kind.IMAGE


def test_image_of_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="no guest or image has this name"):
        meaning("mine:1")
    with Images().adding("mine:1", "tar") as draft:
        draft.disk.write_bytes(bytes(4096))

    assert meaning("mine:1").kind is Kind.IMAGE
