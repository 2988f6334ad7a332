"""Getting a thread out of translated code that runs."""
from ringlet.core.state cimport CpuState, u32
from ringlet.cache.codecache cimport Cache

# Fragment `index`, in which the thread is, shall leave wherever it ends.  For the signal handler.
cdef void cache_halt(CpuState* c, Cache* k, u32 index) noexcept nogil
# It has: lead it again where it led before.
cdef void cache_unhalt(CpuState* c, Cache* k) noexcept nogil
