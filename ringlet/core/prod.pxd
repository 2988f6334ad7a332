"""Making a thread look up from translated code, now or at a moment set before."""
from ringlet.core.state cimport CpuState, i64

# Make the virtual processor come to a safepoint; any thread may.
cdef void request_stop(CpuState* c) noexcept nogil
# Stop it (`CpuState.stop`) at `due`, in ns of CLOCK_MONOTONIC; 0: not at all.  The thread that runs
# it may call this.
cdef void alarm_set(CpuState* c, i64 due) noexcept
# Stop it if that moment has come: True.
cdef bint alarm_look(CpuState* c) noexcept nogil

# The timers of `c` shall signal the calling thread from now on.
cdef int prod_attach(CpuState* c) except -1
cdef void prod_detach(CpuState* c) noexcept
# Signal the thread in a moment, unless it comes out before and disarms; any thread may.
cdef void prod_arm(CpuState* c) noexcept nogil
cdef void prod_disarm(CpuState* c) noexcept nogil
