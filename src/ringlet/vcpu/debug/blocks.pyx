"""The record of events in a guest that is traced or compared."""
from typing import NamedTuple

from libc.stdlib cimport calloc, free
from ringlet.core.state cimport KEY_MODE16, KEY_MODE64, RSP, SEG_CS, CpuState, code_linear, u32, u64
from ringlet.vcpu.loop.faults cimport guest_bytes


class EventRecord(NamedTuple):
    """An event: its `Event`, the place at which it occurred, and its two arguments.

    `bits` is the size of the code segment.  `code` holds the bytes of the first instruction of a
    block, and of what follows it.
    """

    kind: int
    cpl: int
    rip: int
    first: int
    second: int
    linear: int
    cs: int
    bits: int
    code: bytes


cdef void blocks_create(CpuState* c, u32 last, u32 asking) except *:
    """Begin to watch `c`, and keep the `last` events (0 or a power of 2).

    Leave `asking` times before each block.
    """
    cdef Blocks* b = <Blocks*>calloc(1, sizeof(Blocks))
    if b == NULL:
        raise MemoryError("blocks")
    if last:
        b.ring = <BlockEvent*>calloc(last, sizeof(BlockEvent))
        if b.ring == NULL:
            free(b)
            raise MemoryError("trace")
    b.size = last
    b.asking = asking
    c.blocks = b


cdef void blocks_destroy(CpuState* c):
    cdef Blocks* b = <Blocks*>c.blocks
    if b != NULL:
        free(b.ring)
        free(b)
        c.blocks = NULL


cdef BlockEvent* next_event(CpuState* c, u32 kind, u64 first, u64 second) noexcept nogil:
    """Put an event at RIP into the ring; NULL: there is none."""
    cdef Blocks* b = <Blocks*>c.blocks
    cdef BlockEvent* e
    if b == NULL or b.size == 0:
        return NULL
    e = &b.ring[b.count & (b.size - 1)]
    b.count += 1
    e.rip = c.arch.rip
    e.linear = code_linear(c, c.arch.rip)
    e.cs = c.arch.seg[SEG_CS].selector
    e.bits = 64 if c.key & KEY_MODE64 else 16 if c.key & KEY_MODE16 else 32
    e.length = 0
    e.argument[0] = first
    e.argument[1] = second
    e.kind = kind
    e.cpl = c.arch.cpl
    return e


cdef void blocks_event(CpuState* c, u32 kind, u64 first, u64 second) noexcept nogil:
    next_event(c, kind, first, second)


cdef bint block_begins(CpuState* c, Fragment* frag) noexcept nogil:
    cdef Blocks* b = <Blocks*>c.blocks
    cdef BlockEvent* e
    if (b.awaited or frag.asked < b.asking) and not (b.asked and b.rip == c.arch.rip):
        b.rip = c.arch.rip
        b.asked = 1
        if frag.asked < b.asking:
            frag.asked += 1
        return True
    b.rip = c.arch.rip
    b.asked = 0
    e = next_event(c, BLOCK, c.arch.gpr[RSP], c.arch.cr3)
    if e != NULL and guest_bytes(c, frag, 0, e.code):
        e.length = 16
    return False
