"""Watching the guest block by block, for `--trace` and `--compare`.

While a virtual processor has a `Blocks`, no fragment is linked to another.  So the run loop sees
the start of each block, and each sensitive instruction starts a block of its own.
"""
from ringlet.cache.codecache cimport Fragment
from ringlet.core.state cimport CpuState, u8, u16, u32, u64

cpdef enum Event:
    BLOCK = 1        # arguments: RSP, CR3
    EXCEPTION = 2    # vector | error code << 32, CR2
    INTERRUPT = 3    # vector, 0

cdef struct BlockEvent:
    u64 rip
    u64 linear       # of the instruction at `rip`
    u64 argument[2]
    u16 cs           # the selector
    u8 kind          # Event
    u8 cpl
    u8 bits          # 16, 32 or 64: the size of the code segment
    u8 length        # number of bytes in `code`
    u8 code[16]      # where a block begins; its first instruction is the first in them

cdef struct Blocks:
    BlockEvent* ring     # the last events, or NULL if none are kept
    u64 count            # number of all events
    u32 size             # size of the ring, a power of 2
    u32 asking           # leave with EXIT_BLOCK so many times before each block
    u32 awaited          # and before the next one
    u64 rip              # start of the current block, or of the one that EXIT_BLOCK reported
    u32 asked            # EXIT_BLOCK has reported the block at `rip`

cdef void blocks_create(CpuState* c, u32 last, u32 asking) except *
cdef void blocks_destroy(CpuState* c)
cdef void blocks_event(CpuState* c, u32 kind, u64 first, u64 second) noexcept nogil
# Record that a block begins at RIP with fragment `frag`.  True: leave with EXIT_BLOCK first.
cdef bint block_begins(CpuState* c, Fragment* frag) noexcept nogil

cdef inline bint block_ends(CpuState* c, u64 rip) noexcept nogil:
    """Whether the sensitive instruction at `rip` still has to begin a block of its own."""
    return c.blocks != NULL and (<Blocks*>c.blocks).rip != rip
