"""The ELF loader: the programs that it loads, and its one-line message for each error."""

import contextlib
import os
from pathlib import Path

import pytest

from ringlet.errors import ProgramError
from ringlet.machine.elf import load_program, read_program
from tests.unit.machine.elf_maker import Elf, Part, elf32
from tests.unit.machine.fake_cpu import FakeCpu

RAM = 128 << 20
TAIL = 0x140000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "program.elf"


def test_segments_go_to_their_physical_addresses(path: Path) -> None:
    elf = Elf((Part(0x100000, b"code"), Part(0x200000, b"data", size=100)), entry=0x100002)
    cpu = FakeCpu()
    program = read_program(elf.write(path), RAM)
    load_program(program, cpu)

    assert program.entry == 0x100002
    assert cpu.memory == {0x100000: b"code", 0x200000: b"data"}


def test_a_large_segment_is_copied_whole(path: Path) -> None:
    data = os.urandom(3 << 20) + b"end"
    cpu = FakeCpu()
    load_program(read_program(Elf((Part(data=data),)).write(path), RAM), cpu)

    assert b"".join(cpu.memory[address] for address in sorted(cpu.memory)) == data


def test_segment_may_end_where_ram_ends(path: Path) -> None:
    elf = Elf((Part(size=RAM - 0x100000),))

    assert read_program(elf.write(path), RAM).segments[0].size == RAM - 0x100000


def test_other_and_empty_segments_are_ignored(path: Path) -> None:
    elf = Elf().with_part(Part(0, b"", kind=0x6474E551)).with_part(Part(0x10, b""))

    assert len(read_program(elf.write(path), RAM).segments) == 1


def test_a_32_bit_program(path: Path) -> None:
    elf = elf32((Part(0x100000, b"code"), Part(0x200000, b"data", size=100)), entry=0x100002)
    cpu = FakeCpu()
    program = read_program(elf.write(path), RAM)
    load_program(program, cpu)

    assert (program.bits, program.entry) == (32, 0x100002)
    assert cpu.memory == {0x100000: b"code", 0x200000: b"data"}


WRONG_32 = {
    "big-endian": (elf32(encoding=2), "is a big-endian ELF file"),
    "object file": (elf32(kind=1), "is an object file; link it first"),
    "odd headers": (elf32(header_size=56), "is damaged: its program headers have 56 bytes"),
    "dynamic": (elf32((Part(), Part(kind=2))), "is dynamically linked"),
    "nothing to load": (elf32(()), "has nothing to load"),
    "below 1 MiB": (elf32((Part(0x2000),), entry=0x2000), "is below 1 MiB"),
    "address wraps": (elf32((Part((1 << 32) - 1, size=2),)), "where a machine has no RAM; "),
    "offset wraps": (
        elf32((Part(file_size=0xFFFF_FFFF, size=0xFFFF_FFFF),)),
        "the file ends before the segment does",
    ),
    "the same bytes again and again": (
        elf32((*(Part(data=b"", size=4000, file_size=4000),) * 9, Part(0x200000, bytes(4000)))),
        "is damaged: its segments overlap in the file",
    ),
    "entry elsewhere": (elf32(entry=TAIL), "its entry point 0x140000 is not in the physical"),
}


@pytest.mark.parametrize(("elf", "message"), WRONG_32.values(), ids=list(WRONG_32))
def test_refusal_of_a_32_bit_file(path: Path, elf: Elf, message: str) -> None:
    with pytest.raises(ProgramError) as caught:
        read_program(elf.write(path), RAM)

    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("elf", [Elf(), elf32()], ids=["ELF64", "ELF32"])
def test_no_byte_of_the_headers_can_break_the_loader(path: Path, elf: Elf) -> None:
    whole = elf.bytes()
    for place in range(len(whole)):
        for value in (0, 1, 0x7F, 0xFF):
            path.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
            with contextlib.suppress(ProgramError):
                load_program(read_program(path, RAM), FakeCpu())


