"""Tables of indirect targets, one for each key in use.

An indirect jump indexes a table by the low 16 bits of its target, and a thunk compares the rest of
the address.  Targets with the same low bits form a series of thunks, the last one to be entered
first: each takes the jumps that are not its own to the next.  Nothing compares the key.  Instead, a
table belongs to one key: the code of a fragment holds the address of its own key's table, and the
table leads to fragments of that key alone.  So a change of key needs no work here, and the tables
of a kernel and its programs stay filled.

There are JUMP_TABLES of them.  A key gets one when its first fragment with an indirect jump is
installed; `codecache.table_for` says what happens when there are more keys than that.
"""
from ringlet.core.state cimport CpuState, BLOCK_JUMPS, JUMP_TABLE_BYTES, JUMP_TABLES, u16, u32, u64
from ringlet.core.template cimport STUB_INDIRECT
from ringlet.cache.codecache cimport Cache, Fragment, NONE, UNDO_SIZE, Undo, lead_thunk
from ringlet.cache.fragment_map cimport cache_fragment_at

cdef enum:
    SERIES = 4     # thunks that have the same low bits, at most


cdef void jumps_create(Cache* k) noexcept nogil:
    cdef u32 i
    for i in range(JUMP_TABLES):
        # Its memory has never been written: the first reset fills it.
        k.tables[i].undo[0].overflow = 1


cdef void undo_clear(Undo* u, u64* t, u64 miss) noexcept nogil:
    """Take a list's entries out of the table."""
    cdef u32 i
    if t != NULL:
        for i in range(u.count):
            t[u.index[i]] = miss
    for i in range(u.count):
        u.listed[u.index[i] >> 6] = 0
    u.count = 0
    u.overflow = 0


cdef void reset(CpuState* c, Cache* k, u32 table, bint low_only) noexcept nogil:
    """Forget the entries that lead to fragments of the lower half, or all."""
    cdef Undo* low = &k.tables[table].undo[0]
    cdef Undo* high = &k.tables[table].undo[1]
    cdef u64* t = table_at(c, table)
    cdef u64 miss = c.stub[STUB_INDIRECT]
    cdef u32 i
    if low.overflow or (high.overflow and not low_only):
        for i in range(65536):
            t[i] = miss
        undo_clear(low, NULL, miss)
        undo_clear(high, NULL, miss)
        return
    undo_clear(low, t, miss)
    if not low_only:
        undo_clear(high, t, miss)


cdef void jumps_assign(CpuState* c, Cache* k, u32 key) noexcept nogil:
    """The tables that belong to a key are the first `n_tables`, or all but `next_table`."""
    cdef u32 table = k.next_table
    reset(c, k, table, False)
    k.tables[table].key = key
    k.table_of[key] = <u64>table_at(c, table)
    k.next_table = (table + 1) % JUMP_TABLES
    k.n_tables += 1


cdef void jumps_release(Cache* k, u32 table) noexcept nogil:
    k.table_of[k.tables[table].key] = 0
    k.n_tables -= 1


cdef void jumps_release_all(Cache* k) noexcept nogil:
    cdef u32 i
    for i in range(k.n_tables):
        k.table_of[k.tables[i].key] = 0
    k.n_tables = 0
    k.next_table = 0


cdef void jumps_set_spaces(CpuState* c, Cache* k, u32 low, u32 high) noexcept nogil:
    cdef bint low_only = high == k.space[1]
    cdef u32 i
    if low == k.space[0] and low_only:
        return
    for i in range(k.n_tables):
        reset(c, k, i, low_only)
    k.space[0] = low
    k.space[1] = high


cdef void jumps_enter(CpuState* c, Cache* k, u32 fragment) noexcept nogil:
    cdef Fragment* f = &k.fragments[fragment]
    cdef u64* table = <u64*>k.table_of[f.key]
    cdef u32 half = <u32>(f.linear >> 63), index = f.rip & 0xFFFF
    cdef Undo* u
    if f.thunk == 0 or f.dead or table == NULL or f.space != k.space[half]:
        return
    u = &k.tables[(<u64>table - c.block - BLOCK_JUMPS) // JUMP_TABLE_BYTES].undo[half]
    if not u.listed[index >> 6] >> (index & 63) & 1:
        if u.count < UNDO_SIZE:
            u.index[u.count] = <u16>index
            u.count += 1
            u.listed[index >> 6] |= <u64>1 << (index & 63)
        else:
            u.overflow = 1
    put_first(c, k, fragment, &table[index])


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
    if f.thunk == 0:
        return
    if k.table_of[f.key]:
        entry = <u64*>k.table_of[f.key] + (f.rip & 0xFFFF)
        if entry[0] == <u64>k.run + f.thunk:
            entry[0] = c.stub[STUB_INDIRECT]
            if f.next_thunk != NONE:
                entry[0] = <u64>k.run + k.fragments[f.next_thunk].thunk
    take_out(k, fragment)
