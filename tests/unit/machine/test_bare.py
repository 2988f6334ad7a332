"""The bare machine: what a program finds at its entry point."""

import struct
from pathlib import Path

import pytest

from ringlet.config import MachineConfig
from ringlet.errors import ProgramError
from ringlet.flat_spec import FlatPlace, parse_flat
from ringlet.machine import address_map as at
from ringlet.machine import bare
from ringlet.machine.long_mode import enter_long_mode
from ringlet.machine.short_modes import enter_protected_mode, enter_real_mode
from tests.unit.machine.elf_maker import Elf, elf32
from tests.unit.machine.fake_cpu import FakeCpu


@pytest.fixture
def cpu() -> FakeCpu:
    cpu = FakeCpu()
    enter_long_mode(cpu, 0x101000, avx=True)
    return cpu


def walk(cpu: FakeCpu, linear: int) -> int:
    """Translate `linear` by the tables in memory, as the SDM has it (3A 4.5)."""
    table, entry = cpu.registers["cr3"], 0
    for shift in (39, 30, 21):
        (entry,) = struct.unpack_from("<Q", cpu.memory[table], (linear >> shift & 511) * 8)
        assert entry & 3 == 3, "present and writable"
        table = entry & 0x000F_FFFF_FFFF_F000
    assert entry & 1 << 7, "a large page"
    return table | (linear & 0x1F_FFFF)


@pytest.mark.parametrize("linear", [0, 0x1000, 0x1FFFFF, 0x200000, 0x40000000, 0xFFFFFFFF])
def test_the_first_4_gib_are_mapped_identically(cpu: FakeCpu, linear: int) -> None:
    assert walk(cpu, linear) == linear


def test_nothing_is_mapped_above_4_gib(cpu: FakeCpu) -> None:
    assert cpu.memory[at.PDPT][4 * 8 :] == bytes(508 * 8)
    assert cpu.memory[at.PML4][8:] == bytes(511 * 8)


def test_long_mode_at_cpl_0(cpu: FakeCpu) -> None:
    registers = cpu.registers

    assert registers["cr0"] & 0x80000001 == 0x80000001
    assert registers["cr4"] & 1 << 5
    assert registers["efer"] & 0x500 == 0x500
    assert cpu.segments[1][0] & 3 == 0
    assert cpu.segments[1][3] & 1 << 13, "a 64-bit code segment"


def test_entry_point_stack_and_flags(cpu: FakeCpu) -> None:
    registers = cpu.registers

    assert registers["rip"] == 0x101000
    assert registers["rflags"] == 2
    assert registers["rsp"] % 16 == 0
    assert at.STACK_BOTTOM < registers["rsp"] <= at.PROGRAM_START


