"""Which address spaces run their code of CPL 3 directly."""
from ringlet.core.state cimport CpuState, u64

# CPL 3 is entered: decide how it goes on.
cdef void policy_returns(CpuState* c) noexcept nogil
# An interrupt is accepted.
cdef void policy_interrupt(CpuState* c) noexcept nogil
# The direct process ran for `ticks` of the TSC, with the switches there and back.
cdef void policy_ran(CpuState* c, u64 ticks) noexcept nogil
# It cannot serve this space.
cdef void policy_refused(CpuState* c) noexcept nogil
