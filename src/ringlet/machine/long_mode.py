"""Sets up long mode for a loader: identity page tables, a GDT, and the registers at the entry."""

import struct
from typing import Final

from ringlet.core.control_bits import Cr0, Cr4, Efer, Xcr0
from ringlet.machine import address_map as at
from ringlet.machine.cpu import Cpu
from ringlet.machine.flat_segments import enter_flat_segments

_PAGE: Final = 4096
_LARGE_PAGE: Final = 2 << 20

# Page table entry bits (SDM 3A 4.5)
_PRESENT_WRITABLE: Final = 0x3
_PAGE_SIZE: Final = 1 << 7

_CR0: Final = Cr0.CR0_PE | Cr0.CR0_MP | Cr0.CR0_ET | Cr0.CR0_NE | Cr0.CR0_WP | Cr0.CR0_PG
_CR4: Final = Cr4.CR4_PAE | Cr4.CR4_OSFXSR | Cr4.CR4_OSXMMEXCPT
_EFER: Final = Efer.EFER_LME | Efer.EFER_LMA | Efer.EFER_NXE
_XCR0_PLAIN: Final = Xcr0.XCR0_X87 | Xcr0.XCR0_SSE
_XCR0_WITH_AVX: Final = _XCR0_PLAIN | Xcr0.XCR0_AVX

# Segment descriptor (SDM 3A 3.4.5): 64-bit, accessed, DPL 0, page granular, limit 4 GiB
_CODE_DESCRIPTOR: Final = 0x00AF_9B00_0000_FFFF


def enter_long_mode(
    cpu: Cpu, entry: int, *, avx: bool, code_selector: int = at.CODE_SELECTOR
) -> None:
    """Write the loader's tables and set the registers for the first instruction at `entry`.

    The first 4 GiB are mapped identically; interrupts are off; RSP is the top of the loader's
    stack.  The data segment's selector is the one after `code_selector`.  `avx` enables AVX; the
    processor must have AVX then.
    """
    _write_page_tables(cpu)

    cpu.set("cr4", _CR4 | (Cr4.CR4_OSXSAVE if avx else 0))
    cpu.set("xcr0", _XCR0_WITH_AVX if avx else _XCR0_PLAIN)
    cpu.set("cr3", at.PML4)
    cpu.set("efer", _EFER)
    cpu.set("cr0", _CR0)
    enter_flat_segments(cpu, entry, _CODE_DESCRIPTOR, code_selector)


def _write_page_tables(cpu: Cpu) -> None:
    cpu.write_phys(at.PML4, _table([at.PDPT | _PRESENT_WRITABLE]))
    directories = [at.PAGE_DIRECTORIES + i * _PAGE for i in range(at.PAGE_DIRECTORY_COUNT)]
    cpu.write_phys(at.PDPT, _table([d | _PRESENT_WRITABLE for d in directories]))
    for number, directory in enumerate(directories):
        first = number * 512
        pages = [(first + i) * _LARGE_PAGE | _PRESENT_WRITABLE | _PAGE_SIZE for i in range(512)]
        cpu.write_phys(directory, _table(pages))


def _table(entries: list[int]) -> bytes:
    return struct.pack(f"<{len(entries)}Q", *entries).ljust(_PAGE, b"\0")
