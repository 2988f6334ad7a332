"""Maps host addresses in translated code to the guest instructions they come from."""
from ringlet.core.state cimport *
from ringlet.core.template cimport MapEntry


cdef u32 cache_fragment_at(Cache* k, u32 host) noexcept nogil:
    cdef u32 chunk = host // CHUNK_BYTES
    cdef u32 first = chunk * CHUNK_FRAGMENTS
    cdef u32 low = first, high, mid
    if host >= k.size:
        return NONE
    high = k.chunks[chunk].n_fragments
    while low < high:
        mid = (low + high) >> 1
        if k.fragments[mid].host <= host:
            low = mid + 1
        else:
            high = mid
    if low == first:
        return NONE
    low -= 1
    if host >= k.fragments[low].host + k.fragments[low].size:
        return NONE
    return low


cdef u32 cache_guest_offset(Cache* k, Fragment* f, u32 host, u32* start) noexcept nogil:
    cdef MapEntry* m = k.map + f.map
    cdef u32 low = 0, high = f.n_map, mid, guest
    host -= f.host
    while low < high:
        mid = (low + high) >> 1
        if m[mid].host <= host:
            low = mid + 1
        else:
            high = mid
    guest = m[low - 1].guest if low else 0
    for mid in range(f.n_map):
        # The thunk shares guest offset 0 with the first instruction, which begins at the body.
        if m[mid].guest == guest and f.host + m[mid].host >= f.body:
            start[0] = f.host + m[mid].host
            return guest
    start[0] = f.body
    return guest


cdef bint cache_is_boundary(Cache* k, Fragment* f, u32 host, u32* guest) noexcept nogil:
    cdef MapEntry* m = k.map + f.map
    cdef u32 i
    host -= f.host
    for i in range(f.n_map):
        if m[i].host == host and (i == 0 or m[i - 1].guest != m[i].guest or m[i].guest == 0):
            guest[0] = m[i].guest
            return True
    return False


cdef inline void mark_inner(Fragment* f, u64 phys_page, u32 first, u32 last,
                            u64* inner) noexcept nogil:
    """Mark the bytes of a fragment between two offsets that are on a page."""
    cdef u32 i, at
    for i in range(first, last):
        at = <u32>(f.rip + i) & 4095
        if f.phys[1 if at < (f.rip & 4095) else 0] == phys_page:
            inner[at >> 6] |= <u64>1 << (at & 63)


cdef bint cache_inner_bytes(Cache* k, u64 phys_page, u64* inner) noexcept nogil:
    cdef bint known = False
    cdef u32 node = k.phys_hash[page_hash(phys_page >> 12)]
    cdef Fragment* f
    cdef MapEntry* m
    cdef u32 i, last
    while node != NONE:
        f = &k.fragments[node >> 1]
        if f.phys[node & 1] == phys_page and not f.dead:
            known = True
            m = k.map + f.map
            for i in range(f.n_map):
                last = m[i + 1].guest if i + 1 < f.n_map else f.guest_bytes
                mark_inner(f, phys_page, m[i].guest + 1, last, inner)
        node = f.next_phys[node & 1]
    return known
