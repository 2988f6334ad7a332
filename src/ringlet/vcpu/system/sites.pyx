"""Sites: instructions that have met devices, and are translated as accesses to them.

An instruction becomes a site when it has met a device twice.  A site that meets only RAM for some
time is translated plainly again, and must then meet devices more often before it becomes a site
once more: an instruction that serves both costs little either way.

Sites are known by their linear addresses.  A site only says how to translate what is found there,
and both translations are exact, so other code at the same address does no harm.
"""
from libc.stdlib cimport calloc, free
from ringlet.core.state cimport CpuState, u8, u32, u64

cdef enum:
    SITES = 1024
    WAYS = 8                  # entries that a site can have
    RELUCTANCE = 3            # so many of four do not take an entry of another
    FILTER_BITS = 10
    FILTER_WORDS = 16
    MEETINGS = 2              # faults at devices that make a site
    MEETINGS_MAX = 4096
    RAM_IN_A_ROW = 64         # accesses to RAM that end one

cdef struct Site:
    u64 linear
    u32 needed                # faults that make it a site; 0: an empty entry
    u32 met                   # faults so far
    u32 ram                   # accesses to RAM since the last one to a device
    u32 direct                # it is a site

cdef struct Sites:
    u64 pages[FILTER_WORDS]   # a bit for each hash of a page that has sites
    u32 next                  # the way that is taken next where all are in use
    Site site[SITES]


cdef inline u32 hashed(u64 value) noexcept nogil:
    return <u32>((value * <u64>0x9E3779B97F4A7C15) >> (64 - FILTER_BITS))


cdef int sites_create(CpuState* c) except -1:
    c.sites = calloc(1, sizeof(Sites))
    if c.sites == NULL:
        raise MemoryError("sites of device accesses")
    return 0


cdef void sites_destroy(CpuState* c) noexcept:
    free(c.sites)
    c.sites = NULL


cdef Site* find(Sites* s, u64 linear) noexcept nogil:
    """Return the entry of an instruction, or NULL."""
    cdef Site* ways = &s.site[hashed(linear) & (SITES - WAYS)]
    cdef u32 i
    for i in range(WAYS):
        if ways[i].linear == linear and ways[i].needed:
            return &ways[i]
    return NULL


cdef Site* take(Sites* s, u64 linear) noexcept nogil:
    """Return a new entry, or NULL.  A site that loses its own is one until its translation goes.

    Where all are in use one is taken only sometimes, or many instructions in turn would forget each
    other before any of them has met a device twice.
    """
    cdef Site* ways = &s.site[hashed(linear) & (SITES - WAYS)]
    cdef Site* taken
    cdef u32 i
    s.next += 1
    taken = &ways[s.next // (RELUCTANCE + 1) & (WAYS - 1)]
    for i in range(WAYS):
        if taken.direct and not ways[i].direct:
            taken = &ways[i]
    for i in range(WAYS):
        if taken.needed and not ways[i].needed:
            taken = &ways[i]
    if taken.needed and s.next & RELUCTANCE:
        return NULL
    taken.linear = linear
    taken.needed = MEETINGS
    taken.met = taken.ram = taken.direct = 0
    return taken


cdef void note_pages(Sites* s) noexcept nogil:
    cdef u32 i, bit
    for i in range(FILTER_WORDS):
        s.pages[i] = 0
    for i in range(SITES):
        if s.site[i].direct:
            bit = hashed(s.site[i].linear >> 12)
            s.pages[bit >> 6] |= <u64>1 << (bit & 63)


cdef bint site_met(CpuState* c, u64 linear) noexcept nogil:
    cdef Sites* s = <Sites*>c.sites
    cdef Site* site = find(s, linear)
    if site == NULL:
        site = take(s, linear)
    if site == NULL:
        return False
    if site.direct:
        return True
    site.met += 1
    if site.met < site.needed:
        return False
    site.met = site.ram = 0
    site.direct = 1
    c.n_device_sites += 1
    note_pages(s)
    return True


cdef void site_device(CpuState* c, u64 linear) noexcept nogil:
    cdef Site* site = find(<Sites*>c.sites, linear) if c.sites != NULL else NULL
    if site != NULL:
        site.ram = 0


cdef bint site_ram(CpuState* c, u64 linear) noexcept nogil:
    cdef Site* site
    if c.sites == NULL:
        return False
    site = find(<Sites*>c.sites, linear)
    if site == NULL or not site.direct:
        return True               # another one has taken its entry, or has ended it
    site.ram += 1
    if site.ram < RAM_IN_A_ROW:
        return False
    site.direct = 0
    site.needed = 4 * site.needed if site.needed < MEETINGS_MAX else <u32>MEETINGS_MAX
    c.n_device_ends += 1
    note_pages(<Sites*>c.sites)
    return True


cdef bint sites_of(CpuState* c, u64 page, u64* offsets) noexcept nogil:
    cdef Sites* s = <Sites*>c.sites
    cdef u32 i, bit = hashed(page >> 12)
    cdef bint found = False
    if s == NULL or not s.pages[bit >> 6] >> (bit & 63) & 1:
        return False
    for i in range(64):
        offsets[i] = 0
    for i in range(SITES):
        if s.site[i].direct and s.site[i].linear >> 12 == page >> 12:
            offsets[s.site[i].linear >> 6 & 63] |= <u64>1 << (s.site[i].linear & 63)
            found = True
    return found
