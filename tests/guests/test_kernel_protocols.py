"""Small kernels of our own on the PC: what Multiboot, PVH and Linux's 32-bit protocol tell them."""

from pathlib import Path

import pytest

from ringlet.cli.main import main
from ringlet.config import LinuxConfig
from ringlet.machine import boot
from ringlet.machine.outcome import EndKind
from ringlet.machine.pc import Options, Wire
from ringlet.vcpu.processor import Processor
from tests.guests.assembled import PRINT_AND_END, flat, linked, needs_assembler
from tests.unit.machine.kernel_maker import BzImage

pytestmark = [needs_assembler, pytest.mark.timeout(60)]

MEMORY = 32 << 20
# Each kernel prints its command line and the first bytes of its initial RAM disk.  Its status names
# the first thing that is wrong; 5 says that all is right.
PRINT_DISK = """
    mov $4, %ecx                        # four bytes at %esi
    mov $0x3f8, %edx
1:  mov (%esi), %al
    inc %esi
    out %al, %dx
    dec %ecx
    jnz 1b
    mov $2, %bl
    jmp fail
"""

MULTIBOOT = f"""
    .code32
    .balign 4
header:
    .long 0x1badb002, FLAGS, -(0x1badb002 + FLAGS)
    .long header, start, 0, 0, entry    # for flags with bit 16
entry:
    mov %ebx, %ebp
    mov $10, %bl
    cmp $0x2badb002, %eax
    jne fail
    mov $11, %bl                        # memory, command line, modules, memory map, name
    mov (%ebp), %eax
    and $0x24d, %eax
    cmp $0x24d, %eax
    jne fail
    mov $12, %bl
    cmpl $639, 4(%ebp)
    jne fail
    cmpl $31 * 1024, 8(%ebp)
    jne fail
    mov $13, %bl                        # the first entry of the map is at 0
    mov 48(%ebp), %eax
    cmpl $20, (%eax)
    jne fail
    cmpl $0, 4(%eax)
    jne fail
    cmpl $1, 20(%eax)
    jne fail
    mov 16(%ebp), %esi
    call print
    mov 24(%ebp), %eax                  # the first module
    mov (%eax), %esi
    {PRINT_DISK}
    {PRINT_AND_END}
"""
MULTIBOOT_2 = f"""
    .code32
    .balign 8
header:
    .long 0xe85250d6, 0, end - header, -(0xe85250d6 + end - header)
    .word 1, 0                          # what it wants to know
    .long 20, 1, 3, 15
    .balign 8
    .word 0, 0
    .long 8
end:
entry:
    mov %ebx, %ebp
    mov $10, %bl
    cmp $0x36d76289, %eax
    jne fail
    mov $15, %ecx
    call find
    mov $11, %bl                        # "RSD " of the RSDP
    cmpl $0x20445352, 8(%esi)
    jne fail
    mov $6, %ecx
    call find
    mov $12, %bl                        # the first entry of the memory map is at 0
    cmpl $24, 8(%esi)
    jne fail
    cmpl $0, 16(%esi)
    jne fail
    cmpl $1, 32(%esi)
    jne fail
    mov $1, %ecx
    call find
    add $8, %esi
    call print
    mov $3, %ecx
    call find
    mov 8(%esi), %esi
    {PRINT_DISK}
find:                                   # the tag of type %ecx: %esi
    mov $13, %bl
    lea 8(%ebp), %esi
1:  mov (%esi), %eax
    cmp %ecx, %eax
    je 2f
    test %eax, %eax
    jz fail
    mov 4(%esi), %eax
    add $7, %eax
    and $-8, %eax
    add %eax, %esi
    jmp 1b
2:  ret
    {PRINT_AND_END}
"""
PVH = f"""
    .code32
    .text
    mov %ebx, %ebp
    mov $10, %bl
    cmpl $0x336ec578, (%ebp)
    jne fail
    mov $11, %bl
    cmpl $1, 4(%ebp)
    jne fail
    mov $12, %bl                        # "RSD " of the RSDP
    mov 32(%ebp), %eax
    cmpl $0x20445352, (%eax)
    jne fail
    mov $13, %bl                        # the first entry of the memory map is at 0
    mov 40(%ebp), %eax
    cmpl $0, (%eax)
    jne fail
    cmpl $1, 16(%eax)
    jne fail
    mov 24(%ebp), %esi
    call print
    mov 16(%ebp), %eax                  # the first module
    mov (%eax), %esi
    {PRINT_DISK}
    {PRINT_AND_END}
    .section .note.pvh, "a", @note
    .balign 4
    .long 4, 4, 18                      # XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long 0x100000
"""
LINUX_32 = f"""
    .code32
    mov %esi, %ebp
    mov $10, %bl
    mov %cs, %eax
    cmp $0x10, %eax
    jne fail
    mov %ds, %eax
    cmp $0x18, %eax
    jne fail
    mov $11, %bl                        # "HdrS"
    cmpl $0x53726448, 0x202(%ebp)
    jne fail
    mov $12, %bl                        # the first entry of the memory map is at 0
    cmpl $0, 0x2d0(%ebp)
    jne fail
    mov 0x228(%ebp), %esi
    call print
    mov 0x218(%ebp), %esi
    {PRINT_DISK}
    {PRINT_AND_END}
"""


