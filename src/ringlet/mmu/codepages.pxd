"""Pages of guest RAM that translations come from: never writable in a window."""
from ringlet.core.state cimport CpuState, u64
from ringlet.mmu.layout cimport Mmu, Region

cdef bint is_code(Mmu* m, u64 offset) noexcept nogil
cdef void protect_code(CpuState* c, Mmu* m, u64 phys) noexcept nogil
cdef void unprotect_code(CpuState* c, Mmu* m, u64 phys) noexcept nogil
cdef void about_to_write(CpuState* c, Mmu* m, u64 phys) noexcept nogil
cdef void protect_run(Mmu* m, Region* r, u64 linear, u64 offset, u64 size) noexcept nogil
