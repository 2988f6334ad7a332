"""Watching the guest block by block: for `--trace` and `--compare`.

While a virtual processor has a `Blocks`, no fragment leads to another: the run loop sees each one
begin, and each sensitive instruction begins one of its own.
"""
from ringlet.core.state cimport CpuState, u32, u64

cpdef enum Event:
    BLOCK = 1        # arguments: RSP, CR3
    EXCEPTION = 2    # vector | error code << 32, CR2
    INTERRUPT = 3    # vector, 0

cdef struct BlockEvent:
    u64 rip
    u64 argument[2]
    u32 kind         # Event
    u32 cpl

cdef struct Blocks:
    BlockEvent* ring     # the last events, if any are to be kept
    u64 count            # of all events
    u32 size             # of the ring, a power of 2
    u32 asking           # leave with EXIT_BLOCK before each block
    u64 rip              # of the block that is being run, or has been asked about
    u32 asked            # it has

cdef void blocks_create(CpuState* c, u32 last, bint asking) except *
cdef void blocks_destroy(CpuState* c)
cdef void blocks_event(CpuState* c, u32 kind, u64 first, u64 second) noexcept nogil
# A block begins at RIP.  True: leave with EXIT_BLOCK first.
cdef bint block_begins(CpuState* c) noexcept nogil

cdef inline bint block_ends(CpuState* c, u64 rip) noexcept nogil:
    """A sensitive instruction at `rip` begins a block of its own."""
    return c.blocks != NULL and (<Blocks*>c.blocks).rip != rip
