"""The Linux loader: the memory that it writes, and its one-line message for each error."""

import contextlib
import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ringlet.errors import ConfigError, ProgramError, RingletError
from ringlet.images.debian import CLOUD_KERNEL, kernels_of
from ringlet.images.store import Store, default_root
from ringlet.machine import address_map as at
from ringlet.machine.loading import check, load_kernel, read_kernel
from tests.unit.machine.fake_cpu import FakeCpu
from tests.unit.machine.kernel_maker import CODE, BzImage

RAM = 128 << 20
MIB = 1 << 20
LOAD = 0x100_0000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vmlinuz"


def field(params: bytes, offset: int, form: str) -> int:
    (value,) = struct.unpack_from("<" + form, params, offset)
    return int(value)


def loaded(
    path: Path,
    image: BzImage | None = None,
    *,
    memory: int = RAM,
    command_line: str = "console=ttyS0",
    initrd: bytes | None = None,
    rsdp: int = 0,
) -> tuple[FakeCpu, bytes]:
    """Return a processor with the kernel loaded, and the `boot_params` in its memory."""
    kernel = read_kernel((image or BzImage()).write(path), memory)
    disk = None
    if initrd is not None:
        disk = path.with_name("initrd")
        disk.write_bytes(initrd)
    cpu = FakeCpu()
    load_kernel(cpu, kernel, command_line=command_line, initrd=disk, rsdp=rsdp)
    return cpu, cpu.memory[at.BOOT_PARAMS]


def test_file_may_end_within_the_last_paragraph(path: Path) -> None:
    path.write_bytes(BzImage().bytes()[:-8])
    cpu = FakeCpu()

    load_kernel(cpu, read_kernel(path, RAM), command_line="", initrd=None, rsdp=0)

    assert cpu.memory[LOAD] == CODE[:-8]


# --- the entry


def test_entry_is_200h_bytes_into_the_code_with_rsi_at_boot_params(path: Path) -> None:
    cpu, _ = loaded(path)

    assert cpu.memory[LOAD] == CODE
    assert cpu.registers["rip"] == LOAD + 0x200
    assert cpu.registers["rsi"] == at.BOOT_PARAMS
    assert cpu.registers["rflags"] == 2, "interrupts are off"


def test_selectors_are_those_of_the_protocol(path: Path) -> None:
    cpu, _ = loaded(path)
    base, limit = cpu.tables["gdtr"]
    gdt = struct.unpack(f"<{(limit + 1) // 8}Q", cpu.memory[base])

    assert [cpu.segments[i][0] for i in range(6)] == [0x18, 0x10, 0x18, 0x18, 0x18, 0x18]
    assert gdt == (0, 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF)


def test_zero_page_is_a_page_and_clear_where_nothing_was_said(path: Path) -> None:
    _, params = loaded(path)

    assert len(params) == 4096
    assert params[0x1EF] == 0, "the sentinel"
    assert params[:0x70] == bytes(0x70)
    assert params[0x2D0 + 4 * 20 :] == bytes(4096 - 0x2D0 - 4 * 20)


def test_setup_header_is_copied_up_to_its_end(path: Path) -> None:
    _, params = loaded(path, BzImage(jump_length=0x66))

    assert params[0x202:0x206] == b"HdrS"
    assert field(params, 0x1FE, "H") == 0xAA55
    assert field(params, 0x258, "Q") == LOAD
    assert field(params, 0x264, "I") == 0x190
    assert field(params, 0x268, "I") == 0


def test_loader_names_itself_unassigned_and_the_kernel_high(path: Path) -> None:
    _, params = loaded(path, BzImage(loadflags=0x03))

    assert params[0x210] == 0xFF
    assert params[0x211] == 0x03


def test_command_line_ends_with_a_zero(path: Path) -> None:
    cpu, params = loaded(path, command_line="console=ttyS0 quiet")

    assert cpu.memory[field(params, 0x228, "I")] == b"console=ttyS0 quiet\0"
    assert field(params, 0xC8, "I") == 0


def test_command_line_keeps_bytes_that_are_no_text(path: Path) -> None:
    cpu, _ = loaded(path, command_line=os.fsdecode(b"init=/\xff"))

    assert cpu.memory[at.COMMAND_LINE] == b"init=/\xff\0"


def test_memory_map_is_in_the_zero_page(path: Path) -> None:
    _, params = loaded(path)
    count = params[0x1E8]
    entries = list(struct.iter_unpack("<QQI", params[0x2D0 : 0x2D0 + 20 * count]))

    assert entries[-1] == (0x100000, RAM - 0x100000, 1)


