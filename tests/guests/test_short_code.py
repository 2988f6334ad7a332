"""Programs of 16 and 32 bits on the bare machine: what they find at their entry."""

import time
from pathlib import Path

import pytest

from ringlet.config import MachineConfig
from ringlet.flat_spec import parse_flat
from ringlet.machine import bare
from ringlet.machine.outcome import EndKind
from ringlet.vcpu.processor import Processor
from tests.guests.assembled import PRINT_AND_END, flat, linked, needs_assembler

pytestmark = [needs_assembler, pytest.mark.timeout(60)]

# The status names the first property that is wrong; 5 says that all are right.
PROTECTED = f"""
    .code32
    mov $10, %bl                        # paging is off, protected mode on, SSE enabled
    mov %cr0, %ecx
    and $0x80000001, %ecx
    cmp $1, %ecx
    jne fail
    mov $11, %bl
    mov %cr4, %ecx
    test $0x200, %ecx
    jz fail
    mov $12, %bl                        # the segments are those of the GDT
    mov %cs, %ecx
    cmp $0x08, %ecx
    jne fail
    mov %ds, %ecx
    cmp $0x10, %ecx
    jne fail
    mov %gs, %ecx
    cmp $0x10, %ecx
    jne fail
    mov $13, %bl                        # the stack
    cmp $0x90000, %esp
    jne fail
    pushf
    pop %ecx
    mov $14, %bl                        # interrupts are off
    test $0x200, %ecx
    jnz fail
    mov $text, %esi
    call print
    mov $2, %bl
    jmp fail
text:
    .asciz "hello from 32 bits\\n"
{PRINT_AND_END}
"""
REAL = """
    .code16
    mov $0x3f8, %dx
    mov $'1', %al
    out %al, %dx
    mov $'6', %al
    out %al, %dx
    mov %cs, %bx                        # CS and DS are the image's segment
    mov %ds, %cx
    mov $3, %al
    cmp %bx, %cx
    jne 1f
    mov $4, %al
    cmp $0x07c0, %bx
    jne 1f
    mov $5, %al
    cmp $0xfffe, %sp
    jne 1f
    mov $2, %al
1:  out %al, $0xf4
    hlt
"""
LONG = """
    .code64
    mov $0x3f8, %edx
    lea text(%rip), %rsi
    mov $(end - text), %ecx
    rep outsb
    mov $2, %al
    out %al, $0xf4
    hlt
text:
    .ascii "hello from 64 bits\\n"
end:
"""


def run(program: Path, place: str | None = None) -> tuple[EndKind, int, bytes]:
    printed = bytearray()
    where = parse_flat(place, "--flat") if place is not None else None
    config = MachineConfig(program, 4 << 20, flat=where)
    clock = time.monotonic_ns
    wired = bare.build(config, Processor, printed.extend, avx=True, clock=clock)
    end = wired.machine.run()
    return end.kind, end.status, bytes(printed)


def test_a_32_bit_program(tmp_path: Path) -> None:
    assert run(linked(PROTECTED, tmp_path)) == (EndKind.DEBUG_EXIT, 5, b"hello from 32 bits\n")


def test_a_flat_image_of_32_bits(tmp_path: Path) -> None:
    image = flat(PROTECTED, tmp_path, start=0x123400)

    assert run(image, "32@0x123400") == (EndKind.DEBUG_EXIT, 5, b"hello from 32 bits\n")


def test_a_flat_image_of_64_bits(tmp_path: Path) -> None:
    image = flat(LONG, tmp_path, start=0x100000, bits=64)

    assert run(image, "64@0x200000") == (EndKind.DEBUG_EXIT, 5, b"hello from 64 bits\n")


def test_a_flat_image_of_16_bits(tmp_path: Path) -> None:
    image = flat(REAL, tmp_path, start=0, bits=16)

    assert run(image, "16@07C0:0000") == (EndKind.DEBUG_EXIT, 5, b"16")
