"""The exits of one fragment, cut to stop a thread that runs translated code.

Translated code does not check whether it has to stop.  When a signal finds the thread in a
fragment, every way out of that fragment, including jumps back to itself, is turned into an exit:
the rest of the fragment runs, and nothing after it.  If the signal finds the thread elsewhere, the
run loop or the entry stub checks `CpuState.attention` next.
"""
from ringlet.core.state cimport CpuState, u8, u32, u64
from ringlet.core.template cimport STUB_INDIRECT, thunk_miss
from ringlet.cache.codecache cimport Cache, Fragment, NONE, lead, lead_thunk, patch

cdef enum:
    JMP_TABLE = 0xCD24FF42   # jmp [r9 * 8 + disp32]
    JMP_REL32 = 0xE9


cdef void exits_cut(CpuState* c, Cache* k, u32 index) noexcept nogil:
    cdef Fragment* f = &k.fragments[index]
    cdef u32 i
    if k.cut == index:
        return
    exits_restore(c, k)
    for i in range(f.links, f.links + f.n_links):
        patch(k, k.links[i].at, k.links[i].stub)
    if f.indirect != NONE:
        k.write[f.indirect] = JMP_REL32
        patch(k, f.indirect + 1, k.stubs.at[STUB_INDIRECT])
    if f.thunk:
        # The thread may be in the thunk, on its way to another one.
        patch(k, f.thunk + thunk_miss(k.write + f.thunk), k.stubs.at[STUB_INDIRECT])
    k.cut = index


cdef void exits_restore(CpuState* c, Cache* k) noexcept nogil:
    cdef u32 i
    cdef Fragment* f
    if k.cut == NONE:
        return
    f = &k.fragments[k.cut]
    for i in range(f.links, f.links + f.n_links):
        lead(k, &k.links[i])
    if f.indirect != NONE:
        (<u32*>(k.write + f.indirect))[0] = JMP_TABLE
        (<u32*>(k.write + f.indirect + 4))[0] = <u32><u64>k.tables[f.table - 1].at
    if f.thunk:
        lead_thunk(k, f)
    k.cut = NONE
