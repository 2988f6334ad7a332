"""Which address spaces run their code of CPL 3 directly."""
from ringlet.core.state cimport CpuState

# CPL 3 is entered: decide how it goes on.
cdef void policy_returns(CpuState* c) noexcept nogil
# An interrupt is accepted.
cdef void policy_interrupt(CpuState* c) noexcept nogil
# It cannot serve this space.
cdef void policy_refused(CpuState* c) noexcept nogil
