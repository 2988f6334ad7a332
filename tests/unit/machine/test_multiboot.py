"""Multiboot 1: where an image goes, what it is told, and the one-line message for each error."""

import contextlib
import struct
from pathlib import Path

import pytest

from ringlet.errors import ConfigError, ProgramError, RingletError
from ringlet.machine import address_map as at
from ringlet.machine.loading import load_kernel, read_fitting, read_kernel, starts_linux
from tests.unit.machine.elf_maker import Elf, Part, elf32
from tests.unit.machine.fake_cpu import FakeCpu
from tests.unit.machine.multiboot_maker import header_1

RAM = 128 << 20
TEXT = 0x20_0000
CODE = header_1() + b"code"
ELF = elf32((Part(TEXT, CODE, size=0x3000),), entry=TEXT + 12)
FIELDS = (TEXT + 16, TEXT, 0, 0, TEXT + 48)
ADDRESSES = 1 << 16


def kludge(fields: tuple[int, ...] = FIELDS, flags: int = ADDRESSES) -> bytes:
    """Return a file whose header is 16 bytes from its begin, and has address fields."""
    return bytes(16) + header_1(flags, fields) + b"entry"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kernel"


def loaded(
    path: Path, content: bytes, command_line: str = "", initrd: Path | bytes | None = None,
    memory: int = RAM,
) -> FakeCpu:  # fmt: skip
    path.write_bytes(content)
    cpu = FakeCpu()
    load_kernel(cpu, read_kernel(path, memory), command_line=command_line, initrd=initrd)
    return cpu


def text_at(info: bytes, address: int) -> bytes:
    return info[address - at.BOOT_INFO :].split(b"\0")[0]


def test_an_elf_file_is_entered_with_the_magic_and_the_information(path: Path) -> None:
    cpu = loaded(path, ELF.bytes())

    assert cpu.memory[TEXT] == CODE
    assert cpu.registers["rip"] == TEXT + 12
    assert (cpu.registers["rax"], cpu.registers["rbx"]) == (0x2BADB002, at.BOOT_INFO)
    assert cpu.registers["cr0"] & 0x8000_0001 == 1
    assert cpu.segments[1][1:] == (0, 0xFFFF_FFFF, 0xC09B)
    assert not starts_linux(path)


@pytest.mark.parametrize("elf_of", [elf32, Elf], ids=["ELF32", "ELF64"])
def test_an_entry_point_may_be_linear(path: Path, elf_of: type[Elf]) -> None:
    linear = 0xC000_0000 + TEXT
    elf = elf_of((Part(TEXT, CODE, linear=linear),), entry=linear + 12)

    assert loaded(path, elf.bytes()).registers["rip"] == TEXT + 12


def test_address_fields_place_a_file_without_a_format(path: Path) -> None:
    cpu = loaded(path, kludge())

    assert cpu.memory[TEXT] == kludge()
    assert cpu.registers["rip"] == TEXT + 48


def test_address_fields_count_more_than_the_elf_headers(path: Path) -> None:
    elf = elf32((Part(TEXT, header_1(ADDRESSES, (2 * TEXT, 2 * TEXT, 0, 0, 2 * TEXT))),))
    cpu = loaded(path, elf.bytes())

    assert cpu.memory[2 * TEXT].startswith(header_1(ADDRESSES)[:8])
    assert cpu.registers["rip"] == 2 * TEXT


def test_an_image_may_begin_after_the_files_begin_and_end_before_its_end(path: Path) -> None:
    fields = (TEXT + 4, TEXT, TEXT + 40, TEXT + 0x5000, TEXT + 36)
    path.write_bytes(kludge(fields))
    kernel = read_kernel(path, RAM)
    cpu = loaded(path, kludge(fields))

    assert cpu.memory[TEXT] == kludge(fields)[12:52]
    assert kernel.end == TEXT + 0x5000


