"""Host faults of translated code, turned into what they mean for the guest."""
from ringlet.core.state cimport CpuState
from ringlet.core.signals cimport HostFault

cdef int handle_fault(CpuState* c, HostFault* f) noexcept nogil