def test_rsdp_is_handed_over(path: Path) -> None:
    _, params = loaded(path, rsdp=0xE0000)

    assert field(params, 0x70, "Q") == 0xE0000


# --- the 32-bit entry


OLD = BzImage(version=0x0206, jump_length=0x3A, code=CODE)


@pytest.mark.parametrize(
    ("image", "load", "entry"),
    [
        (BzImage(xloadflags=0), LOAD, LOAD),
        (BzImage(xloadflags=0, code32_start=LOAD + 16), LOAD, LOAD + 16),
        (BzImage(xloadflags=0, code32_start=LOAD - 1), LOAD, LOAD),
        (BzImage(version=0x020B), LOAD, LOAD),
        (OLD, MIB, MIB),
        (replace(OLD, code32_start=MIB + 64), MIB, MIB + 64),
        (replace(OLD, code32_start=0xFFFF_FFFF), MIB, MIB),
    ],
    ids=["no 64-bit entry", "its start", "below", "2.11", "old", "old start", "elsewhere"],
)
def test_a_kernel_without_a_64_bit_entry_starts_at_its_32_bit_one(
    path: Path, image: BzImage, load: int, entry: int
) -> None:
    cpu, params = loaded(path, image)

    assert cpu.memory[load] == CODE
    assert cpu.registers["rip"] == entry
    assert cpu.registers["rsi"] == at.BOOT_PARAMS
    assert cpu.registers["cr0"] & 0x8000_0001 == 1
    assert cpu.registers["efer"] == 0
    assert cpu.segments[1] == (0x10, 0, 0xFFFF_FFFF, 0xC09B)
    assert {cpu.segments[i] for i in (0, 2, 3)} == {(0x18, 0, 0xFFFF_FFFF, 0xC093)}
    assert field(params, 0x214, "I") == entry


@pytest.mark.parametrize(
    ("version", "length", "initrd_end", "command_line"),
    [(0x0202, 0x2A, 0x3800_0000, 255), (0x0203, 0x2E, MIB << 8, 255), (0x0206, 0x3A, MIB << 8, 99)],
)
def test_what_an_old_kernel_does_not_say_has_its_old_value(
    path: Path, version: int, length: int, initrd_end: int, command_line: int
) -> None:
    image = BzImage(
        version=version, jump_length=length, initrd_addr_max=(MIB << 8) - 1, cmdline_size=99
    )
    kernel = read_kernel(image.write(path), RAM)

    assert kernel.initrd_limit == initrd_end
    assert kernel.command_line_limit == command_line
    assert not kernel.initrd_anywhere


@pytest.mark.parametrize("place", range(0x1F1, 0x268))
def test_no_byte_of_an_old_header_can_break_the_loader(path: Path, place: int) -> None:
    whole = bytearray(OLD.bytes())
    for value in (0, 0x7F, 0xFF):
        whole[place] = value
        path.write_bytes(whole)
        with contextlib.suppress(RingletError):
            load_kernel(FakeCpu(), read_kernel(path, RAM), command_line="")


# --- the initial RAM disk


def test_initrd_ends_in_the_last_page_of_ram(path: Path) -> None:
    disk = os.urandom(5000)
    cpu, params = loaded(path, initrd=disk)
    address, size = field(params, 0x218, "I"), field(params, 0x21C, "I")

    assert cpu.memory[address] == disk
    assert (address, size) == (RAM - 8192, 5000)
    assert (field(params, 0xC0, "I"), field(params, 0xC4, "I")) == (0, 0)


def test_without_an_initrd_there_is_none(path: Path) -> None:
    _, params = loaded(path)

    assert (field(params, 0x218, "I"), field(params, 0x21C, "I")) == (0, 0)


def test_initrd_stays_below_the_kernels_reach(path: Path) -> None:
    image = BzImage(xloadflags=1, initrd_addr_max=0x37FF_FFFF)
    _, params = loaded(path, image, memory=2 << 30, initrd=b"x" * 4096)

    assert field(params, 0x218, "I") == 0x3800_0000 - 4096


def test_initrd_stays_below_the_reach_of_a_kernel_that_could_reach_further(path: Path) -> None:
    _, params = loaded(path, memory=3 << 30, initrd=b"x" * 4096)

    assert field(params, 0x218, "I") == 0x8000_0000 - 4096


