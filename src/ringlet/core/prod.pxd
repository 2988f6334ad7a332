"""Making a thread look up from translated code."""
from ringlet.core.state cimport CpuState

# Make the virtual processor come to a safepoint; any thread may.
cdef void request_stop(CpuState* c) noexcept nogil
# The timer of `c` shall signal the calling thread from now on.
cdef int prod_attach(CpuState* c) except -1
cdef void prod_detach(CpuState* c) noexcept
# Signal the thread in a moment, unless it comes out before and disarms; any thread may.
cdef void prod_arm(CpuState* c) noexcept nogil
cdef void prod_disarm(CpuState* c) noexcept nogil