def test_the_information(path: Path) -> None:
    disk = path.with_name("disk")
    disk.write_bytes(b"x" * 5000)
    cpu = loaded(path, ELF.bytes(), command_line="debug", initrd=disk)
    info = cpu.memory[at.BOOT_INFO]
    flags, lower, upper = struct.unpack_from("<III", info)
    command_line, count, modules = struct.unpack_from("<III", info, 16)
    length, table = struct.unpack_from("<II", info, 44)
    (name,) = struct.unpack_from("<I", info, 64)
    start, end, module_name, _ = struct.unpack_from("<IIII", info, modules - at.BOOT_INFO)
    entries = list(struct.iter_unpack("<IQQI", info[table - at.BOOT_INFO :][:length]))

    assert flags == 0b10_0100_1101
    assert (lower, upper) == (639, (RAM >> 10) - 1024)
    assert cpu.memory[command_line] == b"debug\0"
    assert (count, start, end) == (1, RAM - 8192, RAM - 8192 + 5000)
    assert text_at(info, module_name) == bytes(disk)
    assert text_at(info, name) == b"Ringlet"
    assert entries[0] == (20, 0, at.LOW_RAM_END, 1)
    assert entries[-1] == (20, 0x100000, RAM - 0x100000, 1)


def test_a_kernel_below_1_mib_leaves_room_for_what_it_is_told(path: Path) -> None:
    disk = path.with_name("disk")
    disk.write_bytes(b"disk")
    elf = elf32((Part(at.LOW_KERNEL, CODE), Part(TEXT, b"more")), entry=at.LOW_KERNEL)
    cpu = loaded(path, elf.bytes(), command_line="debug", initrd=disk)
    info = cpu.memory[at.LOW_KERNEL_INFO]
    (command_line,) = struct.unpack_from("<I", info, 16)

    assert (cpu.registers["rbx"], cpu.registers["rip"]) == (at.LOW_KERNEL_INFO, at.LOW_KERNEL)
    assert cpu.memory[at.LOW_KERNEL] == CODE
    assert cpu.memory[command_line] == b"debug\0"
    assert at.LOW_KERNEL_INFO + len(info) <= command_line < at.LOW_RAM_END - 4096
    assert not {at.BOOT_INFO, at.COMMAND_LINE} & cpu.memory.keys()


def test_a_kernel_below_1_mib_finds_coreboots_table(path: Path) -> None:
    elf = elf32((Part(at.LOW_KERNEL, CODE),), entry=at.LOW_KERNEL)
    table = loaded(path, elf.bytes()).memory[at.COREBOOT_TABLE]
    signature, header, _, size, _, count = struct.unpack_from("<4sIIIII", table)
    tag, length = struct.unpack_from("<II", table, header)
    ranges = list(struct.iter_unpack("<QQI", table[header + 8 :]))

    assert (signature, header, size, count) == (b"LBIO", 24, len(table) - 24, 1)
    assert (tag, length) == (1, size)
    assert ranges[0] == (0, at.LOW_RAM_END, 1)
    assert ranges[-1] == (0x100000, RAM - 0x100000, 1)
    assert _sum(table[:header]) % 0xFFFF == 0
    assert (_sum(table[header:]) + struct.unpack_from("<I", table, 16)[0]) % 0xFFFF == 0


def _sum(data: bytes) -> int:
    return sum(struct.unpack(f"<{len(data) // 2}H", data))


def test_without_an_initrd_there_are_no_modules(path: Path) -> None:
    info = loaded(path, ELF.bytes()).memory[at.BOOT_INFO]

    assert struct.unpack_from("<I", info)[0] & 1 << 3 == 0
    assert struct.unpack_from("<II", info, 20) == (0, 0)


