"""Where guest frames are shown: an address space of the host, and the calls that change it.

Everything in `mmu` that maps names a guest frame and goes through here.  Only this module asks
which file a frame's contents are in, and only a target's own functions make system calls.  So a
target may be another process's address space, and RAM may come from more than one file.
"""
from ringlet.core.state cimport u32, u64
from ringlet.mmu.ram cimport Extent, GuestRam

cdef enum:
    RIGHTS_NONE = 0
    RIGHTS_READ = 1
    RIGHTS_WRITE = 3       # and read
    RIGHTS_RUN = 4         # only in direct processes

cdef enum:
    MAP_AT_ONCE = 1        # fill in the host's page tables now, not at the first access

cdef enum:
    BALLAST = 256          # mappings kept to be thrown off

# The functions of a target.  Addresses are the target's own and page-aligned.  They are called in
# the signal handler too.  False (0 from `reserve`): the host refused, and nothing has changed.
cdef struct MapTarget
ctypedef u64 (*reserve_call)(MapTarget* t, u64 size) noexcept nogil
ctypedef bint (*extend_call)(MapTarget* t, u64 address, u64 size) noexcept nogil
ctypedef void (*release_call)(MapTarget* t, u64 address, u64 size) noexcept nogil
ctypedef bint (*map_call)(MapTarget* t, u64 address, const Extent* extent, u32 rights,
                          u32 flags) noexcept nogil
ctypedef bint (*unmap_call)(MapTarget* t, u64 address, u64 pages) noexcept nogil
ctypedef bint (*protect_call)(MapTarget* t, u64 address, u64 pages, u32 rights) noexcept nogil

cdef struct MapTarget:
    reserve_call reserve   # set aside addresses that nothing else will use, without access
    extend_call extend     # set aside these addresses if they are free; may be NULL
    release_call release
    map_call map           # in place of what is there
    unmap_call unmap       # take access away, and keep the addresses set aside
    protect_call protect
    void* context          # the functions' own
    u64 ballast            # address of the ballast, 0 if there is none

# This process.
cdef void target_here(MapTarget* t) noexcept nogil

# Which file has the contents of a frame, and of how many frames from it on.  False: no RAM.
cdef bint resolve(GuestRam* g, u64 frame, Extent* found) noexcept nogil

# Show consecutive frames.  Gives the number of calls it took, each of which adds two mappings to
# the host's count at most; 0: it could not be done, and no new frame is shown.
cdef u32 map_frames(MapTarget* t, GuestRam* g, u64 address, u64 frame, u64 pages, u32 rights,
                    u32 flags) noexcept nogil
# Take access to pages away.  Ends the process if the host refuses: the guest must not keep them.
cdef void unmap_frames(MapTarget* t, u64 address, u64 pages) noexcept nogil
# Change what may be done with pages that are shown.  False: the host refused.
cdef bint protect_frames(MapTarget* t, u64 address, u64 pages, u32 rights) noexcept nogil

# Make mappings of no use, and throw them off.  False: the host refused; there were none.
cdef bint ballast_take(MapTarget* t) noexcept nogil
cdef bint ballast_drop(MapTarget* t) noexcept nogil
