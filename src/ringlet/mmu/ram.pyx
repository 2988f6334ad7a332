"""Guest RAM: its file, its mapping for the host side, and which of its pages hold code.

The file is sealed against a change of size, so that no mapping of it can ever raise SIGBUS.

A page that any processor translated from is a code page.  It is read-only in the windows of all
processors, and whoever is about to write it tells all of them first.  Both are a call of each
viewer; nothing else here knows that there may be several.
"""
from libc.errno cimport errno
from libc.stdlib cimport calloc, free
from libc.string cimport strerror
from posix.unistd cimport close, ftruncate

from ringlet.core.host cimport host_fence, host_map, host_unmap
from ringlet.core.state cimport u8, u32, u64
from ringlet.mmu.copies cimport copies_create, copies_destroy, copy_drop
from ringlet.mmu.map_target cimport MapTarget, RIGHTS_WRITE, map_frames, target_here
from ringlet.mmu.pages cimport PAGE_SHIFT, PAGE_SIZE, bit_clear, bit_set

cdef extern from * nogil:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <fcntl.h>
    #include <sys/mman.h>
    """
    int memfd_create(const char* name, unsigned int flags)
    int fcntl(int fd, int cmd, int arg)
    int MFD_CLOEXEC, MFD_ALLOW_SEALING, F_ADD_SEALS, F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW
    int MADV_DONTDUMP
    int madvise(void* start, size_t size, int advice)


cdef void extent_add(GuestRam* g, u64 phys, u64 offset, u64 size) noexcept:
    cdef Extent* e = &g.extents[g.extent_count]
    if size:
        e.frame = phys >> PAGE_SHIFT
        e.pages = size >> PAGE_SHIFT
        e.offset = offset
        e.fd = g.fd
        g.extent_count += 1


cdef GuestRam* ram_create(u64 size) except NULL:
    """Make `size` bytes of guest RAM: up to 3 GiB from guest physical 0, the rest from 4 GiB."""
    cdef u64 low = min(size, <u64>3 << 30)
    cdef GuestRam* g
    if size == 0 or size % PAGE_SIZE:
        raise ValueError(f"guest RAM of {size} bytes: give a positive multiple of 4096")
    g = <GuestRam*>calloc(1, sizeof(GuestRam))
    if g == NULL:
        raise MemoryError("no memory for guest RAM's description")
    g.low_end = low
    g.high_end = (<u64>1 << 32) + size - low
    g.copies_fd = -1
    g.fd = memfd_create(b"ringlet-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING)
    extent_add(g, 0, 0, low)
    extent_add(g, <u64>1 << 32, low, size - low)
    try:
        if g.fd < 0:
            raise OSError(errno, f"cannot create guest RAM: {strerror(errno).decode()}")
        if (ftruncate(g.fd, size) != 0
                or fcntl(g.fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0):
            raise OSError(errno,
                          f"cannot size guest RAM to {size} bytes: {strerror(errno).decode()}")
        map_all(g, size)
    except BaseException:
        ram_destroy(g)
        raise
    return g


cdef int map_all(GuestRam* g, u64 size) except -1:
    """Map RAM for the host side, and make the bitmap of code pages."""
    cdef MapTarget here
    cdef Extent* e
    cdef u32 i
    target_here(&here)
    g.span = g.high_end if g.extent_count > 1 else g.low_end
    g.host = <u8*>here.reserve(&here, g.span)
    if g.host == NULL:
        raise OSError(errno, f"cannot map {size} bytes of guest RAM: {strerror(errno).decode()}")
    for i in range(g.extent_count):
        e = &g.extents[i]
        if not map_frames(&here, g, <u64>g.host + (e.frame << PAGE_SHIFT), e.frame, e.pages,
                          RIGHTS_WRITE, 0):
            raise OSError(errno,
                          f"cannot map {size} bytes of guest RAM: {strerror(errno).decode()}")
    madvise(g.host, g.span, MADV_DONTDUMP)
    # A bit for each frame, and a word beyond for those who read whole words.
    g.code_size = ((g.span >> PAGE_SHIFT >> 6) + 2) * 8
    g.code = <u64*>host_map(g.code_size)
    g.passed = <u64*>host_map(g.code_size)
    g.refused = <u64*>host_map(g.code_size)
    g.replaced = <u64*>host_map(g.code_size)
    if g.code == NULL or g.passed == NULL or g.refused == NULL or g.replaced == NULL:
        raise MemoryError("no memory for the bitmaps of code pages")
    copies_create(g)
    return 0


cdef void ram_destroy(GuestRam* g) noexcept:
    """Give RAM back.  No viewer is left."""
    cdef MapTarget here
    if g == NULL:
        return
    target_here(&here)
    if g.host != NULL:
        here.release(&here, <u64>g.host, g.span)
    if g.fd >= 0:
        close(g.fd)
    host_unmap(g.code, g.code_size)
    host_unmap(g.passed, g.code_size)
    host_unmap(g.refused, g.code_size)
    host_unmap(g.replaced, g.code_size)
    copies_destroy(g)
    free(g)


# --- viewers

cdef void ram_attach(GuestRam* g, RamViewer* viewer) noexcept nogil:
    viewer.next = g.viewers
    g.viewers = viewer


cdef void ram_detach(GuestRam* g, RamViewer* viewer) noexcept nogil:
    cdef RamViewer** at = &g.viewers
    while at[0] != NULL:
        if at[0] == viewer:
            at[0] = viewer.next
            return
        at = &at[0].next


# --- code pages

cdef void page_rights(GuestRam* g, u64 phys_page, bint writable) noexcept nogil:
    cdef RamViewer* viewer = g.viewers
    while viewer != NULL:
        viewer.rights(viewer.cpu, phys_page, writable)
        viewer = viewer.next


cdef void protect_code(GuestRam* g, u64 phys) noexcept nogil:
    """Make the page of `phys` a code page: call this before its bytes are read."""
    cdef u64 page = phys & ~<u64>(PAGE_SIZE - 1)
    if not is_ram(g, phys) or is_code(g, phys):
        return
    # The bit comes first: a window that is filled from now on shows the page read-only.
    bit_set(g.code, phys >> PAGE_SHIFT)
    # A device's thread writes data, and then looks at the bit.  Either it sees the bit, or whoever
    # reads the page's bytes from here on sees the data: the store must not pass their loads.
    host_fence()
    page_rights(g, page, False)


cdef void unprotect_code(GuestRam* g, u64 phys) noexcept nogil:
    """Make the page of `phys` a plain page: nothing that was translated from it is left, and no
    direct process runs it from here on."""
    cdef u64 page = phys & ~<u64>(PAGE_SIZE - 1)
    if not is_ram(g, phys) or not is_code(g, phys):
        return
    bit_clear(g.code, phys >> PAGE_SHIFT)
    bit_clear(g.passed, phys >> PAGE_SHIFT)
    bit_clear(g.refused, phys >> PAGE_SHIFT)
    page_rights(g, page, True)
    copy_drop(g, page)


cdef void about_to_write(GuestRam* g, u64 phys) noexcept nogil:
    """RAM at `phys` is about to change: let every processor drop what came from its page."""
    cdef RamViewer* viewer = g.viewers
    if not is_ram(g, phys) or not is_code(g, phys):
        return
    while viewer != NULL:
        viewer.written(viewer.cpu, phys & ~<u64>(PAGE_SIZE - 1))
        viewer = viewer.next
    unprotect_code(g, phys)
