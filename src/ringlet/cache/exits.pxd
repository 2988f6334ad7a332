"""The exits of one fragment, cut to stop a thread that runs translated code."""
from ringlet.core.state cimport CpuState, u32
from ringlet.cache.codecache cimport Cache

# Make fragment `index`, in which the thread is, leave at every one of its ends.  The signal handler
# calls this.
cdef void exits_cut(CpuState* c, Cache* k, u32 index) noexcept nogil
# Restore the ends of that fragment, after it has left.
cdef void exits_restore(CpuState* c, Cache* k) noexcept nogil
