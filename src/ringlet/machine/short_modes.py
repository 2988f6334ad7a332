"""Sets up real mode, or protected mode without paging, for a loader."""

from typing import Final

from ringlet.core.control_bits import Cr0, Cr4, Xcr0
from ringlet.machine import address_map as at
from ringlet.machine.cpu import Cpu
from ringlet.machine.flat_segments import enter_flat_segments

_CR0_PLAIN: Final = Cr0.CR0_PE | Cr0.CR0_ET
_CR0: Final = _CR0_PLAIN | Cr0.CR0_MP | Cr0.CR0_NE
_CR4: Final = Cr4.CR4_OSFXSR | Cr4.CR4_OSXMMEXCPT
_XCR0_PLAIN: Final = Xcr0.XCR0_X87 | Xcr0.XCR0_SSE
_XCR0_WITH_AVX: Final = _XCR0_PLAIN | Xcr0.XCR0_AVX

# Segment descriptor (SDM 3A 3.4.5): 32-bit, accessed, DPL 0, page granular, limit 4 GiB
_CODE_DESCRIPTOR: Final = 0x00CF_9B00_0000_FFFF
_REAL_RIGHTS: Final = 0x93
"""Of all segments in real mode; SDM 3A table 10-1 has them so after a reset."""
_BUSY_TSS: Final = 0x8B
_TSS_LIMIT: Final = 0x67
_SEG_TR: Final = 7
_REAL_STACK: Final = 0xFFFE


def enter_protected_mode(cpu: Cpu, entry: int, *, code_selector: int = at.CODE_SELECTOR) -> None:
    """Write a GDT and set the registers for the first instruction at `entry`, in 32-bit code.

    Paging and interrupts are off, the segments are flat, and TR has a 32-bit TSS at 0, as Xen's
    boot ABI asks for.  Except PE and ET, CR0 and CR4 are 0.  The data segment's selector is the one
    after `code_selector`.
    """
    cpu.set("cr0", _CR0_PLAIN)
    cpu.set("cr4", 0)
    cpu.set("efer", 0)
    cpu.set_segment(_SEG_TR, 0, 0, _TSS_LIMIT, _BUSY_TSS)
    enter_flat_segments(cpu, entry, _CODE_DESCRIPTOR, code_selector)


def enable_vectors(cpu: Cpu, *, avx: bool) -> None:
    """Enable x87 and SSE, and with `avx` AVX, which the processor must have then."""
    cpu.set("cr0", _CR0)
    cpu.set("cr4", _CR4 | (Cr4.CR4_OSXSAVE if avx else 0))
    cpu.set("xcr0", _XCR0_WITH_AVX if avx else _XCR0_PLAIN)


def enter_real_mode(cpu: Cpu, segment: int, offset: int) -> None:
    """Set the registers for the first instruction at `segment`:`offset`, in real mode.

    All segment registers have `segment`, SP is FFFEh, interrupts are off, and the interrupt vector
    table is at 0 (SDM 3A 21.1).
    """
    cpu.set("cr0", Cr0.CR0_ET)
    cpu.set("cr4", 0)
    cpu.set("efer", 0)
    cpu.set_table("gdtr", 0, 0xFFFF)
    cpu.set_table("idtr", 0, 0x3FF)
    for index in range(6):
        cpu.set_segment(index, segment, segment * 16, 0xFFFF, _REAL_RIGHTS)
    cpu.set("rflags", 2)
    cpu.set("rsp", _REAL_STACK)
    cpu.set("rip", offset)
