"""Changes of the host's mappings inside regions."""
from ringlet.core.state cimport u32, u64
from ringlet.mmu.layout cimport Mmu, Region

cdef bint window_map(Mmu* m, Region* r, u64 linear, u64 phys, u64 size, u64 room,
                     u32 rights) noexcept nogil
cdef void window_unmap(Mmu* m, Region* r, u64 linear, u64 size) noexcept nogil
cdef void window_protect(Mmu* m, Region* r, u64 linear, u64 size, u32 rights) noexcept nogil
cdef void settle(Mmu* m, Region* r) noexcept nogil
