"""Where guest frames are shown: an address space of the host, and the calls that change it.

The host allows a process a number of mappings.  At the limit it refuses even a call that would
replace many mappings by one; the ballast is thrown off to make room for that call.
"""
from libc.stdlib cimport abort
from posix.mman cimport (
    mmap, mprotect, munmap, MAP_ANONYMOUS, MAP_FAILED, MAP_FIXED, MAP_NORESERVE, MAP_PRIVATE,
    MAP_SHARED, PROT_NONE, PROT_READ, PROT_WRITE)

from ringlet.core.state cimport u32, u64
from ringlet.mmu.copies cimport copy_find
from ringlet.mmu.pages cimport PAGE_SHIFT, PAGE_SIZE, bit_test
from ringlet.mmu.ram cimport Extent, GuestRam

cdef extern from "<sys/mman.h>" nogil:
    int MAP_POPULATE
    int MAP_FIXED_NOREPLACE


# --- this process

cdef inline int protection(u32 rights) noexcept nogil:
    if rights == RIGHTS_NONE:
        return PROT_NONE
    return PROT_READ | PROT_WRITE if rights == RIGHTS_WRITE else PROT_READ


cdef u64 here_reserve(MapTarget* t, u64 size) noexcept nogil:
    cdef void* at = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    return 0 if at == MAP_FAILED else <u64>at


cdef bint here_extend(MapTarget* t, u64 address, u64 size) noexcept nogil:
    cdef void* at = mmap(<void*>address, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS
                         | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0)
    if at == MAP_FAILED:
        return False
    if <u64>at != address:
        # Linux before 4.17 does not know the flag, and maps elsewhere.
        munmap(at, size)
        return False
    return True


cdef void here_release(MapTarget* t, u64 address, u64 size) noexcept nogil:
    munmap(<void*>address, size)


cdef bint here_map(MapTarget* t, u64 address, const Extent* extent, u32 rights,
                   u32 flags) noexcept nogil:
    cdef int how = MAP_SHARED | MAP_FIXED
    if flags & MAP_AT_ONCE:
        how |= MAP_POPULATE
    return mmap(<void*>address, extent.pages << PAGE_SHIFT, protection(rights), how, extent.fd,
                extent.offset) != MAP_FAILED


cdef bint here_unmap(MapTarget* t, u64 address, u64 pages) noexcept nogil:
    # Not munmap: another thread's mapping could take the addresses.
    return mmap(<void*>address, pages << PAGE_SHIFT, PROT_NONE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) != MAP_FAILED


cdef bint here_protect(MapTarget* t, u64 address, u64 pages, u32 rights) noexcept nogil:
    return mprotect(<void*>address, pages << PAGE_SHIFT, protection(rights)) == 0


cdef void target_here(MapTarget* t) noexcept nogil:
    t.reserve = here_reserve
    t.extend = here_extend
    t.release = here_release
    t.map = here_map
    t.unmap = here_unmap
    t.protect = here_protect
    t.context = NULL
    t.ballast = 0


# --- ballast

cdef bint ballast_take(MapTarget* t) noexcept nogil:
    cdef u32 i
    if t.ballast:
        return True
    t.ballast = t.reserve(t, BALLAST * PAGE_SIZE)
    if not t.ballast:
        return False
    # Every second page differs from its neighbours, so that none are merged.
    for i in range(1, BALLAST, 2):
        if not t.protect(t, t.ballast + i * PAGE_SIZE, 1, RIGHTS_READ):
            return False
    return True


cdef bint ballast_drop(MapTarget* t) noexcept nogil:
    if not t.ballast:
        return False
    t.release(t, t.ballast, BALLAST * PAGE_SIZE)
    t.ballast = 0
    return True


# --- guest frames

cdef bint resolve(GuestRam* g, u64 frame, Extent* found) noexcept nogil:
    cdef Extent* e
    cdef u64 before
    cdef u32 i
    for i in range(g.extent_count):
        e = &g.extents[i]
        before = frame - e.frame
        if before < e.pages:
            found.frame = frame
            found.pages = e.pages - before
            found.offset = e.offset + (before << PAGE_SHIFT)
            found.fd = e.fd
            return True
    return False


cdef bint map_extent(MapTarget* t, u64 address, const Extent* extent, u32 rights,
                     u32 flags) noexcept nogil:
    while not t.map(t, address, extent, rights, flags):
        if not ballast_drop(t):
            return False
    return True


cdef u32 map_frames(MapTarget* t, GuestRam* g, u64 address, u64 frame, u64 pages, u32 rights,
                    u32 flags) noexcept nogil:
    cdef Extent e
    cdef u64 done = 0
    cdef u32 calls = 0
    while done < pages:
        if not resolve(g, frame + done, &e):
            break
        if rights & RIGHTS_RUN and bit_test(g.replaced, frame + done):
            copy_find(g, frame + done, &e)
        e.pages = min(e.pages, pages - done)
        if not map_extent(t, address + (done << PAGE_SHIFT), &e, rights, flags):
            break
        done += e.pages
        calls += 1
    if done == pages:
        return calls
    if done:
        unmap_frames(t, address, done)
    return 0


cdef void unmap_frames(MapTarget* t, u64 address, u64 pages) noexcept nogil:
    while not t.unmap(t, address, pages):
        if ballast_drop(t):
            continue
        if not t.protect(t, address, pages, RIGHTS_NONE):
            abort()
        return


cdef bint protect_frames(MapTarget* t, u64 address, u64 pages, u32 rights) noexcept nogil:
    while not t.protect(t, address, pages, rights):
        if not ballast_drop(t):
            return False
    return True
