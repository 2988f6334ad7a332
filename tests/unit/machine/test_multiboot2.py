"""Multiboot 2: where an image goes, what it is told, and the one-line message for each error."""

import contextlib
import struct
from pathlib import Path

import pytest

from ringlet.errors import ConfigError, ProgramError, RingletError
from ringlet.machine import address_map as at
from ringlet.machine import multiboot2
from ringlet.machine.loading import load_kernel, read_kernel, starts_linux
from tests.unit.machine.elf_maker import Elf, Part, elf32
from tests.unit.machine.fake_cpu import FakeCpu
from tests.unit.machine.multiboot_maker import Tag, header_1, header_2, tag
from tests.unit.machine.test_multiboot import SECTIONS

RAM = 128 << 20
TEXT = 0x20_0000
AT = 24
"""The offset of the header in a file without a format."""
RSDP = b"RSD PTR " + bytes(range(28))
EVERYTHING = (
    tag(1, 1, 2, 3, 6, 8, 21),
    tag(5, 800, 600, 32),  # a framebuffer
    tag(6),  # modules at pages
    tag(7),  # boot services of EFI
    tag(9, 1, optional=0),  # an entry point for EFI
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kernel"


def elf_with(*tags: Tag, entry: int = TEXT) -> bytes:
    """Return an ELF file with a header of these tags at the begin of its only segment, of 8 KiB.

    The program headers end at an address that is not 8-byte aligned.
    """
    padding = bytes(4)
    return elf32((Part(TEXT - 4, padding + header_2(*tags), size=0x2000),), entry).bytes()


def raw(*tags: Tag) -> bytes:
    """Return a file without a format, whose header begins at `AT`."""
    return bytes(AT) + header_2(*tags) + b"code"


def loaded(
    path: Path, content: bytes, command_line: str = "", initrd: Path | bytes | None = None
) -> FakeCpu:
    path.write_bytes(content)
    cpu = FakeCpu()
    load_kernel(
        cpu, read_kernel(path, RAM), command_line=command_line, initrd=initrd, rsdp=0xE0000,
        rsdp_table=RSDP,
    )  # fmt: skip
    return cpu


def tags_of(info: bytes) -> dict[int, bytes]:
    """Return the content of each tag of the information, whose sizes must agree."""
    total, reserved = struct.unpack_from("<II", info)
    assert (total, reserved) == (len(info), 0)
    found: dict[int, bytes] = {}
    place = 8
    while place < total:
        kind, size = struct.unpack_from("<II", info, place)
        found[kind] = info[place + 8 : place + size]
        place += -(-size // 8) * 8
    assert place == total
    assert [*found][-1] == 0
    return found


def test_an_elf_file_is_entered_with_the_magic_and_the_information(path: Path) -> None:
    cpu = loaded(path, elf_with(*EVERYTHING, entry=TEXT + 8))

    assert cpu.registers["rip"] == TEXT + 8
    assert (cpu.registers["rax"], cpu.registers["rbx"]) == (0x36D76289, at.BOOT_INFO)
    assert cpu.registers["cr0"] & 0x8000_0001 == 1
    assert cpu.segments[1][1:] == (0, 0xFFFF_FFFF, 0xC09B)
    assert not starts_linux(path)


def test_an_elf64_file(path: Path) -> None:
    elf = Elf((Part(TEXT, header_2()),), entry=TEXT)

    assert loaded(path, elf.bytes()).registers["rip"] == TEXT


def test_an_entry_address_replaces_the_elf_headers(path: Path) -> None:
    assert loaded(path, elf_with(tag(3, TEXT + 4), entry=0)).registers["rip"] == TEXT + 4


@pytest.mark.parametrize("load", [TEXT - AT, 0xFFFF_FFFF])
def test_addresses_place_a_file_without_a_format(path: Path, load: int) -> None:
    content = raw(tag(2, TEXT, load, 0, TEXT + 0x5000), tag(3, TEXT + 8))
    cpu = loaded(path, content)

    assert cpu.memory[TEXT - AT] == content
    assert cpu.registers["rip"] == TEXT + 8
    assert read_kernel(path, RAM).end == TEXT + 0x5000


def test_a_header_of_version_2_counts_more_than_one_of_version_1(path: Path) -> None:
    path.write_bytes(elf32((Part(TEXT - 4, bytes(4) + header_2() + header_1()),), TEXT).bytes())

    assert isinstance(read_kernel(path, RAM).start, multiboot2.Multiboot2Start)


def test_the_information(path: Path) -> None:
    disk = path.with_name("disk")
    disk.write_bytes(b"x" * 5000)
    cpu = loaded(path, elf_with(), command_line="debug", initrd=disk)
    tags = tags_of(cpu.memory[at.BOOT_INFO])
    entries = list(struct.iter_unpack("<QQII", tags[6][8:]))

    assert tags[1] == b"debug\0"
    assert tags[2] == b"Ringlet\0"
    assert tags[3] == struct.pack("<II", RAM - 8192, RAM - 8192 + 5000) + bytes(disk) + b"\0"
    assert tags[4] == struct.pack("<II", 639, (RAM >> 10) - 1024)
    assert struct.unpack_from("<II", tags[6]) == (24, 0)
    assert entries[0] == (0, at.LOW_RAM_END, 1, 0)
    assert entries[-1] == (0x100000, RAM - 0x100000, 1, 0)
    assert (tags[14], tags[15]) == (RSDP[:20], RSDP)
    assert 8 not in tags, "there is no framebuffer"
    assert 21 not in tags, "it is not relocatable"


def test_a_list_of_modules(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    Path("one").write_bytes(b"1")
    info = loaded(path, elf_with(), initrd=Path("one a,one")).memory[at.BOOT_INFO]

    assert info.count(struct.pack("<II", 3, 16 + len("one a") + 1)) == 1
    assert tags_of(info)[3] == struct.pack("<II", RAM - 4096, RAM - 4095) + b"one\0"


def test_without_an_initrd_there_is_no_module(path: Path) -> None:
    assert 3 not in tags_of(loaded(path, elf_with()).memory[at.BOOT_INFO])


def test_elf_sections(path: Path) -> None:
    part = Part(TEXT - 4, bytes(4) + header_2(), size=0x3000)
    cpu = loaded(path, elf32((part,), TEXT, sections=SECTIONS, names=3).bytes())
    content = tags_of(cpu.memory[at.BOOT_INFO])[9]
    places = [fields[3] for fields in struct.iter_unpack("<10I", content[12:])]

    assert struct.unpack_from("<III", content) == (5, 40, 3)
    assert places == [0, TEXT, TEXT + 0x3000, TEXT + 0x3010, 0]


@pytest.mark.parametrize(
    ("least", "highest", "alignment", "start"),
    [
        (0, 0xFFFF_FFFF, 1, TEXT - 4),
        (0x100000, TEXT + 0x2000 - 5, 4, TEXT - 4),
        (0x100000, 0xFFFF_FFFF, 0x1000, 0x100000),
        (0x300001, 0xFFFF_FFFF, 0x1000, 0x301000),
        (0, TEXT + 0x2000 - 6, 0, 0x100000),
    ],
    ids=["anywhere", "exactly there", "aligned", "higher", "lower"],
)
def test_a_relocatable_kernel_goes_where_its_header_allows(
    path: Path, least: int, highest: int, alignment: int, start: int
) -> None:
    cpu = loaded(path, elf_with(tag(10, least, highest, alignment, 0), entry=TEXT + 4))

    assert cpu.memory[start].startswith(bytes(4) + header_2()[:4])
    assert cpu.registers["rip"] == start + 8
    assert tags_of(cpu.memory[at.BOOT_INFO])[21] == struct.pack("<I", start)


@pytest.mark.parametrize(
    ("place", "found"), [(88, True), (32768 - 24, True), (32768, False), (92, False)]
)
def test_the_header_is_found_in_32_kib(path: Path, place: int, found: bool) -> None:
    content = bytearray(elf32((Part(TEXT, bytes(40000)),), entry=TEXT).bytes())
    content[place : place + 24] = header_2()
    path.write_bytes(content + b"Linux version 6.1")

    assert starts_linux(path) is not found


LOAD = tag(2, TEXT, TEXT - AT, 0, 0)
ENTRY = tag(3, TEXT)
WRONG = {
    "no ELF file": (raw(), "without addresses, but is no ELF file"),
    "architecture": (bytes(AT) + header_2(arch=4), "is for architecture 4, not x86 (0)"),
    "long": (bytes(AT) + header_2(length=0xFFFF_FFF0), "has 4294967280 bytes, and must be in"),
    "short": (bytes(AT) + header_2(length=16), "is damaged: its Multiboot2 header has 16 bytes"),
    "across the end": (bytes(32768 - 16) + header_2() + bytes(99), "must be in the first 32768"),
    "no end": (bytes(AT) + header_2(ENTRY, end=()), "header has no end"),
    "no addresses": (raw((2, 0, bytes(12))), "tag of its Multiboot2 header (type 2) has 20 bytes"),
    "no entry": (raw(LOAD), "has addresses, but no entry point"),
    "two entries": (raw(LOAD, ENTRY, ENTRY), "has two tags of type 3"),
    "unknown tag": (raw(tag(11)), "has a tag of the unknown type 11"),
    "unknown information": (raw(tag(1, 6, 22)), "requires information of the unknown type 22"),
    "screen": (raw(tag(4, 1)), "requires a screen, which a PC does not have yet"),
    "alignment": (elf_with(tag(10, 0, 0xFFFF_FFFF, 3, 0)), "alignment in its Multiboot2 header is"),
    "no room": (elf_with(tag(10, 0x900000, 0x901FFE, 1, 0)), "has no room for it: 8192 bytes"),
    "no room at all": (elf_with(tag(10, 0xFFFF_FFFF, 0, 0x8000_0000, 0)), "has no room for it"),
    "header before the image": (raw(tag(2, TEXT, TEXT + 4, 0, 0), ENTRY), "is to be at 0x200000"),
    "before the file": (raw(tag(2, TEXT, TEXT - AT - 1, 0, 0), ENTRY), "is to be at 0x200000"),
    "whole below 0": (raw(tag(2, 8, 0xFFFF_FFFF, 0, 0), ENTRY), "is to be at 0x8, but the image"),
    "larger than the file": (raw(tag(2, TEXT, TEXT, 0xFFFF_FFFF, 0), ENTRY), "is truncated"),
    "entry elsewhere": (raw(LOAD, tag(3, 0)), "has the entry point 0x0 outside of the image"),
    "ELF entry elsewhere": (elf_with(tag(3, 9)), "its entry point 0x9 is not in its segments"),
}


@pytest.mark.parametrize(("content", "message"), WRONG.values(), ids=list(WRONG))
def test_refusal_names_the_file_and_what_is_wrong(path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)

    with pytest.raises(ProgramError) as caught:
        read_kernel(path, RAM)

    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "unwanted",
    [
        tag(11, optional=1),
        tag(1, 99, optional=1),
        tag(4, 1, optional=1),
        tag(4, 2),
        tag(5, 0, 0, 0, optional=1),
    ],
)
def test_what_is_optional_does_not_matter(path: Path, unwanted: Tag) -> None:
    assert loaded(path, elf_with(unwanted)).registers["rip"] == TEXT


def test_a_kernel_among_the_tables_is_refused(path: Path) -> None:
    content = raw(tag(2, 0x1000, 0x1000 - AT, 0, 0), tag(3, 0x1000))

    with pytest.raises(ProgramError, match=r"where a PC has its tables; link it at 1 MiB or above"):
        loaded(path, content)


def test_a_kernel_below_1_mib_is_told_things_above_it(path: Path) -> None:
    content = raw(tag(2, 0x9000, 0x9000 - AT, 0, 0), tag(3, 0x9000))
    cpu = loaded(path, content)

    assert (cpu.registers["rip"], cpu.registers["rbx"]) == (0x9000, at.LOW_KERNEL_INFO)
    assert 1 in tags_of(cpu.memory[at.LOW_KERNEL_INFO])


def test_a_long_command_line_is_refused(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has 4096 bytes; .* takes at most 4095"):
        loaded(path, elf_with(), command_line="x" * 4096)


def test_the_longest_information_fits_in_its_place(path: Path) -> None:
    sections = bytes(40) * (65536 // 40)
    part = Part(TEXT - 4, bytes(4) + header_2())
    disk = path.with_name("d" * 255)
    disk.write_bytes(b"disk")
    elf = elf32((part,), TEXT, sections=sections)
    info = loaded(path, elf.bytes(), "x" * 4095, disk).memory[at.BOOT_INFO]

    assert len(tags_of(info)[9]) > 65000
    assert at.BOOT_INFO + len(info) + 4096 <= at.BOOT_INFO_END <= at.COMMAND_LINE


@pytest.mark.parametrize(
    "content",
    [raw(*EVERYTHING, LOAD, ENTRY), elf_with(*EVERYTHING, tag(10, 0, 0xFFFF_FFFF, 4096, 1))],
    ids=["addresses", "ELF"],
)
def test_no_byte_of_the_headers_can_break_the_loader(path: Path, content: bytes) -> None:
    for place in range(len(content)):
        for value in (0, 0x7F, 0xFF):
            changed = content[:place] + bytes([value]) + content[place + 1 :]
            with contextlib.suppress(RingletError):
                loaded(path, changed)


def test_every_short_file_is_loaded_or_refused_in_a_line(path: Path) -> None:
    content = raw(LOAD, ENTRY)
    for length in range(len(content)):
        with contextlib.suppress(RingletError):
            loaded(path, content[:length])


@pytest.mark.parametrize("size", range(8))
def test_a_tag_of_any_size_ends_the_search(path: Path, size: int) -> None:
    content = bytearray(raw(LOAD, ENTRY))
    content[AT + 20 : AT + 24] = struct.pack("<I", size)
    path.write_bytes(content)

    with pytest.raises(ProgramError, match=f"\\(type 2\\) has {size} bytes"):
        read_kernel(path, RAM)
