"""Tables of indirect targets, one for each key and address space in use."""
from ringlet.core.state cimport CpuState, JUMP_TABLES, u32, u64
from ringlet.cache.codecache cimport Cache, NONE, table_owner

cdef inline u32 jumps_find(Cache* k, u32 key, u32 space) noexcept nogil:
    """Return the number of the table of a key in an address space, or NONE."""
    cdef u64 owner = table_owner(key, space)
    cdef u32 i
    if k.owners[k.last_table] == owner:
        return k.last_table
    for i in range(JUMP_TABLES):
        if k.owners[i] == owner:
            k.last_table = i
            return i
    return NONE

cdef inline u64 jumps_thunk(CpuState* c, Cache* k, u32 space) noexcept nogil:
    """Return where an indirect jump to RIP, in an address space, leads: a host address that expects
    RIP in r8.

    It is that of STUB_INDIRECT if no fragment is known, or of another's thunk, which may know it,
    and 0 if there is no table.
    """
    cdef u32 table = jumps_find(k, c.key, space)
    if table == NONE:
        return 0
    return k.tables[table].at[c.arch.rip & 0xFFFF]

cdef void jumps_create(CpuState* c, Cache* k) noexcept nogil
cdef void jumps_destroy(Cache* k) noexcept nogil
# Return a table through which no fragment leads, or NONE.
cdef u32 jumps_unused(Cache* k) noexcept nogil
# Give a table, through which no fragment leads, to a key in an address space.
cdef void jumps_assign(CpuState* c, Cache* k, u32 table, u32 key, u32 space) noexcept nogil
# Take all tables away; there is no fragment.
cdef void jumps_release_all(Cache* k) noexcept nogil
# Let indirect jumps under the same key and in the same address space reach the fragment's thunk.
cdef void jumps_enter(CpuState* c, Cache* k, u32 fragment) noexcept nogil
# Let no jump reach the fragment's thunk.
cdef void jumps_leave(CpuState* c, Cache* k, u32 fragment) noexcept nogil
