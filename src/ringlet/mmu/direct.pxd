"""Windows in direct processes: page faults there, and what they may execute."""
from ringlet.core.state cimport CpuState, u32, u64
from ringlet.mmu.layout cimport Mmu

cdef int direct_fault(CpuState* c, Mmu* m, u64 linear, u32 access) noexcept nogil
cdef void direct_prefill(CpuState* c, Mmu* m, u64 linear, u32 access) noexcept nogil
