"""Host faults of translated code, and what they mean for the guest."""
from ringlet.core.state cimport CpuState, u8, u32, u64
from ringlet.core.signals cimport HostFault
from ringlet.cache.codecache cimport Fragment

# Read 16 guest bytes from offset `guest` of the fragment; False: there is no RAM there any more.
cdef bint guest_bytes(CpuState* c, Fragment* frag, u32 guest, u8* out) noexcept nogil
# CpuState.fpu_pointer (ringlet.vcpu.system.fpstate).
cdef u64 fpu_pointer(CpuState* c, u64 host, int data) noexcept nogil
cdef int handle_fault(CpuState* c, HostFault* f) noexcept nogil