@pytest.mark.parametrize("memory", [4 << 30, 16 << 30])
def test_initrd_stays_below_the_reach_with_more_ram(path: Path, memory: int) -> None:
    _, params = loaded(path, memory=memory, initrd=b"x" * 4096)

    assert field(params, 0x218, "I") == 0x8000_0000 - 4096
    assert field(params, 0xC0, "I") == 0


def test_initrd_that_fits_below_the_devices_is_there(path: Path) -> None:
    image = BzImage(xloadflags=3, initrd_addr_max=LOAD + 0x10_0FFF)
    _, params = loaded(path, image, memory=5 << 30, initrd=b"x" * 8192)

    assert field(params, 0x218, "I") == (3 << 30) - 8192


def test_initrd_that_fits_nowhere_below_4_gib_ends_with_ram(path: Path) -> None:
    image = BzImage(xloadflags=3, init_size=(3 << 30) - LOAD - 4096)
    _, params = loaded(path, image, memory=5 << 30, initrd=b"x" * 8192)

    assert field(params, 0x218, "I") == (2 << 30) - 8192
    assert field(params, 0xC0, "I") == 1
    assert (field(params, 0x21C, "I"), field(params, 0xC4, "I")) == (8192, 0)


def test_least_memory_named_for_an_initrd_above_4_gib_works(path: Path) -> None:
    image = BzImage(xloadflags=3, init_size=(3 << 30) - LOAD - 4096)
    with pytest.raises(ConfigError, match="give at least --memory 3073M"):
        loaded(path, image, memory=3 << 30, initrd=b"x" * 8192)
    _, params = loaded(path, image, memory=3073 * MIB, initrd=b"x" * 8192)

    assert (field(params, 0x218, "I"), field(params, 0xC0, "I")) == (MIB - 8192, 1)


def test_initrd_above_4_gib_is_not_for_every_kernel(path: Path) -> None:
    image = BzImage(xloadflags=1, init_size=(3 << 30) - LOAD - 4096)
    with pytest.raises(ProgramError, match="is too large: this kernel needs it below 2 GiB"):
        loaded(path, image, memory=5 << 30, initrd=b"x" * 8192)


def test_initrd_that_fits_nowhere_else_may_be_beyond_if_the_kernel_says_so(path: Path) -> None:
    image = BzImage(xloadflags=3, initrd_addr_max=LOAD + 0x10_0FFF)
    _, params = loaded(path, image, initrd=b"x" * 8192)

    assert field(params, 0x218, "I") == RAM - 8192


def test_last_byte_of_the_initrd_may_be_at_the_kernels_limit(path: Path) -> None:
    image = BzImage(xloadflags=1, initrd_addr_max=LOAD + 0x10_1FFF)
    _, params = loaded(path, image, initrd=b"x" * 8192)

    assert field(params, 0x218, "I") == LOAD + 0x10_0000


@pytest.mark.parametrize("syssize", [0, 3, 0x10000 + len(CODE) // 16])
def test_size_of_an_old_kernel_is_that_of_its_file(path: Path, syssize: int) -> None:
    """Before protocol 2.04 the field had 16 bits, and could not be trusted."""
    image = BzImage(version=0x0203, syssize=syssize)

    cpu, _ = loaded(path, image)

    assert cpu.memory[0x100000] == CODE


@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, 12_345])
def test_initrd_has_its_pages_for_itself(path: Path, size: int) -> None:
    image = BzImage(xloadflags=1, initrd_addr_max=LOAD + 0x20_0123)
    _, params = loaded(path, image, initrd=b"x" * size)
    address = field(params, 0x218, "I")

    assert address % 4096 == 0
    assert address >= LOAD + 0x10_0000
    assert address + size <= LOAD + 0x20_0124


@pytest.mark.parametrize(
    ("command_line", "initrd"),
    [("x" * 3000, b"x"), ("", b""), ("", bytes(RAM)), ("", Path("/nonexistent"))],
    ids=["command line", "empty", "large", "missing"],
)
def test_check_raises_what_loading_would_raise(
    path: Path, command_line: str, initrd: Path | bytes
) -> None:
    kernel = read_kernel(BzImage().write(path), RAM)
    with pytest.raises(RingletError) as early:
        check(kernel, command_line, initrd)
    with pytest.raises(RingletError) as late:
        load_kernel(FakeCpu(), kernel, command_line=command_line, initrd=initrd)

    assert str(early.value) == str(late.value)


