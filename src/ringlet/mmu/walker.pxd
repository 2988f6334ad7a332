"""Walks of the guest's paging structures."""
from ringlet.core.state cimport CpuState, u32, u64
from ringlet.mmu.layout cimport Mmu, Walk

cdef u32 physical_bits(CpuState* c) noexcept nogil
cdef void read_paging_mode(CpuState* c, Mmu* m) noexcept nogil
cdef bint load_pdptes(CpuState* c, Mmu* m) noexcept nogil
cdef bint walk(CpuState* c, Mmu* m, u64 linear, Walk* w) noexcept nogil
cdef bint allowed(Mmu* m, Walk* w, u32 access) noexcept nogil
cdef void mark_used(Mmu* m, Walk* w, bint dirty) noexcept nogil
cdef int resolve(CpuState* c, Mmu* m, u64 linear, u32 access, Walk* w) noexcept nogil