def run(kernel: Path) -> tuple[EndKind, int, bytes]:
    printed = bytearray()
    options = Options([Wire(printed.extend)], debug_exit=True)
    config = LinuxConfig(kernel, MEMORY, b"disk", "hello ")
    machine = boot.build(config, Processor, options).machine
    end = machine.run()
    machine.free()
    return end.kind, end.status, bytes(printed)


RIGHT = (EndKind.DEBUG_EXIT, 5, b"hello disk")


def test_multiboot_from_an_elf_file(tmp_path: Path) -> None:
    source = f".set FLAGS, 3\nstart: jmp entry\n{MULTIBOOT}"

    assert run(linked(source, tmp_path)) == RIGHT


def test_multiboot_from_a_file_without_a_format(tmp_path: Path) -> None:
    source = f".set FLAGS, 0x10000\nstart:\n{MULTIBOOT}"

    assert run(flat(source, tmp_path, start=0x123450)) == RIGHT


@pytest.mark.parametrize("bits", [32, 64])
def test_multiboot_2(tmp_path: Path, bits: int) -> None:
    source = f".code32\njmp entry\n{MULTIBOOT_2}"

    assert run(linked(source, tmp_path, bits=bits)) == RIGHT


@pytest.mark.parametrize("bits", [32, 64])
def test_pvh(tmp_path: Path, bits: int) -> None:
    assert run(linked(PVH, tmp_path, bits=bits)) == RIGHT


def test_the_command_starts_a_kernel_without_a_format(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    kernel = flat(f".set FLAGS, 0x10000\nstart:\n{MULTIBOOT}", tmp_path, start=0x123450)
    (tmp_path / "disk").write_bytes(b"disk")
    options = ["--debug-exit", "--append", "hello ", "--initrd", str(tmp_path / "disk")]
    status = main(["run", "-m", "32", *options, "--console", "stdio", str(kernel)])

    assert (status, capfd.readouterr().out) == (5, "hello disk")


def test_a_32_bit_vmlinux(tmp_path: Path) -> None:
    assert run(linked(LINUX_32, tmp_path)) == RIGHT


def test_a_bzimage_without_a_64_bit_entry(tmp_path: Path) -> None:
    code = flat(LINUX_32, tmp_path, start=0x100_0000).read_bytes()
    code = code.ljust(-(-len(code) // 512) * 512, b"\0").ljust(1024, b"\0")

    assert run(BzImage(code=code, xloadflags=0).write(tmp_path / "vmlinuz")) == RIGHT
