"""A moment at which a virtual processor is stopped."""
from ringlet.core.state cimport CpuState, i64

# Stop it (`CpuState.stop`) at `due`, in ns of CLOCK_MONOTONIC, in place of what was set before;
# 0: not at all.
cdef int alarm_set(CpuState* c, i64 due) except -1
# Nothing rings any more.
cdef void alarm_destroy(CpuState* c) noexcept
