"""Maps host addresses in translated code to the guest instructions they come from."""
from ringlet.core.state cimport u32, u64
from ringlet.cache.codecache cimport (
    CHUNK_BYTES, CHUNK_FRAGMENTS, Cache, Fragment, NONE, page_hash)

# The fragment whose translation holds cache offset `host`, or NONE.
cdef u32 cache_fragment_at(Cache* k, u32 host) noexcept nogil
# Guest offset in the fragment of the instruction at cache offset `host`; *start is the cache offset
# where its translation begins.
cdef u32 cache_guest_offset(Cache* k, Fragment* f, u32 host, u32* start) noexcept nogil
# 1: `host` is the first byte of an instruction's translation.
cdef bint cache_is_boundary(Cache* k, Fragment* f, u32 host, u32* guest) noexcept nogil
# Mark in a bitmap the bytes of a guest physical page that are in instructions that were translated,
# but do not begin one of them.  False: nothing on it was.
cdef bint cache_inner_bytes(Cache* k, u64 phys_page, u64* inner) noexcept nogil