def test_least_memory_named_for_an_initrd_works(path: Path) -> None:
    disk = b"x" * (3 * MIB + 1)
    with pytest.raises(ConfigError) as caught:
        loaded(path, memory=18 * MIB, initrd=disk)
    _, params = loaded(path, memory=21 * MIB, initrd=disk)

    assert str(caught.value).endswith(
        "an initial RAM disk of 3 MiB does not fit in 18 MiB of RAM; give at least --memory 21M"
    )
    assert field(params, 0x218, "I") >= LOAD + 0x10_0000


def test_initrd_beyond_the_kernels_reach_is_refused(path: Path) -> None:
    image = BzImage(xloadflags=1, initrd_addr_max=LOAD + 0x10_0FFF)
    with pytest.raises(ProgramError, match="is too large: this kernel needs it below 17"):
        loaded(path, image, initrd=b"x" * 8192)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "no such file"),
        (lambda p: p.mkdir(), "is a directory; give an initial RAM disk"),
        (lambda p: p.write_bytes(b""), "is empty"),
    ],
    ids=["missing", "directory", "empty"],
)
def test_wrong_initrd(path: Path, make: Callable[[Path], object], message: str) -> None:
    kernel = read_kernel(BzImage().write(path), RAM)
    disk = path.with_name("initrd")
    make(disk)

    with pytest.raises(ProgramError, match=message):
        load_kernel(FakeCpu(), kernel, command_line="", initrd=disk)


# --- where the kernel goes


@pytest.mark.parametrize(
    ("image", "load"),
    [
        (BzImage(pref_address=0x120_0000), 0x120_0000),
        (BzImage(pref_address=0x110_0000), 0x120_0000),
        (BzImage(pref_address=0x110_0000, relocatable=0, alignment=0), 0x110_0000),
    ],
    ids=["aligned", "moved up to its alignment", "not relocatable"],
)
def test_kernel_goes_where_it_prefers(path: Path, image: BzImage, load: int) -> None:
    cpu, _ = loaded(path, image)

    assert cpu.memory[load] == CODE
    assert cpu.registers["rip"] == load + 0x200


def test_no_setup_sectors_means_four(path: Path) -> None:
    cpu, _ = loaded(path, BzImage(setup_sects=0))

    assert cpu.memory[LOAD] == CODE


