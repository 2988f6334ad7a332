"""Accesses to guest memory by compiled code and devices."""
from ringlet.core.state cimport CpuState, u8, u32, u64
from ringlet.mmu.layout cimport Mmu

cdef int phys_access(CpuState* c, Mmu* m, u64 phys, u8* data, u64 size, bint write) noexcept nogil
cdef int linear_access(CpuState* c, Mmu* m, u64 linear, u8* data, u32 size,
                       u32 access) noexcept nogil
cdef int translate_linear(CpuState* c, Mmu* m, u64 linear, u32 access, u64* phys) noexcept nogil
