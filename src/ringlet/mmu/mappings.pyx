"""Changes of the host's mappings inside regions: plain system calls and their count.

The host allows a process a number of mappings.  Each system call here adds at most two; and a
region can hold no more than two for every leaf or hole in it (and one).  `maps` is the lower of
these two bounds, so it is never less than what the host counts.

A page costs the host twice as much to map as to give its rights back.  Guests touch memory in
sequence, and their kernels hand it out in sequence: where a mapping goes on from the last one in
both spaces, pages behind it are mapped with it, but without any right of access.  If the guest's
tables come to say the same of them, that is one mprotect.  They are a guess and no part of what is
recorded; there is one such range at a time, counted as a hole of its region.  Populating them may
allocate RAM, so there are never more of them than the sequence has had pages.
"""
from libc.stdlib cimport abort
from posix.mman cimport (
    mmap, mprotect, munmap, MAP_ANONYMOUS, MAP_FAILED, MAP_FIXED, MAP_NORESERVE, MAP_PRIVATE,
    MAP_SHARED, PROT_NONE, PROT_READ, PROT_WRITE)

from ringlet.core.state cimport u8, u32, u64
from ringlet.mmu.layout cimport AHEAD_MAX, BALLAST, Mmu, POPULATE_MAX, Region
from ringlet.mmu.pages cimport PAGE_SHIFT, PAGE_SIZE
from ringlet.mmu.ram cimport Extent

cdef extern from "<sys/mman.h>" nogil:
    int MAP_POPULATE


cdef void settle(Mmu* m, Region* r) noexcept nogil:
    """Lower the count of a region's mappings to what its leaves can make."""
    cdef u32 bound = 2 * (r.small + r.large + r.holes) + 1
    if r.maps > bound:
        m.maps -= r.maps - bound
        r.maps = bound


