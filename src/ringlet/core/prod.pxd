"""Stop requests, which make a thread leave translated code."""
from ringlet.core.state cimport CpuState

# Make the virtual processor come to a safepoint; any thread may call this.
cdef void request_stop(CpuState* c) noexcept nogil
# Let the timer of `c` signal the calling thread from now on.
cdef int prod_attach(CpuState* c) except -1
cdef void prod_detach(CpuState* c) noexcept
# Signal the thread after a short time, unless it leaves and disarms the timer before that.  Any
# thread may call this.
cdef void prod_arm(CpuState* c) noexcept nogil
cdef void prod_disarm(CpuState* c) noexcept nogil
