"""Which fragments are dropped: those of changed bytes, of changed mappings, and the oldest."""
from ringlet.core.state cimport CpuState, KEY_MODE64, u8, u16, u32, u64
from ringlet.cache.codecache cimport (
    BURST_TICKS, CHUNK_FRAGMENTS, HOT_AGAIN, HOT_BURST, HOT_SIZE, HOT_WRITES, MAX_HOT, NONE,
    PAGE_HASH_SIZE, Cache, Fragment, cache_drop, chunk_reset, fragment_after, page_hash)


cdef u32 cache_drop_phys(CpuState* c, Cache* k, u64 phys_page) noexcept nogil:
    """Drop what was translated from a guest physical page.  Return the number of fragments."""
    cdef u32* p = &k.phys_hash[page_hash(phys_page >> 12)]
    cdef u32 node, n = 0
    cdef Fragment* f
    while p[0] != NONE:
        node = p[0]
        f = &k.fragments[node >> 1]
        if f.phys[node & 1] == phys_page or f.dead:
            if not f.dead:
                n += 1
                cache_drop(c, k, node >> 1)
            p[0] = f.next_phys[node & 1]
            continue
        p = &f.next_phys[node & 1]
    return n


cdef u64 LAST_PAGE32 = 0xFFFFF       # of 4 GiB: code goes on at page 0


cdef inline bint touches(Fragment* f, u64 first, u64 last) noexcept nogil:
    """Whether it has bytes in [first, last]; those of 16- and 32-bit code wrap around at 4 GiB."""
    cdef u64 end = f.linear + f.guest_bytes - 1
    if not f.key & KEY_MODE64 and end >> 32:
        return f.linear <= last or <u32>end >= first
    return f.linear <= last and end >= first


cdef void drop_linear_page(CpuState* c, Cache* k, u64 page, u64 first, u64 last) noexcept nogil:
    """Drop fragments listed under linear page number `page` that touch [first, last]."""
    cdef u32* p = &k.linear_hash[page_hash(page)]
    cdef u32 index
    cdef Fragment* f
    while p[0] != NONE:
        index = p[0]
        f = &k.fragments[index]
        if f.dead:
            p[0] = f.next_linear
            continue
        if f.linear >> 12 == page and touches(f, first, last):
            cache_drop(c, k, index)
            p[0] = f.next_linear
            continue
        p = &f.next_linear


cdef void cache_drop_linear(CpuState* c, Cache* k, u64 linear, u64 pages) noexcept nogil:
    """The mapping of `pages` pages from `linear` changed: drop what was fetched through it.

    The fragments of all address spaces at these addresses are dropped, though only those of the
    current one have to be.
    """
    cdef u64 page = linear >> 12, i
    cdef u64 last = (linear & ~<u64>0xFFF) + (pages << 12) - 1
    cdef u32 index
    cdef Fragment* f
    if pages > 4096:
        index = fragment_after(k, NONE)
        while index != NONE:
            f = &k.fragments[index]
            if not f.dead and touches(f, page << 12, last):
                cache_drop(c, k, index)
            index = fragment_after(k, index)
        return
    drop_linear_page(c, k, page - 1 if page else LAST_PAGE32, page << 12, last)
    for i in range(pages):
        drop_linear_page(c, k, page + i, page << 12, last)


cdef void cache_drop_space(CpuState* c, Cache* k, u32 space) noexcept nogil:
    cdef u32 i = fragment_after(k, NONE)
    while i != NONE:
        if k.fragments[i].space == space:
            cache_drop(c, k, i)
        i = fragment_after(k, i)


# --- hot pages

cdef bint cache_is_hot(Cache* k, u64 phys_page) noexcept nogil:
    cdef u32 i
    if k.writes[(phys_page >> 12) & (HOT_SIZE - 1)] < HOT_WRITES:
        return False
    for i in range(k.n_hot):
        if k.hot[i] == phys_page:
            return True
    return False


cdef void cache_count_write(Cache* k, u64 phys_page, u64 now) noexcept nogil:
    """Faults that are rare cost less than fragments that check themselves."""
    cdef u32 slot = (phys_page >> 12) & (HOT_SIZE - 1)
    cdef u8* writes = &k.writes[slot]
    cdef u16* burst = &k.bursts[slot]
    cdef u16 number = <u16>(now >> BURST_TICKS << 4)
    if burst[0] >> 4 != number >> 4:
        burst[0] = number
    if writes[0] < HOT_WRITES:
        writes[0] += 1
        burst[0] += 1
        if (burst[0] & 15) >= HOT_BURST:
            writes[0] = HOT_WRITES
    if writes[0] == HOT_WRITES and k.n_hot < MAX_HOT and not cache_is_hot(k, phys_page):
        k.hot[k.n_hot] = phys_page
        k.n_hot += 1


cdef void cache_cool(CpuState* c, Cache* k) noexcept nogil:
    """Begin a new period.  A page that was hot once, as in a kernel that patches itself while it
    boots, should not be checked for ever."""
    cdef u32 i
    for i in range(HOT_SIZE >> 3):
        (<u64*>k.writes)[i] = 0
    for i in range(k.n_hot):
        k.writes[(k.hot[i] >> 12) & (HOT_SIZE - 1)] = HOT_AGAIN
        cache_drop_phys(c, k, k.hot[i])
    k.n_hot = 0


# --- the oldest chunk

cdef void forget_freed(Cache* k) noexcept nogil:
    """Take dropped fragments out of the lists of pages."""
    cdef u32 i
    cdef u32* p
    cdef Fragment* f
    for i in range(PAGE_HASH_SIZE):
        p = &k.linear_hash[i]
        while p[0] != NONE:
            f = &k.fragments[p[0]]
            if f.dead:
                p[0] = f.next_linear
            else:
                p = &f.next_linear
        p = &k.phys_hash[i]
        while p[0] != NONE:
            f = &k.fragments[p[0] >> 1]
            if f.dead:
                p[0] = f.next_phys[p[0] & 1]
            else:
                p = &f.next_phys[p[0] & 1]


cdef void cache_make_room(CpuState* c, Cache* k) noexcept nogil:
    cdef u32 chunk = (k.filling + 1) % k.n_chunks
    cdef u32 first = chunk * CHUNK_FRAGMENTS, i
    k.filling = chunk
    if k.chunks[chunk].n_fragments == first:
        return
    for i in range(first, k.chunks[chunk].n_fragments):
        cache_drop(c, k, i)
    forget_freed(k)
    if k.cut != NONE and k.cut // CHUNK_FRAGMENTS == chunk:
        k.cut = NONE
    chunk_reset(k, chunk)
    k.generation += 1
    c.n_flushes += 1
