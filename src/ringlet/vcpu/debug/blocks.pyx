"""The record of events in a guest that is traced or compared."""
from libc.stdlib cimport calloc, free
from ringlet.core.state cimport CpuState, u32, u64


cdef void blocks_create(CpuState* c, u32 last, bint asking) except *:
    """Begin to watch `c`, and keep the `last` events (0 or a power of 2)."""
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


cdef void blocks_event(CpuState* c, u32 kind, u64 first, u64 second) noexcept nogil:
    cdef Blocks* b = <Blocks*>c.blocks
    cdef BlockEvent* e
    if b == NULL or b.size == 0:
        return
    e = &b.ring[b.count & (b.size - 1)]
    b.count += 1
    e.rip = c.arch.rip
    e.argument[0] = first
    e.argument[1] = second
    e.kind = kind
    e.cpl = c.arch.cpl


cdef bint block_begins(CpuState* c) noexcept nogil:
    cdef Blocks* b = <Blocks*>c.blocks
    if b.asking and not (b.asked and b.rip == c.arch.rip):
        b.rip = c.arch.rip
        b.asked = 1
        return True
    b.rip = c.arch.rip
    b.asked = 0
    blocks_event(c, BLOCK, c.arch.gpr[4], c.arch.cr3)
    return False