cdef bint ballast_take(Mmu* m) noexcept nogil:
    """Make mappings of no use.  Where the host has none left it refuses even the call that would
    replace many by one; throwing these off makes room for it."""
    cdef u8* base
    cdef u32 i
    if m.ballast:
        return True
    base = <u8*>mmap(NULL, BALLAST * PAGE_SIZE, PROT_NONE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    if <void*>base == MAP_FAILED:
        return False
    m.ballast = <u64>base
    for i in range(1, BALLAST, 2):
        if mprotect(base + i * PAGE_SIZE, PAGE_SIZE, PROT_READ) != 0:
            return False
    return True


cdef bint ballast_drop(Mmu* m) noexcept nogil:
    if not m.ballast:
        return False
    munmap(<void*>m.ballast, BALLAST * PAGE_SIZE)
    m.ballast = 0
    return True


cdef inline void count_two(Mmu* m, Region* r) noexcept nogil:
    r.maps += 2
    m.maps += 2


cdef inline void* host_address(Region* r, u64 linear) noexcept nogil:
    return <void*>(r.base + (linear - r.linear))


cdef bint replace(Mmu* m, Region* r, u64 linear, u64 size, int prot, int flags,
                  u64 phys) noexcept nogil:
    cdef Extent* e = &m.ram.extents[0]
    cdef u64 offset = 0
    cdef int fd = -1
    if not flags & MAP_ANONYMOUS:
        if phys >> 32:
            e += 1
        fd = e.fd
        offset = e.offset + phys - (e.frame << PAGE_SHIFT)
    while mmap(host_address(r, linear), size, prot, flags | MAP_FIXED, fd, offset) == MAP_FAILED:
        if not ballast_drop(m):
            return False
    return True


# --- pages ahead

cdef void ahead_take(Mmu* m, Region* r, u64 linear, u64 phys, u64 size) noexcept nogil:
    """Pages just mapped lose their rights again, until a walk allows them."""
    while mprotect(host_address(r, linear), size, PROT_NONE) != 0:
        if not ballast_drop(m):
            window_unmap(m, r, linear, size)
            return
    r.holes += 1
    count_two(m, r)
    m.ahead = r
    m.ahead_low = linear
    m.ahead_high = linear + size
    m.ahead_phys = phys


cdef inline void ahead_end(Mmu* m) noexcept nogil:
    if m.ahead.holes:
        m.ahead.holes -= 1
    m.ahead = NULL


cdef void ahead_drop(Mmu* m) noexcept nogil:
    cdef Region* r = m.ahead
    if r == NULL:
        return
    ahead_end(m)
    window_unmap(m, r, m.ahead_low, m.ahead_high - m.ahead_low)
    settle(m, r)


cdef void ahead_yield(Mmu* m, Region* r, u64 linear, u64 size) noexcept nogil:
    """The range is about to be mapped anew: none of it is ahead any more."""
    if m.ahead != r or linear >= m.ahead_high or linear + size <= m.ahead_low:
        return
    if linear <= m.ahead_low and m.ahead_high <= linear + size:
        ahead_end(m)
    else:
        ahead_drop(m)


cdef bint ahead_use(Mmu* m, Region* r, u64 linear, u64 phys, u64 size, int prot) noexcept nogil:
    """Give the first pages ahead their rights, if they are the ones."""
    if m.ahead != r or linear != m.ahead_low or phys != m.ahead_phys \
            or size > m.ahead_high - m.ahead_low:
        return False
    if mprotect(host_address(r, linear), size, prot) != 0:
        return False
    m.ahead_low += size
    m.ahead_phys += size
    if m.ahead_low == m.ahead_high:
        ahead_end(m)
    return True


cdef bint window_map(Mmu* m, Region* r, u64 linear, u64 phys, u64 size, u64 room,
                     bint writable) noexcept nogil:
    """Map RAM from `phys` at a linear address of the region, in place of what is there.  In `room`
    bytes behind it nothing is mapped, and RAM goes on as far."""
    cdef int prot = PROT_READ | PROT_WRITE if writable else PROT_READ
    cdef bint short = size <= POPULATE_MAX << PAGE_SHIFT
    cdef u64 more = 0
    cdef bint grows = short and m.grown == r and m.grown_linear == linear \
        and m.grown_phys == phys
    if not ahead_use(m, r, linear, phys, size, prot):
        if grows and writable and m.ballast:
            more = min(min(room, m.grown_size), <u64>AHEAD_MAX << PAGE_SHIFT)
        if more:
            ahead_drop(m)
        else:
            ahead_yield(m, r, linear, size)
        # Nothing but populating saves the second fault, on the host's own page table; but RAM in
        # long runs may be untouched, and would be allocated.
        if not replace(m, r, linear, size + more, prot,
                       MAP_SHARED | MAP_POPULATE if short else MAP_SHARED, phys):
            return False
        if more:
            ahead_take(m, r, linear + size, phys + size, more)
    count_two(m, r)
    if short:
        m.grown_size = m.grown_size + size if grows else size
        m.grown = r
        m.grown_linear = linear + size
        m.grown_phys = phys + size
    return True


cdef void window_unmap(Mmu* m, Region* r, u64 linear, u64 size) noexcept nogil:
    """Make a range inaccessible.  Never by munmap: another thread's mapping would move in."""
    ahead_yield(m, r, linear, size)
    count_two(m, r)
    # The guest must not keep what it no longer has.
    if not replace(m, r, linear, size, PROT_NONE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, 0) \
            and mprotect(host_address(r, linear), size, PROT_NONE) != 0:
        abort()


cdef void window_protect(Mmu* m, Region* r, u64 linear, u64 size, bint writable) noexcept nogil:
    cdef int prot = PROT_READ | PROT_WRITE if writable else PROT_READ
    count_two(m, r)
    while mprotect(host_address(r, linear), size, prot) != 0:
        if ballast_drop(m):
            continue
        if not writable:
            abort()
        return
