"""The code pages of guest RAM in this processor's windows: never writable there."""
from ringlet.core.state cimport CpuState, u32, u64
from ringlet.mmu.layout cimport Mmu, Region

cdef void set_page_rights(CpuState* c, u64 phys_page, bint writable) noexcept nogil
cdef void protect_run(Mmu* m, Region* r, u64 linear, u64 phys, u64 size,
                      u32 rights) noexcept nogil
