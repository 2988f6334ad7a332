"""Windows: filling regions from walks."""
from ringlet.core.state cimport CpuState, u32, u64
from ringlet.mmu.layout cimport Mmu, Region, Walk

cdef bint fill(CpuState* c, Mmu* m, u32 region, Walk* w, bint runs) noexcept nogil
cdef bint mapped_right(Mmu* m, Region* r, Walk* w, bint write) noexcept nogil
cdef int touch(CpuState* c, Mmu* m, u32 region, Walk* w, u32 access, bint runs) noexcept nogil
cdef bint repeats_too_often(Mmu* m, u64 linear, u32 access) noexcept nogil
cdef int shadow_fault(CpuState* c, Mmu* m, u64 host, u32 err, u64* linear) noexcept nogil
cdef int slot_fault(CpuState* c, Mmu* m, u64 linear, u32 access) noexcept nogil
cdef bint slot_open(CpuState* c, Mmu* m, u64 linear) noexcept nogil
cdef void prefill(CpuState* c, Mmu* m, u64 linear, u32 access) noexcept nogil
cdef int fetch_code(CpuState* c, Mmu* m, u64 linear, u64* phys) noexcept nogil
