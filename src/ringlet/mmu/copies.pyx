"""Copies of guest pages for direct processes to execute, with sensitive instructions replaced.

A page that holds a sensitive instruction is not executed directly.  Where programs come to such a
page again and again, and its bytes can be no data, the processes get a copy of it in which each of
these instructions is replaced by HLT, which traps.  The virtual processor then carries out what the
guest has there.

A place in the file of copies belongs to one page, which is a code page while it has a copy.
"""
from libc.errno cimport errno
from libc.string cimport strerror
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap
from posix.unistd cimport close, ftruncate

from ringlet.core.state cimport u8, u32, u64
from ringlet.mmu.pages cimport PAGE_SHIFT, bit_clear, bit_set, bit_test
from ringlet.mmu.ram cimport COPIES, WANTED, Extent, GuestRam

cdef extern from "<sys/mman.h>" nogil:
    int memfd_create(const char* name, unsigned int flags)
    unsigned int MFD_CLOEXEC

cdef enum:
    WANTED_OFTEN = 8         # times that a page is refused before it gets a copy


cdef int copies_create(GuestRam* g) except -1:
    cdef void* at
    g.copies_fd = memfd_create(b"ringlet-copies", MFD_CLOEXEC)
    if g.copies_fd < 0 or ftruncate(g.copies_fd, COPIES << PAGE_SHIFT) != 0:
        raise OSError(errno, f"cannot create a file for copies: {strerror(errno).decode()}")
    at = mmap(NULL, COPIES << PAGE_SHIFT, PROT_READ | PROT_WRITE, MAP_SHARED, g.copies_fd, 0)
    if at == MAP_FAILED:
        raise OSError(errno, f"cannot map the file of copies: {strerror(errno).decode()}")
    g.copies = <u8*>at
    return 0


cdef void copies_destroy(GuestRam* g) noexcept:
    if g.copies != NULL:
        munmap(g.copies, COPIES << PAGE_SHIFT)
    if g.copies_fd >= 0:
        close(g.copies_fd)


cdef u8* copy_place(GuestRam* g, u64 phys) noexcept nogil:
    cdef u64 frame = phys >> PAGE_SHIFT
    cdef u32 i = frame & (WANTED - 1)
    if g.wanted_frame[i] != frame:
        g.wanted_frame[i] = frame
        g.wanted[i] = 0
    g.wanted[i] += 1
    if g.wanted[i] < WANTED_OFTEN:
        return NULL
    g.wanted[i] = 0
    for i in range(COPIES):
        if not g.copied[i]:
            return g.copies + (<u64>i << PAGE_SHIFT)
    return NULL


cdef void copy_keep(GuestRam* g, u64 phys, u8* place) noexcept nogil:
    g.copied[(place - g.copies) >> PAGE_SHIFT] = (phys >> PAGE_SHIFT) + 1
    bit_set(g.replaced, phys >> PAGE_SHIFT)


cdef u32 place_of(GuestRam* g, u64 frame) noexcept nogil:
    """Return which place has the copy of a frame, or COPIES."""
    cdef u32 i = 0
    if not bit_test(g.replaced, frame):
        return COPIES
    while i < COPIES and g.copied[i] != frame + 1:
        i += 1
    return i


cdef const u8* copy_of(GuestRam* g, u64 phys) noexcept nogil:
    cdef u32 place = place_of(g, phys >> PAGE_SHIFT)
    return g.copies + (<u64>place << PAGE_SHIFT) if place < COPIES else NULL


cdef void copy_drop(GuestRam* g, u64 phys) noexcept nogil:
    cdef u64 frame = phys >> PAGE_SHIFT
    cdef u32 place = place_of(g, frame)
    bit_clear(g.replaced, frame)
    if place < COPIES:
        g.copied[place] = 0


cdef void copy_find(GuestRam* g, u64 frame, Extent* found) noexcept nogil:
    cdef u32 place = place_of(g, frame)
    if place == COPIES:
        return
    found.frame = frame
    found.pages = 1
    found.offset = <u64>place << PAGE_SHIFT
    found.fd = g.copies_fd
