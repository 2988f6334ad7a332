"""Requests of a debugger, from Python."""
from ringlet.core.state cimport CpuState, u8, u64

# Both replace the previous breakpoints or watchpoints.
cdef int debug_set_breaks(CpuState* c, addresses) except -1
cdef int debug_set_watches(CpuState* c, watches) except -1
cdef int debug_go(CpuState* c, bint step, bint skip) except -1
cdef debug_why(CpuState* c)
cdef int debug_poke(CpuState* c, u64 linear, const u8* data, u64 size) except -1
cdef void debug_destroy(CpuState* c) noexcept
# Return the kept events as `EventRecord`s (ringlet.vcpu.debug.blocks), the oldest first.
cdef list blocks_events(CpuState* c)
