"""The vmlinux loader: what it loads, and its one-line message for each error."""

import contextlib
import struct
from pathlib import Path

import pytest

from ringlet.errors import ConfigError, ProgramError, RingletError
from ringlet.machine import address_map as at
from ringlet.machine.loading import load_kernel, read_kernel
from tests.unit.machine.elf_maker import Elf, Part, elf32, note
from tests.unit.machine.fake_cpu import FakeCpu

RAM = 128 << 20
TEXT, DATA = 0x100_0000, 0x120_0000
KERNEL = Elf((Part(TEXT, b"text"), Part(DATA, b"data", size=0x3000)), entry=TEXT + 2)
PVH = note(b"GNU\0", 3, b"build id") + note(b"Xen\0", 18, struct.pack("<Q", TEXT + 1))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vmlinux"


def field(params: bytes, offset: int, form: str) -> int:
    (value,) = struct.unpack_from("<" + form, params, offset)
    return int(value)


def test_segments_go_to_their_physical_addresses(path: Path) -> None:
    cpu = FakeCpu()
    load_kernel(cpu, read_kernel(KERNEL.write(path), RAM), command_line="")

    assert (cpu.memory[TEXT], cpu.memory[DATA]) == (b"text", b"data")


def test_entry_is_the_elf_headers_with_rsi_at_boot_params(path: Path) -> None:
    cpu = FakeCpu()
    load_kernel(cpu, read_kernel(KERNEL.write(path), RAM), command_line="")

    assert cpu.registers["rip"] == TEXT + 2
    assert cpu.registers["rsi"] == at.BOOT_PARAMS
    assert [cpu.segments[i][0] for i in range(3)] == [0x18, 0x10, 0x18]


def test_boot_params_say_what_a_bzimages_would(path: Path) -> None:
    cpu = FakeCpu()
    kernel = read_kernel(KERNEL.write(path), RAM)
    load_kernel(cpu, kernel, command_line="quiet", initrd=b"x" * 5000, rsdp=0xE0000)
    params = cpu.memory[at.BOOT_PARAMS]

    assert params[0x202:0x206] == b"HdrS"
    assert field(params, 0x1FE, "H") == 0xAA55
    assert field(params, 0x206, "H") == 0x020C
    assert params[0x210] == 0xFF
    assert cpu.memory[field(params, 0x228, "I")] == b"quiet\0"
    assert (field(params, 0x218, "I"), field(params, 0x21C, "I")) == (RAM - 8192, 5000)
    assert field(params, 0x70, "Q") == 0xE0000
    assert params[0x1EF] == 0, "the sentinel"
    assert params[0x1E8] > 0, "the memory map"


def test_initrd_stays_above_what_the_kernel_uses(path: Path) -> None:
    kernel = read_kernel(KERNEL.write(path), 20 << 20)

    assert kernel.end == DATA + 0x3000
    with pytest.raises(ConfigError, match=r"does not fit in 20 MiB .* --memory 22M"):
        load_kernel(FakeCpu(), kernel, command_line="", initrd=bytes(3 << 20))


def test_least_memory_named_works(path: Path) -> None:
    KERNEL.write(path)
    with pytest.raises(ConfigError, match=r"this kernel does not fit in 8 MiB .* --memory 19M"):
        read_kernel(path, 8 << 20)

    assert read_kernel(path, 19 << 20).entry == TEXT + 2


def test_a_32_bit_vmlinux_is_entered_by_the_32_bit_protocol(path: Path) -> None:
    cpu = FakeCpu()
    elf = elf32((Part(TEXT, b"text"),), entry=TEXT + 2)
    load_kernel(cpu, read_kernel(elf.write(path), RAM), command_line="quiet")
    params = cpu.memory[at.BOOT_PARAMS]

    assert (cpu.registers["rip"], cpu.registers["rsi"]) == (TEXT + 2, at.BOOT_PARAMS)
    assert cpu.registers["efer"] == 0
    assert cpu.segments[1][:2] == (0x10, 0)
    assert cpu.memory[field(params, 0x228, "I")] == b"quiet\0"
    assert not field(params, 0x236, "H") & 1, "no 64-bit entry"


PVH_PART = Part(0, PVH, kind=4)


@pytest.mark.parametrize(
    "elf",
    [
        Elf((Part(TEXT, b"text"), PVH_PART), entry=0),
        Elf((Part(TEXT, b"text"), PVH_PART), entry=TEXT + 1),
        elf32((Part(TEXT, b"text"), PVH_PART), entry=0),
        elf32((Part(TEXT, b"text"), PVH_PART), entry=TEXT + 2),
    ],
    ids=["no 64-bit entry", "both are one", "ELF32", "ELF32 with another entry"],
)
def test_pvh_hands_over_a_start_info(path: Path, elf: Elf) -> None:
    cpu = FakeCpu()
    kernel = read_kernel(elf.write(path), RAM)
    load_kernel(cpu, kernel, command_line="quiet", initrd=b"x" * 5000, rsdp=0xE0000)
    info = cpu.memory[at.BOOT_INFO]
    magic, version, flags, modules, module, command_line, rsdp, table, ranges = (
        struct.unpack_from("<IIIIQQQQI", info)
    )
    place, size = module - at.BOOT_INFO, ranges * 24
    entries = list(struct.iter_unpack("<QQII", info[table - at.BOOT_INFO :][:size]))

    assert (magic, version, flags, modules, rsdp) == (0x336E_C578, 1, 0, 1, 0xE0000)
    assert struct.unpack_from("<QQQQ", info, place) == (RAM - 8192, 5000, 0, 0)
    assert cpu.memory[command_line] == b"quiet\0"
    assert entries[-1] == (0x100000, RAM - 0x100000, 1, 0)
    assert (cpu.registers["rip"], cpu.registers["rbx"]) == (TEXT + 1, at.BOOT_INFO)
    assert (cpu.registers["cr0"], cpu.registers["cr4"]) == (0x11, 0)
    assert cpu.segments[1][1:] == (0, 0xFFFF_FFFF, 0xC09B)
    assert cpu.segments[7] == (0, 0, 0x67, 0x8B)


