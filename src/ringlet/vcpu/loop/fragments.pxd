"""Fragments for the run loop: translation at RIP, retranslation, and invalidation."""
from ringlet.core.state cimport CpuState, KEY_CS64K, KEY_CS_ODD, u32, u64
from ringlet.cache.codecache cimport Fragment
from ringlet.translate.builder cimport Builder

cdef enum:
    FOUND = 0
    RAISED = 1       # the fetch faults: exc_*
    LEAVE_LOOP = 2   # exit_kind says why

cdef int make_fragment(CpuState* c, Builder* b, u32 key, u32 space, bint indirect,
                       u32* out) noexcept nogil
cdef inline bint limit_varies(u32 key) noexcept nogil:
    """Whether code of this key may run with different limits of CS."""
    return key & (KEY_CS64K | KEY_CS_ODD) == KEY_CS_ODD

cdef bint passes_limit(CpuState* c, Fragment* f) noexcept nogil
cdef bint remake_fragment(CpuState* c, Builder* b, u32 index) noexcept nogil
cdef bint offer_to_learn(CpuState* c, Builder* b, Fragment* f) noexcept nogil
# Note that the instruction at RIP, in fragment `index`, has faulted at a device.  False: learn its
# shape, and begin it again.
cdef bint site_found(CpuState* c, u32 index) noexcept nogil
# The virtual MMU calls these when mappings or code pages change.
cdef void code_unmapped(CpuState* c, u64 linear, u64 pages) noexcept nogil
cdef void code_written(CpuState* c, u64 phys_page) noexcept nogil
cdef void space_dropped(CpuState* c, u32 space) noexcept nogil
