"""Tables of indirect targets, one for each key in use."""
from ringlet.core.state cimport CpuState, BLOCK_JUMPS, JUMP_TABLE_BYTES, u32, u64
from ringlet.cache.codecache cimport Cache

cdef inline u64* table_at(CpuState* c, u32 table) noexcept nogil:
    return <u64*>(c.block + <u64>BLOCK_JUMPS + <u64>table * JUMP_TABLE_BYTES)

cdef inline u64 jumps_thunk(CpuState* c, Cache* k) noexcept nogil:
    """Return where an indirect jump to RIP leads: a host address that expects RIP in r8.

    It is that of STUB_INDIRECT if no fragment is known, or of another's thunk, which may know it,
    and 0 if the processor's key has no table.
    """
    cdef u64* table = <u64*>k.table_of[c.key]
    if table == NULL:
        return 0
    return table[c.arch.rip & 0xFFFF]

cdef void jumps_create(Cache* k) noexcept nogil
# Give a key a table that belongs to no key.  There must be one.
cdef void jumps_assign(CpuState* c, Cache* k, u32 key) noexcept nogil
# Take a table from its key.  No fragment that leads through it may run again.
cdef void jumps_release(Cache* k, u32 table) noexcept nogil
cdef void jumps_release_all(Cache* k) noexcept nogil
# Let indirect jumps under the same key reach the fragment's thunk.
cdef void jumps_enter(CpuState* c, Cache* k, u32 fragment) noexcept nogil
# Let no jump reach the fragment's thunk.
cdef void jumps_leave(CpuState* c, Cache* k, u32 fragment) noexcept nogil
# Note the identities of the two halves of the address space, and forget the entries for others.
cdef void jumps_set_spaces(CpuState* c, Cache* k, u32 low, u32 high) noexcept nogil
