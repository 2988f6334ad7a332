"""Files whose Multiboot header is almost one, and ELF files without a mark of what they are."""

import struct
from pathlib import Path

import pytest

from ringlet.errors import ProgramError
from ringlet.machine.loading import read_kernel, unmarked
from tests.unit.machine.elf_maker import Elf, Part, elf32, note
from tests.unit.machine.multiboot_maker import header_1, header_2

RAM = 128 << 20
TEXT = 0x20_0000
CHECKSUM = -0x1BADB002 & 0xFFFF_FFFF
PVH = Part(0, note(b"Xen\0", 18, struct.pack("<I", TEXT)), kind=4)
BANNER = b"Linux version %s"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kernel"


def kernel(code: bytes, *others: Part) -> Elf:
    return elf32((Part(TEXT, code), *others), entry=TEXT)


def at(place: int, header: bytes, boundary: int) -> bytes:
    """Return code such that `header` is at `place` modulo `boundary` of the file."""
    begin = kernel(b"").bytes()
    return bytes((place - len(begin)) % boundary) + header + bytes(20)


NEAR = {
    "checksum": (
        kernel(at(0, header_1(checksum=CHECKSUM + 1), 4)).bytes(),
        "at offset 0x54, but is no Multiboot kernel: its checksum is wrong: magic, flags and chec",
    ),
    "checksum, no ELF file": (bytes(64) + header_1(checksum=5), "add up to 0x1badb007, not to 0"),
    "alignment": (kernel(at(2, header_1(), 4)).bytes(), "has to be at a multiple of 4"),
    "late": (kernel(bytes(9000) + header_1()).bytes(), "has to be in the first 8192 bytes of the"),
    "at the end": (bytes(64) + header_1()[:7], "the file ends in its header"),
    "checksum 2": (
        kernel(at(0, header_2()[:12] + bytes(4), 8)).bytes(),
        "length and checksum add up to 0xe85250ee, not to 0",
    ),
    "alignment 2": (kernel(at(4, header_2(), 8)).bytes(), "has to be at a multiple of 8"),
    "late 2": (kernel(bytes(40000) + header_2()).bytes(), "in the first 32768 bytes of the file"),
    "at the end 2": (bytes(64) + header_2()[:7], "the file ends in its header"),
}


@pytest.mark.parametrize(("content", "message"), NEAR.values(), ids=list(NEAR))
def test_a_header_that_is_almost_one_is_named(path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)

    with pytest.raises(ProgramError) as caught:
        read_kernel(path, RAM)

    assert str(caught.value).startswith(f"{path}: has ")
    assert message in str(caught.value)


def test_magic_among_the_symbols_is_no_header(path: Path) -> None:
    path.write_bytes(kernel(b"code").bytes() + struct.pack("<I", 0x1BADB002))

    assert "has no Multiboot header" in unmarked(path)


@pytest.mark.parametrize("other", [Part(TEXT + 64, BANNER), PVH], ids=["Linux", "PVH"])
def test_kernels_of_other_protocols_may_contain_the_magic(path: Path, other: Part) -> None:
    kernel(b"code" + header_1(checksum=0), other).write(path)

    assert read_kernel(path, RAM).entry == TEXT
    assert unmarked(path) == ""


@pytest.mark.parametrize(("elf", "bits"), [(kernel(b"code"), 32), (Elf(), 64)])
def test_what_starts_as_linux_without_a_mark_is_told(path: Path, elf: Elf, bits: int) -> None:
    elf.write(path)

    assert unmarked(path) == (
        f"{path}: has no Multiboot header and no PVH note, so it starts as Linux's vmlinux, at "
        f"{elf.entry:#x} in {bits}-bit code"
    )
