"""Regions and their owners: the arena, the slot tables, eviction."""
from ringlet.core.state cimport CpuState, u32, u64
from ringlet.mmu.layout cimport Mmu, Region

cdef int arena_create(CpuState* c, Mmu* m) except -1
cdef void arena_destroy(Mmu* m) noexcept
cdef u32 region_take(CpuState* c, Mmu* m, u32 slot, bint user, bint kernel) noexcept nogil
cdef void region_split(CpuState* c, Mmu* m, u32 region) noexcept nogil
cdef u32 region_of_host(CpuState* c, Mmu* m, u64 host) noexcept nogil
cdef void install(CpuState* c, Mmu* m, u32 owner) noexcept nogil
cdef void uninstall(CpuState* c, Mmu* m, u32 owner) noexcept nogil
cdef void evict(CpuState* c, Mmu* m, u32 owner) noexcept nogil
cdef u32 oldest(Mmu* m, u32 low, u32 high) noexcept nogil
cdef void make_room(CpuState* c, Mmu* m) noexcept nogil
cdef u32 direct_region(Mmu* m, u32 slot) noexcept nogil
cdef u32 direct_region_take(CpuState* c, Mmu* m, u32 slot) noexcept nogil
cdef u32 oldest_direct(Mmu* m) noexcept nogil
cdef void leave_direct(CpuState* c, Mmu* m, u32 owner) noexcept nogil
cdef void region_share(CpuState* c, Mmu* m, u32 region) noexcept nogil
cdef void name_anew(Mmu* m, u32 owner) noexcept nogil
cdef void strip(CpuState* c, Mmu* m, u32 owner) noexcept nogil
