"""Changes of the host's mappings inside regions: plain system calls and their count.

The host allows a process a number of mappings.  Each call here adds at most two; and a region
can hold no more than two for every leaf or hole in it (and one).  `maps` is the lower of these
two bounds, so it is never less than what the host counts.
"""
from libc.stdlib cimport abort
from posix.mman cimport (
    mmap, mprotect, munmap, MAP_ANONYMOUS, MAP_FAILED, MAP_FIXED, MAP_NORESERVE, MAP_PRIVATE,
    MAP_SHARED, PROT_NONE, PROT_READ, PROT_WRITE)

from ringlet.core.state cimport u8, u32, u64
from ringlet.mmu.layout cimport BALLAST, Mmu, PAGE_SHIFT, PAGE_SIZE, POPULATE_MAX, Region

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


cdef bint host_map(Mmu* m, Region* r, u64 linear, u64 offset, u64 size,
                   bint writable) noexcept nogil:
    """Map RAM from `offset` at a linear address of the region, in place of what is there."""
    cdef int prot = PROT_READ | PROT_WRITE if writable else PROT_READ
    cdef int flags = MAP_SHARED | MAP_FIXED
    # Nothing else saves the second fault, on the host's own page table; but RAM in long runs may
    # be untouched, and populating would allocate it.
    if size <= POPULATE_MAX << PAGE_SHIFT:
        flags |= MAP_POPULATE
    while mmap(<void*>(r.base + (linear - r.linear)), size, prot, flags, m.fd,
               offset) == MAP_FAILED:
        if not ballast_drop(m):
            return False
    count_two(m, r)
    return True


cdef void host_unmap(Mmu* m, Region* r, u64 linear, u64 size) noexcept nogil:
    """Make a range inaccessible.  Never by munmap: another thread's mapping would move in."""
    cdef void* host = <void*>(r.base + (linear - r.linear))
    count_two(m, r)
    while mmap(host, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1,
               0) == MAP_FAILED:
        if ballast_drop(m):
            continue
        # The guest must not keep what it no longer has.
        if mprotect(host, size, PROT_NONE) != 0:
            abort()
        return


cdef void host_protect(Mmu* m, Region* r, u64 linear, u64 size, bint writable) noexcept nogil:
    cdef int prot = PROT_READ | PROT_WRITE if writable else PROT_READ
    count_two(m, r)
    while mprotect(<void*>(r.base + (linear - r.linear)), size, prot) != 0:
        if ballast_drop(m):
            continue
        if not writable:
            abort()
        return
