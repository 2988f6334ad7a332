"""The guest in which programs run: its physical memory, page tables and descriptor tables.

The supervisor's page is at KERNEL + its physical address.  Each exception handler is one HLT, so
that the address of the stop identifies the vector, and the ring-0 stack holds the frame.  Selectors
are Linux's, so that they are the same as on the host.
"""
from __future__ import annotations

import struct

from tests.differential import layout, segments
from tests.differential.layout import EXEC, PAGE, WRITE

RAM_SIZE = 4 << 20
KERNEL = 0xFFFF_FFFF_8000_0000

GDT = 0x1000
IDT = 0x2000
TSS = 0x3000
STACK_TOP = 0x6000  # RSP0; the page below it is the ring-0 stack
HANDLERS = 0x6000
HANDLER_SIZE = 16
SYSCALL_HANDLER = 0x7800
RING0_CODE = 0x8000  # pages for ring-0 programs
RING0_DATA = 0x9000
RING0_STACK_TOP = 0xB000
IST1_TOP = 0xC000    # the stack of all exceptions, if memory() is asked for it
LDT = 0xC000
PML4 = 0x10000
IMAGE = 0x40000     # where layout's image stands

KERNEL_CS, KERNEL_SS, USER_CS32, USER_SS, USER_CS = 0x10, 0x18, 0x23, 0x2B, 0x33
TSS_SELECTOR = 0x40
LDT_SELECTOR = 0x50  # beyond the GDT: it is loaded without it

CR0 = 0x8001_0033   # PG WP NE ET MP PE; AM is clear: see compare.excluded
CR4 = 0x0005_0620   # OSXSAVE FSGSBASE OSXMMEXCPT OSFXSR PAE
EFER = 0xD01        # NXE LMA LME SCE
XCR0 = 7
STAR = (USER_CS32 << 48) | (KERNEL_CS << 32)
LSTAR = KERNEL + SYSCALL_HANDLER

_DESCRIPTORS = {0x08: 0x00CF9B000000FFFF, 0x10: 0x00AF9B000000FFFF, 0x18: 0x00CF93000000FFFF,
                0x20: 0x00CFFB000000FFFF, 0x28: 0x00CFF3000000FFFF, 0x30: 0x00AFFB000000FFFF}
# Access rights as the CPU keeps them: bytes 5 and 6 of the descriptor.
AR = {USER_CS: 0xA0FB, USER_CS32: 0xC0FB, USER_SS: 0xC0F3, KERNEL_CS: 0xA09B, KERNEL_SS: 0xC093}
GDT_LIMIT = 0x4F
ERROR_CODE_VECTORS = frozenset((8, 10, 11, 12, 13, 14, 17))

_P, _RW, _US, _PS, _NX = 1, 2, 4, 0x80, 1 << 63


def _page_tables(memory: bytearray) -> None:
    next_table = PML4 + PAGE

    def entry(table: int, index: int, flags: int) -> int:
        nonlocal next_table
        at = table + 8 * index
        value = struct.unpack_from("<Q", memory, at)[0]
        if not value & _P:
            value = next_table | flags
            next_table += PAGE
            struct.pack_into("<Q", memory, at, value)
        return int(value & 0x000F_FFFF_FFFF_F000)

    def place(linear: int, physical: int, flags: int) -> None:
        table = PML4
        for shift in (39, 30, 21):
            table = entry(table, linear >> shift & 511, _P | _RW | _US)
        struct.pack_into("<Q", memory, table + 8 * (linear >> 12 & 511), physical | flags)

    for area in layout.AREAS.values():
        flags = _P | _US | (_RW if area.prot & WRITE else 0) | (0 if area.prot & EXEC else _NX)
        for page in range(area.pages):
            place(area.linear + page * PAGE, IMAGE + area.offset + page * PAGE, flags)
    for page in range(0, 0x10000, PAGE):
        place(KERNEL + page, page, _P | _RW)


def _gate(vector: int, ist: int) -> bytes:
    handler = KERNEL + HANDLERS + HANDLER_SIZE * vector
    dpl = 3 if vector in (3, 4) else 0
    return struct.pack("<HHBBHII", handler & 0xFFFF, KERNEL_CS, ist, 0x8E | dpl << 5,
                       handler >> 16 & 0xFFFF, handler >> 32, 0)


def memory(ist: int = 0) -> bytes:
    """Guest physical memory from 0, up to and with the image.

    With `ist` 1 all exceptions switch to the stack at IST1_TOP, so that a ring-0 program's own
    stack is left as it was.
    """
    out = bytearray(IMAGE + layout.IMAGE_SIZE)
    for selector, value in _DESCRIPTORS.items():
        struct.pack_into("<Q", out, GDT + selector, value)
    ldt = b"".join(s.descriptor for s in segments.TABLE)
    out[LDT:LDT + len(ldt)] = ldt
    base = KERNEL + TSS
    struct.pack_into("<HHBBBBQ", out, GDT + TSS_SELECTOR, 0x67, base & 0xFFFF, base >> 16 & 0xFF,
                     0x8B, 0, base >> 24 & 0xFF, base >> 32)
    for vector in range(256):
        out[IDT + 16 * vector:IDT + 16 * vector + 16] = _gate(vector, ist)
    for at in range(HANDLERS, RING0_CODE, HANDLER_SIZE):
        out[at:at + 3] = b"\xf4\xeb\xfd"  # hlt; jmp to it
    struct.pack_into("<Q", out, TSS + 4, KERNEL + STACK_TOP)
    struct.pack_into("<Q", out, TSS + 36, KERNEL + IST1_TOP)
    struct.pack_into("<H", out, TSS + 102, 0x68)  # no I/O permission map
    _page_tables(out)
    out[IMAGE:] = layout.BASE_IMAGE
    return bytes(out)


def vector_of(rip: int) -> int | None:
    """The vector whose handler stopped at `rip` (after its HLT); None: another place."""
    offset = rip - 1 - KERNEL - HANDLERS
    if offset % HANDLER_SIZE == 0 and 0 <= offset < 256 * HANDLER_SIZE:
        return offset // HANDLER_SIZE
    return None


def frame(stack: bytes, vector: int) -> tuple[int, tuple[int, ...]]:
    """(error code, (rip, cs, rflags, rsp, ss)) from the 48 bytes below the top of its stack."""
    words = struct.unpack("<6Q", stack)
    return words[0] if vector in ERROR_CODE_VECTORS else 0, words[1:]
