"""Host faults of translated code, turned into what they mean for the guest."""
from ringlet.core.state cimport CpuState, u64
from ringlet.core.signals cimport HostFault

cdef int handle_fault(CpuState* c, HostFault* f) noexcept nogil
cdef u64 x87_pointer(CpuState* c, u64 host, int data) noexcept nogil
