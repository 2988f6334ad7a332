"""Processors about to run a program of 16- and 32-bit code, for debuggers."""

from ringlet.vcpu.processor import Processor
from tests.unit.vcpu.narrow_run import START, assemble

RAM = 4 << 20
STACK = 0x800
CS = 1
VM = 1 << 17

TO_32_BITS = f"""
        .code16
        lgdtl gdtr
        lidtl idtr
        mov $0x11, %eax
        mov %eax, %cr0
        ljmpl $8, $wide
        .balign 8
gdt:    .quad 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF, 0x00009B{START:06x}FFFF
        .quad 0x00CFFB000000FFFF, 0x00CFF3000000FFFF, 0x0040930200000FFF
idt:    .fill 6, 8, 0
        .word handler, 8, 0x8E00, 0
        .fill 6, 8, 0
        .word handler, 8, 0x8E00, 0
gdtr:   .word 55
        .long gdt
idtr:   .word 14 * 8 - 1
        .long idt
        .code32
handler:
        hlt
        .org 0x100
wide:   mov $0x10, %eax
        mov %eax, %ds
        mov %eax, %es
        mov %eax, %ss
        .org 0x110, 0x90
"""
"""Enters flat 32-bit code, which goes on at `WIDE`; exceptions 6 and 13 halt.

Selectors: 8h code, 10h data, 18h 16-bit code with a base at `START`, 30h data of 4 KiB at 20000h.
"""
WIDE = START + 0x110


def real(source: str) -> Processor:
    """Return a processor in real mode about to run `source`, linked at `START`."""
    p = Processor(RAM)
    p.write_phys(START, assemble(source))
    for index in range(6):
        p.set_segment(index, 0, 0, 0xFFFF, 0x9B if index == CS else 0x93)
    p.set_table("idtr", 0, 0x3FF)
    p.set("cr0", 0x10)
    p.set("rflags", 2)
    p.set("rsp", STACK)
    p.set("rip", START)
    return p


def v86(source: str, data: int) -> Processor:
    """Return a processor in virtual-8086 mode about to run `source` at `START`:0, with DS `data`.

    There is no IDT, so what raises an exception shuts the processor down.
    """
    p = real(source)
    p.set("cr0", 0x11)
    p.set_table("idtr", 0, 0)
    for index in range(6):
        base = START if index == CS else data
        p.set_segment(index, base >> 4, base, 0xFFFF, 0xF3)
    p.set("cpl", 3)
    p.set("rflags", VM | 2)
    p.set("rip", 0)
    return p
