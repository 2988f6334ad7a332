"""Which fragments are dropped: those of changed bytes, of changed mappings, and the oldest."""
from ringlet.core.state cimport CpuState, u32, u64
from ringlet.cache.codecache cimport Cache

cdef u32 cache_drop_phys(CpuState* c, Cache* k, u64 phys_page) noexcept nogil
cdef void cache_drop_linear(CpuState* c, Cache* k, u64 linear, u64 pages) noexcept nogil
cdef void cache_drop_space(CpuState* c, Cache* k, u32 space) noexcept nogil
# Count a write fault on a page with translations; `now` is the TSC.
cdef void cache_count_write(Cache* k, u64 phys_page, u64 now) noexcept nogil
# Whether a page is written so often that its fragments check their bytes instead of its being
# protected.
cdef bint cache_is_hot(Cache* k, u64 phys_page) noexcept nogil
# Begin a new period: all pages are protected again, and hot only if they are still written.
cdef void cache_cool(CpuState* c, Cache* k) noexcept nogil
# Empty the oldest chunk for new fragments.  Only the run loop may do this, between two fragments.
cdef void cache_make_room(CpuState* c, Cache* k) noexcept nogil
