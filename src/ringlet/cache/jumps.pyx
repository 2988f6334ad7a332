"""Tables of indirect targets, one for each key and address space in use.

An indirect jump indexes a table by the low 16 bits of its target, and a thunk compares the rest of
the address.  Targets with the same low bits form a series of thunks, the last one to be entered
first: each takes the jumps that are not its own to the next.  Nothing compares the key or the
address space.  Instead, a table belongs to one key in one address space (for the upper half, which
many share, in one of its identities): the code of a fragment holds the address of its own table,
and the table leads to fragments of that key and space alone.  So a change of either needs no work
here, and the tables of a kernel and its programs stay filled.  A jump from one half to the other
leaves the code cache.

There are up to JUMP_TABLES of them.  A key gets one when its first fragment with an indirect jump
is installed in a space; `codecache.table_for` says what happens when more are wanted.
"""
from ringlet.core.host cimport host_map_low, host_unmap
from ringlet.core.state cimport (
    BLOCK_JUMPS, BLOCK_TABLES, CpuState, JUMP_TABLE_BYTES, JUMP_TABLES, u16, u32, u64)
from ringlet.core.template cimport STUB_INDIRECT
from ringlet.cache.codecache cimport (
    Cache, Fragment, JumpTable, NOBODY, NONE, UNDO_SIZE, lead_thunk, table_owner)
from ringlet.cache.fragment_map cimport cache_fragment_at

cdef enum:
    SERIES = 4     # thunks that have the same low bits, at most


cdef void jumps_create(CpuState* c, Cache* k) noexcept nogil:
    cdef u32 i
    for i in range(JUMP_TABLES):
        if i < BLOCK_TABLES:
            k.tables[i].at = <u64*>(c.block + BLOCK_JUMPS + <u64>i * JUMP_TABLE_BYTES)
        k.owners[i] = NOBODY
        # Its memory has never been written: the first reset fills it.
        k.tables[i].overflow = 1


cdef void jumps_destroy(Cache* k) noexcept nogil:
    cdef u32 i
    for i in range(BLOCK_TABLES, JUMP_TABLES):
        host_unmap(k.tables[i].at, JUMP_TABLE_BYTES)


cdef void reset(CpuState* c, Cache* k, u32 table) noexcept nogil:
    """Forget all entries of a table."""
    cdef JumpTable* j = &k.tables[table]
    cdef u64* t = j.at
    cdef u64 miss = c.stub[STUB_INDIRECT]
    cdef u32 i
    if j.overflow:
        for i in range(65536):
            t[i] = miss
    for i in range(j.count):
        t[j.index[i]] = miss
        j.listed[j.index[i] >> 6] = 0
    j.count = 0
    j.overflow = 0


cdef u32 jumps_unused(Cache* k) noexcept nogil:
    cdef u32 i, unused = NONE
    for i in range(JUMP_TABLES):
        if k.tables[i].at == NULL:
            if unused != NONE:
                return unused
            k.tables[i].at = <u64*>host_map_low(JUMP_TABLE_BYTES)
            # Without room for another one, those that there are serve in turn.
            return i if k.tables[i].at != NULL else NONE
        if k.owners[i] == NOBODY:
            return i
        if not k.tables[i].users:
            unused = i
    return unused


cdef void jumps_assign(CpuState* c, Cache* k, u32 table, u32 key, u32 space) noexcept nogil:
    reset(c, k, table)
    k.owners[table] = table_owner(key, space)


cdef void jumps_release_all(Cache* k) noexcept nogil:
    cdef u32 i
    for i in range(JUMP_TABLES):
        k.owners[i] = NOBODY
        k.tables[i].users = 0


cdef void jumps_enter(CpuState* c, Cache* k, u32 fragment) noexcept nogil:
    cdef Fragment* f = &k.fragments[fragment]
    cdef u32 table, index = f.rip & 0xFFFF
    cdef JumpTable* j
    if f.thunk == 0 or f.dead:
        return
    table = jumps_find(k, f.key, f.space)
    if table == NONE:
        return
    j = &k.tables[table]
    if not j.listed[index >> 6] >> (index & 63) & 1:
        if j.count < UNDO_SIZE:
            j.index[j.count] = <u16>index
            j.count += 1
            j.listed[index >> 6] |= <u64>1 << (index & 63)
        else:
            j.overflow = 1
    put_first(c, k, fragment, &j.at[index])


cdef void put_first(CpuState* c, Cache* k, u32 fragment, u64* entry) noexcept nogil:
    """Put a thunk before the series of thunks at an entry of a table."""
    cdef Fragment* f = &k.fragments[fragment]
    cdef u64 own = <u64>k.run + f.thunk
    cdef u32 first, last, i
    if entry[0] == own:
        return
    take_out(k, fragment)
    if entry[0] != c.stub[STUB_INDIRECT]:
        first = cache_fragment_at(k, <u32>(entry[0] - <u64>k.run))
        follow(k, fragment, first)
    entry[0] = own
    last = fragment
    for i in range(SERIES - 1):
        last = k.fragments[last].next_thunk
        if last == NONE:
            return
    follow(k, last, NONE)


cdef void follow(Cache* k, u32 fragment, u32 next_one) noexcept nogil:
    """Let a thunk lead to another one, which none leads to, or to none."""
    cdef Fragment* f = &k.fragments[fragment]
    if f.next_thunk != NONE:
        k.fragments[f.next_thunk].prev_thunk = NONE
    f.next_thunk = next_one
    if next_one != NONE:
        k.fragments[next_one].prev_thunk = fragment
    lead_thunk(k, f)


cdef void take_out(Cache* k, u32 fragment) noexcept nogil:
    """Let the thunk before another one lead to the one behind it."""
    cdef u32 before = k.fragments[fragment].prev_thunk, behind = k.fragments[fragment].next_thunk
    if behind != NONE:
        follow(k, fragment, NONE)
    if before != NONE:
        follow(k, before, NONE)
        if behind != NONE:
            follow(k, before, behind)


cdef void jumps_leave(CpuState* c, Cache* k, u32 fragment) noexcept nogil:
    cdef Fragment* f = &k.fragments[fragment]
    cdef u64* entry
    cdef u32 table
    if f.thunk == 0:
        return
    table = jumps_find(k, f.key, f.space)
    if table != NONE:
        entry = &k.tables[table].at[f.rip & 0xFFFF]
        if entry[0] == <u64>k.run + f.thunk:
            entry[0] = c.stub[STUB_INDIRECT]
            if f.next_thunk != NONE:
                entry[0] = <u64>k.run + k.fragments[f.next_thunk].thunk
    take_out(k, fragment)