def test_pvh_without_an_initrd_has_no_module(path: Path) -> None:
    cpu = FakeCpu()
    elf = elf32((Part(TEXT, b"text"), PVH_PART), entry=0)
    load_kernel(cpu, read_kernel(elf.write(path), RAM), command_line="")

    assert struct.unpack_from("<IQ", cpu.memory[at.BOOT_INFO], 12) == (0, 0)


def test_a_pvh_note_beside_a_64_bit_entry_does_no_harm(path: Path) -> None:
    elf = KERNEL.with_part(Part(0, PVH, kind=4))

    assert read_kernel(elf.write(path), RAM).entry == TEXT + 2


def test_notes_are_read_once_however_many_segments_name_them(path: Path) -> None:
    """The segments may overlap, so that a small file could claim many gibibytes."""
    junk = note(b"GNU\0", 3, bytes((1 << 20) - 16))
    first = Elf((Part(TEXT, b"text"), Part(0, junk, kind=4), PVH_PART), entry=0)

    with pytest.raises(ProgramError, match="no PVH entry"):
        read_kernel(first.write(path), RAM)


WRONG = {
    "aarch64": (Elf(machine=183), "is an ELF64 file for AArch64; give a kernel for x86"),
    "unknown machine": (Elf(machine=9), "is an ELF64 file for machine 9"),
    "x32": (Elf(elf_class=1), "is an ELF32 file for x86-64; give a kernel for x86"),
    "pvh elsewhere": (
        Elf((Part(TEXT), Part(0, PVH, kind=4)), entry=0),
        f"is damaged: its PVH entry {TEXT + 1:#x} is not in its segments",
    ),
    "pvh of 64 bits": (
        Elf((Part(TEXT), Part(0, note(b"Xen\0", 18, b"\xff" * 8), kind=4)), entry=0),
        "is damaged: its PVH entry 0xffffffffffffffff is not in its segments",
    ),
    "entry elsewhere, 32-bit": (
        elf32((Part(TEXT),), entry=0),
        "its entry point 0x0 is not in the physical addresses of its segments, and it has no",
    ),
    "entry elsewhere": (
        Elf((Part(TEXT), Part(0, note(b"Xen\0", 17, b"????"), kind=4)), entry=0),
        "its entry point 0x0 is not in the physical addresses of its segments, and it has no",
    ),
    "nothing to load": (Elf(()), "its entry point 0x100000 is not in the physical"),
    "static program": (Elf(abi=3), "is a program for Linux, not a kernel"),
    "interpreter": (Elf().with_part(Part(kind=3, data=b"/ld.so")), "is a program for Linux"),
    "note of the ABI": (
        Elf((Part(TEXT), Part(0, note(b"GNU\0", 1, bytes(16)), kind=4)), entry=TEXT),
        "is a program for Linux, not a kernel; run it in a guest: ringlet run -v ",
    ),
    "where programs are": (
        elf32((Part(0x8048000, offset=0),), entry=0x8048000), "is a program for Linux"
    ),
    "object file": (Elf(kind=1), "is not a linked ELF executable"),
    "position independent": (Elf(kind=3), "is not a linked ELF executable"),
    "low": (Elf((Part(0x1000),), entry=0x1000), "is not a kernel: a segment of it is at 0x1000"),
    "high": (Elf((Part(1 << 40),), entry=1 << 40), "a PC has its devices at 0xc0000000"),
    "truncated": (Elf((Part(file_size=9000, size=9000),)), "is truncated"),
}


@pytest.mark.parametrize(("elf", "message"), WRONG.values(), ids=list(WRONG))
def test_refusal_names_the_file_and_what_is_wrong(path: Path, elf: Elf, message: str) -> None:
    elf.write(path)

    with pytest.raises(ProgramError) as caught:
        read_kernel(path, RAM)

    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "elf",
    [
        Elf((Part(TEXT, b"text"), PVH_PART), entry=0),
        elf32((Part(TEXT, b"text"), PVH_PART), entry=TEXT),
    ],
    ids=["ELF64", "ELF32"],
)
def test_no_byte_of_the_headers_can_break_the_loader(path: Path, elf: Elf) -> None:
    whole = elf.bytes()
    for place in range(len(whole)):
        for value in (0, 0x7F, 0xFF):
            path.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
            with contextlib.suppress(RingletError):
                load_kernel(FakeCpu(), read_kernel(path, RAM), command_line="")


def test_every_short_file_is_refused_in_a_line(path: Path) -> None:
    whole = KERNEL.bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(RingletError):
            read_kernel(path, RAM)
