"""Flat segments, and the rest of the state with which a loader enters 32- or 64-bit code."""

import struct
from typing import Final

from ringlet.machine import address_map as at
from ringlet.machine.cpu import Cpu

_DATA_DESCRIPTOR: Final = 0x00CF_9300_0000_FFFF
"""SDM 3A 3.4.5: accessed, writable, DPL 0, page granular, limit 4 GiB."""
_SEGMENTS: Final = 6
_SEG_CS: Final = 1


def enter_flat_segments(
    cpu: Cpu, entry: int, code_descriptor: int, code_selector: int = at.CODE_SELECTOR
) -> None:
    """Write a GDT, load its segments, and set the other registers for the instruction at `entry`.

    `code_descriptor` is that of CS; the data segment's selector is the one after `code_selector`.
    Interrupts are off, and RSP is the top of the loader's stack.  The control registers come first.
    """
    nulls = [0] * (code_selector // 8)
    gdt = struct.pack(f"<{len(nulls) + 2}Q", *nulls, code_descriptor, _DATA_DESCRIPTOR)
    cpu.write_phys(at.GDT, gdt)
    cpu.set_table("gdtr", at.GDT, len(gdt) - 1)
    cpu.set_table("idtr", 0, 0)
    for index in range(_SEGMENTS):
        code = index == _SEG_CS
        selector = code_selector if code else code_selector + 8
        descriptor = code_descriptor if code else _DATA_DESCRIPTOR
        cpu.set_segment(index, selector, 0, 0xFFFF_FFFF, descriptor >> 40 & 0xF0FF)
    cpu.set("rflags", 2)
    cpu.set("rsp", at.STACK_TOP)
    cpu.set("rip", entry)
