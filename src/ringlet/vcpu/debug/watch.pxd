"""Data breakpoints and alignment checks, which an access may raise besides page faults."""
from ringlet.core.state cimport CpuState, u32, u64

# DR6.B0-B3 of the breakpoints hit by an instruction fetch, a data access and a port access.
cdef u64 execution_hits(CpuState* c, u64 linear) noexcept nogil
cdef u64 data_hits(CpuState* c, u64 linear, u32 size, bint write) noexcept nogil
cdef u64 port_hits(CpuState* c, u64 port, u32 size) noexcept nogil
cdef void watch(CpuState* c, u64 linear, u32 size, bint write) noexcept nogil
cdef int check_aligned(CpuState* c, u64 linear, u32 size) noexcept nogil