def test_segment_registers_agree_with_the_gdt(cpu: FakeCpu) -> None:
    base, limit = cpu.tables["gdtr"]
    gdt = struct.unpack(f"<{(limit + 1) // 8}Q", cpu.memory[base])
    rights = {i: gdt[cpu.segments[i][0] // 8] >> 40 & 0xF0FF for i in range(6)}

    assert rights == {i: cpu.segments[i][3] for i in range(6)}


def test_the_idt_is_empty(cpu: FakeCpu) -> None:
    assert cpu.tables["idtr"] == (0, 0)


@pytest.mark.parametrize(("avx", "xcr0", "osxsave"), [(True, 7, 1), (False, 3, 0)])
def test_avx_is_enabled_where_it_exists(avx: bool, xcr0: int, osxsave: int) -> None:
    cpu = FakeCpu()
    enter_long_mode(cpu, 0x101000, avx=avx)

    assert cpu.registers["xcr0"] == xcr0
    assert cpu.registers["cr4"] >> 18 & 1 == osxsave


def test_tables_stack_and_program_do_not_overlap() -> None:
    assert at.GDT + 0x1000 == at.PML4
    assert at.PML4 + 0x1000 == at.PDPT
    assert at.PDPT + 0x1000 == at.PAGE_DIRECTORIES
    assert at.TABLES_END <= at.STACK_BOTTOM < at.STACK_TOP <= at.PROGRAM_START


def test_a_wrong_program_is_refused_before_a_processor_is_made(tmp_path: Path) -> None:
    made: list[int] = []

    def make(ram_size: int) -> FakeCpu:
        made.append(ram_size)
        return FakeCpu()

    path = Elf(kind=3).write(tmp_path / "pie.elf")
    with pytest.raises(ProgramError):
        bare.build(MachineConfig(path, 2 << 20), make, lambda data: None, avx=True)

    assert made == []


def test_build_loads_the_program_in_a_processor_with_that_much_ram(tmp_path: Path) -> None:
    made: list[tuple[int, FakeCpu]] = []

    def make(ram_size: int) -> FakeCpu:
        made.append((ram_size, FakeCpu()))
        return made[-1][1]

    path = Elf().write(tmp_path / "program.elf")
    bare.build(MachineConfig(path, 2 << 20), make, lambda data: None, avx=True)

    assert made[0][0] == 2 << 20
    assert made[0][1].memory[0x100000] == b"\xf4"
    assert made[0][1].registers["rip"] == 0x100000


def built(program: Path, flat: FlatPlace | None = None) -> FakeCpu:
    made: list[FakeCpu] = []

    def make(ram_size: int) -> FakeCpu:
        made.append(FakeCpu())
        return made[-1]

    config = MachineConfig(program, 2 << 20, flat=flat)
    bare.build(config, make, lambda data: None, avx=True)
    return made[0]


def test_a_32_bit_program_starts_in_protected_mode_without_paging(tmp_path: Path) -> None:
    cpu = built(elf32().write(tmp_path / "program.elf"))

    assert cpu.registers["cr0"] & 0x8000_0001 == 1
    assert cpu.registers["efer"] == 0
    assert cpu.registers["rip"] == 0x100000
    assert (cpu.registers["rsp"], cpu.registers["rflags"]) == (at.STACK_TOP, 2)
    assert cpu.segments[1] == (0x08, 0, 0xFFFF_FFFF, 0xC09B)
    assert {cpu.segments[i] for i in (0, 2, 3, 4, 5)} == {(0x10, 0, 0xFFFF_FFFF, 0xC093)}
    assert (cpu.registers["cr4"] >> 18 & 1, cpu.registers["xcr0"]) == (1, 7)


def test_segments_of_protected_mode_agree_with_the_gdt() -> None:
    cpu = FakeCpu()
    enter_protected_mode(cpu, 0x100000, code_selector=0x10)
    base, limit = cpu.tables["gdtr"]
    gdt = struct.unpack(f"<{(limit + 1) // 8}Q", cpu.memory[base])
    rights = {i: gdt[cpu.segments[i][0] // 8] >> 40 & 0xF0FF for i in range(6)}

    assert rights == {i: cpu.segments[i][3] for i in range(6)}


def test_registers_of_real_mode() -> None:
    cpu = FakeCpu()
    enter_real_mode(cpu, 0x07C0, 0x10)

    assert cpu.registers["cr0"] & 0x8000_0001 == 0
    assert {cpu.segments[i] for i in range(6)} == {(0x07C0, 0x7C00, 0xFFFF, 0x93)}
    assert (cpu.registers["rip"], cpu.registers["rsp"]) == (0x10, 0xFFFE)
    assert cpu.tables["idtr"] == (0, 0x3FF)


@pytest.mark.parametrize(
    ("flat", "address", "rip", "code"),
    [
        ("16@07C0:0000", 0x7C00, 0, (0x07C0, 0x7C00, 0xFFFF, 0x93)),
        ("16@0x7c00", 0x7C00, 0x7C00, (0, 0, 0xFFFF, 0x93)),
        ("32@1048576", 0x100000, 0x100000, (0x08, 0, 0xFFFF_FFFF, 0xC09B)),
        ("64@100000h", 0x100000, 0x100000, (0x08, 0, 0xFFFF_FFFF, 0xA09B)),
    ],
)
def test_a_flat_image_starts_at_its_first_byte(
    tmp_path: Path, flat: str, address: int, rip: int, code: tuple[int, int, int, int]
) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"image")
    cpu = built(image, parse_flat(flat, "--flat"))

    assert cpu.memory[address] == b"image"
    assert cpu.registers["rip"] == rip
    assert cpu.segments[1] == code


@pytest.mark.parametrize(
    ("flat", "content", "message"),
    [
        ("32@0x100000", b"", "is empty; give a flat image"),
        ("32@0xfffff", b"x", "an image at 0xfffff is below 1 MiB"),
        ("64@0", b"x", "is below 1 MiB, where the loader's tables"),
        ("16@FFFF:0000", bytes(17), "ends at 0x100001, but code of 16 bits reaches 1 MiB"),
        ("16@FFFF:FFFF", b"x", "but code of 16 bits reaches 1 MiB"),
        ("32@0x1fffff", b"xy", "ends at 0x200001, beyond the first 2 MiB of RAM"),
        ("32@0xffffffff", b"xy", "beyond the first 2 MiB of RAM"),
        ("64@0xffffffffffffffff", b"xy", "beyond the first 2 MiB of RAM"),
    ],
)
def test_a_flat_image_that_does_not_fit_is_refused(
    tmp_path: Path, flat: str, content: bytes, message: str
) -> None:
    image = tmp_path / "image"
    image.write_bytes(content)

    with pytest.raises(ProgramError, match=message) as caught:
        built(image, parse_flat(flat, "--flat"))

    assert "\n" not in str(caught.value)


def test_a_missing_flat_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match="no such file"):
        built(tmp_path / "image", FlatPlace(32, 0, 0x100000))
