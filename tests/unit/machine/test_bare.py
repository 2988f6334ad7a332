"""The bare machine: what a program finds at its entry point."""

import struct
from pathlib import Path

import pytest

from ringlet.config import MachineConfig
from ringlet.errors import ProgramError
from ringlet.machine import address_map as at
from ringlet.machine import bare
from ringlet.machine.long_mode import enter_long_mode
from tests.unit.machine.elf_maker import Elf
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