WRONG = {
    "x32": (Elf(elf_class=1), "is an ELF32 file for x86-64; give a static ELF program"),
    "IAMCU": (Elf(elf_class=1, machine=6), "is an ELF32 file for the Intel MCU"),
    "64-bit i386": (Elf(machine=3), "is an ELF64 file for 32-bit x86"),
    "big-endian": (Elf(encoding=2), "is a big-endian ELF file"),
    "arm": (Elf(machine=183), "is an ELF64 file for AArch64; give a static ELF program"),
    "unknown machine": (Elf(machine=9999), "is an ELF64 file for machine 9999"),
    "object file": (Elf(kind=1), "is an object file; link it first"),
    "position independent": (Elf(kind=3), "link it with -static -no-pie"),
    "core dump": (Elf(kind=4), "is a core dump"),
    "unknown type": (Elf(kind=0xFE00), "has the unknown type 65024"),
    "odd headers": (Elf(header_size=32), "is damaged"),
    "interpreter": (Elf().with_part(Part(kind=3, data=b"/lib/ld.so")), "is dynamically linked"),
    "dynamic": (Elf().with_part(Part(kind=2)), "is dynamically linked"),
    "nothing to load": (Elf(()), "has nothing to load"),
    "below 1 MiB": (Elf((Part(0x2000),), entry=0x2000), "is below 1 MiB"),
    "in the tables and above": (Elf((Part(0xFFFFF, size=9),), entry=0xFFFFF), "is below 1 MiB"),
    "beyond RAM": (Elf((Part(RAM),), entry=RAM), "beyond the first 128 MiB of RAM"),
    "end beyond RAM": (Elf((Part(size=RAM),)), "beyond the first 128 MiB of RAM"),
    "address wraps": (Elf((Part((1 << 64) - 1, size=2),)), "where a machine has no RAM; "),
    "more in the file than in memory": (Elf((Part(data=b"12345", size=4),)), "is damaged"),
    "segment past the end of the file": (
        Elf((Part(file_size=5000, size=5000),)),
        "the file ends before the segment does",
    ),
    "the same bytes again and again": (
        Elf((*(Part(data=b"", size=4000, file_size=4000),) * 9, Part(0x200000, bytes(4000)))),
        "is damaged: its segments overlap in the file",
    ),
    "entry elsewhere": (Elf(entry=TAIL), "its entry point 0x140000 is not in the physical"),
}


@pytest.mark.parametrize(("elf", "message"), WRONG.values(), ids=list(WRONG))
def test_refusal_names_the_file_and_what_is_wrong(path: Path, elf: Elf, message: str) -> None:
    elf.write(path)

    with pytest.raises(ProgramError) as caught:
        read_program(path, RAM)

    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nothing_is_where_devices_are(path: Path) -> None:
    Elf((Part(3 << 30),), entry=3 << 30).write(path)

    with pytest.raises(ProgramError, match=r"where a machine has no RAM; .* with AT\(\.\.\.\)"):
        read_program(path, 4 << 30)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"#!/bin/sh\n", "is not an ELF file; .*, or run a flat image by --bare --flat 16@0x7c00"),
        (bytes(510) + b"\x55\xaa", "is not an ELF file; .* run --bare --flat 16@0x7c00 .*program"),
        (bytes(510) + b"\x55\xaa" + bytes(1 << 20), "or run a flat image by --bare --flat"),
        (b"\x7fEL", "is not an ELF file"),
        (b"\x7fELF\3" + bytes(60), "is an ELF file of unknown class 3"),
        (elf32().bytes()[:50], "is truncated: 50 bytes cannot hold an ELF header"),
        (elf32().bytes()[:70], "its program headers lie past its end"),
        (b"\x7fELF", "is truncated: 4 bytes cannot hold an ELF header"),
        (Elf().bytes()[:40], "is truncated: 40 bytes cannot hold an ELF header"),
        (Elf().bytes()[:100], "its program headers lie past its end"),
    ],
)
def test_refusal_of_an_incomplete_elf_file(path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)

    with pytest.raises(ProgramError, match=message):
        read_program(path, RAM)


def test_missing_file(path: Path) -> None:
    with pytest.raises(ProgramError, match="no such file"):
        read_program(path, RAM)


def test_directory(tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match="is a directory"):
        read_program(tmp_path, RAM)


def test_fifo_does_not_block(path: Path) -> None:
    os.mkfifo(path)

    with pytest.raises(ProgramError, match="is not a regular file"):
        read_program(path, RAM)


def test_a_file_as_a_directory(path: Path) -> None:
    path.write_bytes(b"")

    with pytest.raises(ProgramError, match="cannot be read: Not a directory"):
        read_program(path / "x", RAM)


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match="cannot be read: File name too long"):
        read_program(tmp_path / ("x" * 300), RAM)


def test_a_zero_byte_in_the_name() -> None:
    with pytest.raises(ProgramError, match="zero byte"):
        read_program(Path("a\0b"), RAM)