def test_bytes_after_the_code_are_not_loaded(path: Path) -> None:
    cpu, _ = loaded(path, BzImage(code=CODE + b"signature" * 16, syssize=len(CODE) // 16))

    assert cpu.memory[LOAD] == CODE


def test_least_memory_named_for_a_kernel_works(path: Path) -> None:
    image = BzImage(init_size=0x12_3456).write(path)
    with pytest.raises(ConfigError) as caught:
        read_kernel(image, 8 * MIB)

    assert str(caught.value).endswith(
        "this kernel does not fit in 8 MiB of RAM; give at least --memory 18M"
    )
    assert read_kernel(image, 18 * MIB).end == LOAD + 0x12_3456


def test_ram_beyond_3_gib_is_above_the_devices(path: Path) -> None:
    _, params = loaded(path, memory=5 << 30)
    entries = list(struct.iter_unpack("<QQI", params[0x2D0 : 0x2D0 + 20 * params[0x1E8]]))

    assert entries[-2:] == [(MIB, (3 << 30) - MIB, 1), (4 << 30, 2 << 30, 1)]


# --- what is refused


def other(offset: int, magic: bytes) -> bytes:
    return bytes(offset) + magic + bytes(4096)


WRONG = {
    "empty": (b"", "is empty; give a kernel for x86: Linux's bzImage"),
    "text": (b"#!/bin/sh\n" * 200, "or run a flat image by --bare --flat 16@0x7c00"),
    "arm64": (other(0x38, b"ARM\x64"), "is a kernel for AArch64"),
    "riscv": (other(0x38, b"RSC\x05"), "is a kernel for RISC-V"),
    "arm": (other(0x24, b"\x18\x28\x6f\x01"), "is a kernel for 32-bit ARM"),
    "gzip": (other(0, b"\x1f\x8b"), "is compressed with gzip"),
    "zimage": (BzImage(loadflags=0).bytes(), "is a zImage, which runs below 1 MiB"),
    "old": (BzImage(version=0x0201).bytes(), "uses boot protocol 2.01; give a kernel with 2.02"),
    "short old header": (
        BzImage(version=0x0203, jump_length=0x2D).bytes(), "is damaged: its setup header",
    ),
    "boot flag": (BzImage(boot_flag=0).bytes(), "is damaged: its setup header"),
    "short header": (BzImage(jump_length=0x20).bytes(), "is damaged: its setup header"),
    "long header": (BzImage(jump_length=0xFF).bytes(), "is damaged: its setup header"),
    "alignment": (BzImage(alignment=0x30_0000).bytes(), "is damaged: its alignment is"),
    "no alignment": (BzImage(alignment=0).bytes(), "is damaged: its alignment is"),
    "low": (BzImage(pref_address=0x1000, relocatable=0).bytes(), "below 1 MiB"),
    "no code": (BzImage(syssize=0).bytes(), "is damaged: its header claims 0 bytes"),
    "cut in the header": (BzImage().bytes()[:0x250], "is truncated: 592 bytes cannot hold"),
    "cut in the code": (BzImage().bytes()[:-16], "is truncated: it has 4080 of 4096 bytes"),
    "huge": (BzImage(pref_address=(1 << 64) - 4096).bytes(), "a PC has its devices at 0xc0000000"),
    "hungry": (BzImage(init_size=0xFFFF_FFFF).bytes(), "needs RAM up to 0x100ffffff, but a PC"),
}


@pytest.mark.parametrize(("content", "message"), WRONG.values(), ids=list(WRONG))
def test_refusal_names_the_file_and_what_is_wrong(path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)

    with pytest.raises(ProgramError) as caught:
        read_kernel(path, RAM)

    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_kernel(path: Path) -> None:
    with pytest.raises(ProgramError, match="no such file"):
        read_kernel(path, RAM)


@pytest.mark.parametrize("length", [0, 2047])
def test_command_line_as_long_as_the_kernel_takes(path: Path, length: int) -> None:
    cpu, _ = loaded(path, command_line="x" * length)

    assert cpu.memory[at.COMMAND_LINE] == b"x" * length + b"\0"


def test_command_line_that_is_too_long(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has 2048 bytes; .* takes at most 2047"):
        loaded(path, command_line="x" * 2048)


def test_command_line_with_a_zero_byte(path: Path) -> None:
    with pytest.raises(ConfigError, match="contains a zero byte"):
        loaded(path, command_line="a\0b")


def test_every_short_file_is_refused_in_a_line(path: Path) -> None:
    whole = BzImage().bytes()
    for length in range(0, len(whole) - 15, 7):
        path.write_bytes(whole[:length])
        with pytest.raises(RingletError):
            read_kernel(path, RAM)


@pytest.mark.parametrize("place", range(0x1F1, 0x268))
def test_no_byte_of_the_header_can_break_the_loader(path: Path, place: int) -> None:
    whole = bytearray(BzImage().bytes())
    for value in (0, 0x7F, 0xFF):
        whole[place] = value
        path.write_bytes(whole)
        with contextlib.suppress(RingletError):
            load_kernel(FakeCpu(), read_kernel(path, RAM), command_line="")


def test_tables_zero_page_and_command_line_do_not_overlap() -> None:
    assert at.TABLES_END <= at.BOOT_PARAMS
    assert at.BOOT_PARAMS + 4096 <= at.COMMAND_LINE < at.COMMAND_LINE_END < at.LOW_RAM_END


def real_kernels() -> list[Path]:
    """Return the kernels on this host: those fetched by Ringlet, and the host's own."""
    found = [p for p in Path("/boot").glob("vmlinuz-*") if os.access(p, os.R_OK)]
    entry = Store(default_root()).find(kernels_of(), CLOUD_KERNEL)
    cached = entry.file("vmlinuz") if entry is not None else None
    return [cached, *found] if cached is not None else found


@pytest.mark.skipif(not real_kernels(), reason="no kernel was fetched, and none is in /boot")
def test_real_kernels_are_accepted() -> None:
    kernels = [read_kernel(path, 1 << 30) for path in real_kernels()]

    assert all(p.offset + p.size <= k.path.stat().st_size for k in kernels for p in k.pieces)
    assert all(at.HIGH_RAM < k.entry < k.end < 1 << 30 for k in kernels)
    assert all(k.command_line_limit >= 255 for k in kernels)


def test_initrd_may_be_given_as_its_contents(path: Path) -> None:
    cpu = FakeCpu()
    load_kernel(cpu, read_kernel(BzImage().write(path), RAM), command_line="", initrd=b"x" * 5000)
    params = cpu.memory[at.BOOT_PARAMS]

    assert cpu.memory[RAM - 8192] == b"x" * 5000
    assert (field(params, 0x218, "I"), field(params, 0x21C, "I")) == (RAM - 8192, 5000)
