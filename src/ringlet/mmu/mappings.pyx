"""Changes of the host's mappings inside regions, and their count.

The host limits the number of mappings of a process.  Each call of the target adds at most two, and
a region cannot hold more than two for each leaf or hole in it, plus one.  `maps` is the lower of
these two bounds, so it is never less than what the host counts.

The host takes twice as long to map a page as to change its rights.  Guests touch memory in
sequence, and their kernels hand it out in sequence.  So if a mapping continues the last one in
linear and physical addresses, the pages behind it are mapped with it, without any right of access:
they are *ahead*.  When the guest's tables map them in the same way, one mprotect is enough.  Pages
ahead are a guess and are not recorded.  There is one range of them at a time, counted as a hole of
its region.  They may allocate RAM, so their number is at most that of the pages in the sequence so
far.
"""
from libc.stdlib cimport abort

from ringlet.core.state cimport u32, u64
from ringlet.mmu.layout cimport AHEAD_MAX, Mmu, POPULATE_MAX, Region
from ringlet.mmu.map_target cimport (
    MAP_AT_ONCE, RIGHTS_NONE, RIGHTS_READ, RIGHTS_WRITE, map_frames, protect_frames, unmap_frames)
from ringlet.mmu.pages cimport PAGE_SHIFT


cdef void settle(Mmu* m, Region* r) noexcept nogil:
    """Lower the count of a region's mappings to what its leaves can make."""
    cdef u32 bound = 2 * (r.small + r.large + r.holes) + 1
    if r.maps > bound:
        if not r.direct:
            m.maps -= r.maps - bound
        r.maps = bound


cdef inline void count(Mmu* m, Region* r, u32 calls) noexcept nogil:
    r.maps += 2 * calls
    if not r.direct:
        m.maps += 2 * calls


cdef inline u64 host_address(Region* r, u64 linear) noexcept nogil:
    return r.base + (linear - r.linear)


# --- pages ahead

cdef void ahead_take(Mmu* m, Region* r, u64 linear, u64 phys, u64 size) noexcept nogil:
    """Take all rights from pages that were just mapped, until a walk allows them."""
    if not protect_frames(r.target, host_address(r, linear), size >> PAGE_SHIFT, RIGHTS_NONE):
        window_unmap(m, r, linear, size)
        return
    r.holes += 1
    count(m, r, 1)
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
    """Let no page of a range that is about to be changed be ahead."""
    if m.ahead != r or linear >= m.ahead_high or linear + size <= m.ahead_low:
        return
    if linear <= m.ahead_low and m.ahead_high <= linear + size:
        ahead_end(m)
    else:
        ahead_drop(m)


cdef bint ahead_use(Mmu* m, Region* r, u64 linear, u64 phys, u64 size, u32 rights) noexcept nogil:
    """Give the first pages ahead their rights, if they are exactly what is to be mapped."""
    if m.ahead != r or linear != m.ahead_low or phys != m.ahead_phys \
            or size > m.ahead_high - m.ahead_low:
        return False
    if not r.target.protect(r.target, host_address(r, linear), size >> PAGE_SHIFT, rights):
        return False
    m.ahead_low += size
    m.ahead_phys += size
    if m.ahead_low == m.ahead_high:
        ahead_end(m)
    return True


cdef bint window_map(Mmu* m, Region* r, u64 linear, u64 phys, u64 size, u64 room,
                     u32 rights) noexcept nogil:
    """Map RAM from `phys` at a linear address of the region, in place of what is there.  In `room`
    bytes behind it nothing is mapped, and RAM continues for as many bytes."""
    cdef u32 calls = 1
    cdef bint short = size <= POPULATE_MAX << PAGE_SHIFT
    cdef u64 more = 0
    cdef bint grows = short and m.grown == r and m.grown_linear == linear \
        and m.grown_phys == phys
    if not ahead_use(m, r, linear, phys, size, rights):
        if grows and rights == RIGHTS_WRITE and r.target.ballast:
            more = min(min(room, m.grown_size), <u64>AHEAD_MAX << PAGE_SHIFT)
        if more:
            ahead_drop(m)
        else:
            ahead_yield(m, r, linear, size)
        # Filling in the host's page tables at once avoids a second fault.  In long runs that could
        # allocate RAM that the guest never touches.
        calls = map_frames(r.target, m.ram, host_address(r, linear), phys >> PAGE_SHIFT,
                           (size + more) >> PAGE_SHIFT, rights, MAP_AT_ONCE if short else 0)
        if not calls:
            return False
        if more:
            ahead_take(m, r, linear + size, phys + size, more)
    count(m, r, calls)
    if short:
        m.grown_size = m.grown_size + size if grows else size
        m.grown = r
        m.grown_linear = linear + size
        m.grown_phys = phys + size
    return True


cdef void window_unmap(Mmu* m, Region* r, u64 linear, u64 size) noexcept nogil:
    """Make a range inaccessible."""
    ahead_yield(m, r, linear, size)
    count(m, r, 1)
    unmap_frames(r.target, host_address(r, linear), size >> PAGE_SHIFT)


cdef void window_protect(Mmu* m, Region* r, u64 linear, u64 size, u32 rights) noexcept nogil:
    count(m, r, 1)
    # A page that stays read-only only faults once more.  One that stays writable is a breach.
    if not protect_frames(r.target, host_address(r, linear), size >> PAGE_SHIFT, rights) \
            and not rights & RIGHTS_WRITE & ~RIGHTS_READ:
        abort()
