"""Guest RAM: what belongs to the machine and not to one of its processors.

A processor has windows, chains from frames to them, and a code cache of its own
(`ringlet.mmu.layout.Mmu`).  RAM knows it as a *viewer*: two functions to call when a page starts
or ceases to hold code that any processor has translated.  docs/adr/0009 gives the reasons.

A guest *frame* is a guest physical address without its low twelve bits.
"""
from ringlet.core.state cimport CpuState, u8, u32, u64
from ringlet.mmu.pages cimport PAGE_SHIFT, bit_test

# The page, by the address of its first byte, is about to be written: the viewer drops what it
# translated from it.
ctypedef void (*written_hook)(CpuState* c, u64 phys_page) noexcept nogil
# The viewer makes the page read-only, or again writable, in all its windows.
ctypedef void (*rights_hook)(CpuState* c, u64 phys_page, bint writable) noexcept nogil

cdef enum:
    EXTENTS = 2
    COPIES = 256
    WANTED = 64

# Consecutive frames whose contents stand one behind another in a file.
cdef struct Extent:
    u64 frame          # the first
    u64 pages
    u64 offset         # where the first frame's contents are, in bytes
    int fd

cdef struct RamViewer:
    CpuState* cpu
    written_hook written
    rights_hook rights
    RamViewer* next

cdef struct GuestRam:
    u8* host           # host address of guest physical 0; RAM's hole is a hole there too
    u64 span           # bytes reserved from there
    u64 low_end        # guest physical address where RAM from 0 ends, at most 3 GiB
    u64 high_end       # where RAM from 4 GiB ends; 4 GiB if there is none
    u64* code          # bitmap of the frames that translations come from, or direct processes run
    u64* passed        # of code pages, those that direct processes may run
    u64* refused       # and those that they may not; the others have not been screened
    u64* replaced      # those of which they run a copy (`ringlet.mmu.copies`)
    u64 code_size      # bytes of each bitmap
    u8* copies         # COPIES pages
    int copies_fd      # their file
    u64 copied[256]    # frame of each, plus one; 0: none
    u64 wanted_frame[64]   # frames that were refused lately,
    u32 wanted[64]         # and how often
    RamViewer* viewers
    u32 extent_count
    int fd             # of RAM's own memfd
    Extent extents[EXTENTS]

cdef inline u64 ram_left(GuestRam* g, u64 phys) noexcept nogil:
    """Bytes of RAM from a guest physical address to where RAM next ends; 0: there is none."""
    if phys < g.low_end:
        return g.low_end - phys
    if phys >= <u64>1 << 32 and phys < g.high_end:
        return g.high_end - phys
    return 0

cdef inline bint is_ram(GuestRam* g, u64 phys) noexcept nogil:
    return ram_left(g, phys) != 0

cdef inline u8* ram_at(GuestRam* g, u64 phys) noexcept nogil:
    """Host address of a byte that is RAM."""
    return g.host + phys

cdef inline bint is_code(GuestRam* g, u64 phys) noexcept nogil:
    return bit_test(g.code, phys >> PAGE_SHIFT)

cdef GuestRam* ram_create(u64 size) except NULL
cdef void ram_destroy(GuestRam* g) noexcept
cdef void ram_attach(GuestRam* g, RamViewer* viewer) noexcept nogil
cdef void ram_detach(GuestRam* g, RamViewer* viewer) noexcept nogil
cdef void protect_code(GuestRam* g, u64 phys) noexcept nogil
cdef void unprotect_code(GuestRam* g, u64 phys) noexcept nogil
cdef void about_to_write(GuestRam* g, u64 phys) noexcept nogil
