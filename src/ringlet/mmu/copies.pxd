"""Copies of guest pages for direct processes to execute, with sensitive instructions replaced."""
from ringlet.core.state cimport u8, u64
from ringlet.mmu.ram cimport Extent, GuestRam

cdef int copies_create(GuestRam* g) except -1
cdef void copies_destroy(GuestRam* g) noexcept
# Where the copy of a page will be, by the page's guest physical address.  NULL: the page has not
# been wanted often enough, or there is no place.
cdef u8* copy_place(GuestRam* g, u64 phys) noexcept nogil
# The copy that a page has, or NULL.
cdef const u8* copy_of(GuestRam* g, u64 phys) noexcept nogil
# What is in that place is the page's copy from now on.
cdef void copy_keep(GuestRam* g, u64 phys, u8* place) noexcept nogil
# The page is about to change.  No process shows the copy any more.
cdef void copy_drop(GuestRam* g, u64 phys) noexcept nogil
# The file that has the copy of a frame.
cdef void copy_find(GuestRam* g, u64 frame, Extent* found) noexcept nogil