def test_a_list_of_modules(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    for name, size in (("one", 5000), ("two", 10), ("three", 4096)):
        Path(name).write_bytes(name[:1].encode() * size)
    cpu = loaded(path, ELF.bytes(), initrd=Path("one with text, two,three"))
    info = cpu.memory[at.BOOT_INFO]
    count, table = struct.unpack_from("<II", info, 20)
    entries = list(struct.iter_unpack("<IIII", info[table - at.BOOT_INFO :][: count * 16]))

    assert [cpu.memory[start][:1] for start, *_ in entries] == [b"o", b"t", b"t"]
    assert [end - start for start, end, *_ in entries] == [5000, 10, 4096]
    assert [start for start, *_ in entries] == [RAM - 0x4000, RAM - 0x2000, RAM - 0x1000]
    assert [text_at(info, text) for *_, text, _ in entries] == [b"one with text", b"two", b"three"]


def test_a_file_whose_name_is_like_a_list_is_one_module(path: Path) -> None:
    disk = path.with_name("a b,c")
    disk.write_bytes(b"disk")
    info = loaded(path, ELF.bytes(), initrd=disk).memory[at.BOOT_INFO]

    assert struct.unpack_from("<I", info, 20) == (1,)


def test_a_list_is_for_multiboot_alone(path: Path) -> None:
    path.with_name("disk").write_bytes(b"disk")

    with pytest.raises(ProgramError, match="disk text: no such file"):
        loaded(path, elf32((Part(TEXT),), TEXT).bytes(), initrd=path.with_name("disk text"))


@pytest.mark.parametrize(
    ("modules", "error", "message"),
    [
        ("disk,missing", ProgramError, "missing: no such file"),
        ("disk,", ProgramError, "is a directory"),
        ("disk,empty", ProgramError, "empty: is empty"),
        ("disk " + "x" * 17000, ConfigError, "the list of modules has 17005 bytes for 1 modules"),
        (",".join(["disk"] * 400), ConfigError, "for 400 modules; give fewer modules or shorter"),
    ],
)
def test_a_wrong_list_of_modules(
    path: Path, monkeypatch: pytest.MonkeyPatch, modules: str, error: type[Exception], message: str
) -> None:
    monkeypatch.chdir(path.parent)
    Path("disk").write_bytes(b"disk")
    Path("empty").write_bytes(b"")

    with pytest.raises(error, match=message):
        loaded(path, ELF.bytes(), initrd=Path(modules))


def test_least_memory_named_for_modules_works(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    Path("disk").write_bytes(bytes(9 << 20))
    path.write_bytes(ELF.bytes())
    with pytest.raises(ConfigError, match=r"disk of 27 MiB does not fit .* --memory 48M"):
        read_fitting(path, 20 << 20, "", Path("disk,disk,disk"))

    assert read_fitting(path, 48 << 20, "", Path("disk,disk,disk")).entry == TEXT + 12


def test_memory_above_4_gib_is_in_the_map(path: Path) -> None:
    info = loaded(path, ELF.bytes(), memory=5 << 30).memory[at.BOOT_INFO]
    length, table = struct.unpack_from("<II", info, 44)
    entries = list(struct.iter_unpack("<IQQI", info[table - at.BOOT_INFO :][:length]))

    assert entries[-1] == (20, 4 << 30, 2 << 30, 1)
    assert struct.unpack_from("<I", info, 8) == ((3 << 20) - 1024,)


def section(kind: int, address: int, offset: int, size: int) -> bytes:
    return struct.pack("<10I", 1, kind, 0, address, offset, size, 0, 0, 1, 0)


SECTIONS = (
    bytes(40)
    + section(1, TEXT, 84, 16)
    + section(2, 0, 84, 7)  # symbols
    + section(3, 0, 88, 5)  # their names
    + section(1, 0, 84, 9)  # what is for debuggers only
)


def test_symbols_are_loaded_behind_the_kernel(path: Path) -> None:
    elf = elf32((Part(TEXT, CODE, size=0x3001),), TEXT + 12, sections=SECTIONS, names=3)
    cpu = loaded(path, elf.bytes())
    info = cpu.memory[at.BOOT_INFO]
    flags = struct.unpack_from("<I", info)[0]
    count, size, table, names = struct.unpack_from("<IIII", info, 28)
    places = [s[3] for s in struct.iter_unpack("<10I", info[table - at.BOOT_INFO :][: 5 * 40])]

    assert flags & 1 << 5
    assert (count, size, names) == (5, 40, 3)
    assert places == [0, TEXT, TEXT + 0x3010, TEXT + 0x3020, 0]
    assert cpu.memory[TEXT + 0x3010] == CODE[:7]
    assert cpu.memory[TEXT + 0x3020] == CODE[4:9]
    assert read_kernel(path, RAM).end == TEXT + 0x3025


@pytest.mark.parametrize(
    "fields",
    [
        {"section_size": 64},
        {"section_count": 0xFFFF},
        {"section_count": 6},
        {"sections": section(2, 0, 84, 0xFFFF_FFFF)},
        {"sections": section(2, 0, 0xFFFF_FFFF, 1)},
        {"sections": section(2, 0, 0, 100) * 3},
    ],
    ids=["their size", "their number", "past the end", "size", "offset", "overlap"],
)
def test_damaged_section_headers_are_not_handed_over(
    path: Path, fields: dict[str, bytes | int]
) -> None:
    elf = Elf((Part(TEXT, CODE),), TEXT + 12, 1, machine=3, sections=SECTIONS, section_size=40)
    for name, value in fields.items():
        object.__setattr__(elf, name, value)
    info = loaded(path, elf.bytes()).memory[at.BOOT_INFO]

    assert struct.unpack_from("<I", info)[0] & 1 << 5 == 0


def with_header(place: int, header: bytes) -> bytes:
    """Return an ELF file with `header` in the middle of its only segment."""
    content = bytearray(elf32((Part(TEXT, bytes(9000)),), entry=TEXT).bytes())
    content[place : place + len(header)] = header
    return bytes(content)


@pytest.mark.parametrize("place", [84, 4096, 8192 - 12])
def test_the_header_is_found_in_8_kib(path: Path, place: int) -> None:
    path.write_bytes(with_header(place, header_1()))

    assert not starts_linux(path)


@pytest.mark.parametrize(
    ("place", "header"),
    [(8192, header_1()), (8184, header_1()), (98, header_1()), (96, header_1(checksum=1))],
    ids=["behind", "across the end", "not aligned", "wrong checksum"],
)
def test_what_is_no_header(path: Path, place: int, header: bytes) -> None:
    path.write_bytes(with_header(place, header) + b"Linux version 6.1")

    assert starts_linux(path)


WRONG = {
    "no ELF file": (bytes(16) + header_1(), "without addresses, but is no ELF file; give a kernel"),
    "required feature": (bytes(16) + header_1(1 << 4), "requires what Multiboot 1 does not have"),
    "no addresses": (bytes(16) + header_1(ADDRESSES), "is truncated: its Multiboot header has no"),
    "other ELF": (Elf((Part(TEXT, CODE),), machine=183).bytes(), "is an ELF64 file for AArch64"),
    "object file": (elf32((Part(TEXT, CODE),), kind=1).bytes(), "is no executable for Multiboot"),
    "shared": (elf32((Part(TEXT, CODE),), kind=3).bytes(), "link it with -static -no-pie"),
    "interpreter": (
        elf32((Part(TEXT, CODE), Part(kind=3, data=b"/ld"))).bytes(), "is no executable for",
    ),
    "nothing to load": (elf32((Part(kind=4, data=CODE),)).bytes(), "has nothing to load"),
    "entry elsewhere": (elf32((Part(TEXT, CODE),), entry=5).bytes(), "its entry point 0x5 is not"),
    "in the tables": (
        elf32((Part(0x1FFF, CODE),), entry=0x1FFF).bytes(), "where a PC has its tables; link it at",
    ),
    "headers before the code": (
        elf32((Part(0xFF000, bytes(0x1000) + CODE),), entry=0x100000).bytes(), "; give ld -n, so",
    ),
    "across the stack": (
        elf32((Part(0x7FFFF, CODE),), entry=0x7FFFF).bytes(), "from 0x7ffff to 0x8",
    ),
    "in the firmware": (
        elf32((Part(TEXT, CODE), Part(0xF0000, CODE)), entry=TEXT).bytes(), "where a PC has its",
    ),
    "high": (
        elf32((Part(0xFFFF_0000, CODE),), entry=0xFFFF_0000).bytes(), "a PC has its devices at",
    ),
    "low addresses": (kludge((0x1010, 0x1000, 0, 0, 0x1030)), "from 0x1000 to 0x1035, where"),
    "header before the image": (kludge((TEXT, TEXT + 4, 0, 0, TEXT + 48)), "the image at 0x200004"),
    "before the file": (kludge((TEXT + 17, TEXT, 0, 0, TEXT + 48)), "is to be at 0x200011, but"),
    "ends before": (kludge((TEXT + 16, TEXT, TEXT - 1, 0, TEXT)), "has the image end at 0x1fffff"),
    "empty": (kludge((TEXT + 16, TEXT, TEXT, 0, TEXT)), "has the image end at 0x200000"),
    "bss before": (kludge((TEXT + 16, TEXT, TEXT + 50, TEXT + 40, TEXT)), "has the image end at"),
    "larger than the file": (
        kludge((TEXT + 16, TEXT, 0xFFFF_FFFF, 0, TEXT)), "asks for 4292870143 of 53 bytes",
    ),
    "entry before": (kludge((TEXT + 16, TEXT, 0, 0, TEXT - 1)), "the entry point 0x1fffff outside"),
    "entry behind": (kludge((TEXT + 16, TEXT, 0, 0, TEXT + 53)), "entry point 0x200035 outside"),
    "bss over the devices": (
        kludge((TEXT + 16, TEXT, 0, 0xFFFF_FFFF, TEXT)), "a PC has its devices at 0xc0000000",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("content", "message"), WRONG.values(), ids=list(WRONG))
def test_refusal_names_the_file_and_what_is_wrong(path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)

    with pytest.raises(ProgramError) as caught:
        read_kernel(path, RAM)

    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_least_memory_named_works(path: Path) -> None:
    path.write_bytes(kludge((TEXT + 16, TEXT, 0, TEXT << 3, TEXT)))
    with pytest.raises(ConfigError, match=r"this kernel does not fit in 8 MiB .* --memory 16M"):
        read_kernel(path, 8 << 20)

    assert read_kernel(path, 16 << 20).end == TEXT << 3


def test_a_long_command_line_is_refused(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has 4096 bytes; .* takes at most 4095"):
        loaded(path, ELF.bytes(), command_line="x" * 4096)


@pytest.mark.parametrize(
    "content",
    [kludge(), ELF.bytes(), elf32((Part(TEXT, CODE),), TEXT + 12, sections=SECTIONS).bytes()],
    ids=["addresses", "ELF", "sections"],
)
def test_no_byte_of_the_headers_can_break_the_loader(path: Path, content: bytes) -> None:
    for place in range(len(content)):
        for value in (0, 0x7F, 0xFF):
            changed = content[:place] + bytes([value]) + content[place + 1 :]
            with contextlib.suppress(RingletError):
                loaded(path, changed)


@pytest.mark.parametrize("content", [kludge(), ELF.bytes()], ids=["addresses", "ELF"])
def test_every_short_file_is_loaded_or_refused_in_a_line(path: Path, content: bytes) -> None:
    for length in range(len(content)):
        with contextlib.suppress(RingletError):
            loaded(path, content[:length])
