"""The memory of direct processes, as the virtual MMU's target, and which of them are in use."""
from ringlet.core.state cimport CpuState, u32, u64
from ringlet.direct.process cimport Direct
from ringlet.mmu.map_target cimport MapTarget

cdef enum:
    SPACES_MAX = 64
    MAPS_MAX = 50000     # commands that map, before all is unmapped: Linux allows 65,530 mappings
    FILES = 8

# One direct process.
cdef struct DirectSpace:
    Direct* process      # NULL: none
    MapTarget target
    int file[FILES]      # of guest RAM, as this process numbers them
    u32 files
    u32 attached         # to an address space
    u32 dead
    u64 maps             # commands that mapped, since all was unmapped

# Of one virtual processor.
cdef struct DirectState:
    DirectSpace spaces[SPACES_MAX]
    u32 count
    u32 limit            # how many there may be
    u32 step             # the next instruction is to be translated
    u32 always

cdef DirectSpace* space_of(MapTarget* target) noexcept nogil
# Prepare a process for use; `file` are the files of guest RAM in the order it has them.
cdef bint space_add(DirectState* s, Direct* process, const int* files, u32 count) noexcept nogil
# A process that nobody uses; NULL: there is none.
cdef DirectSpace* space_find(DirectState* s) noexcept nogil
# An address space is forgotten (`ringlet.mmu.mmu.left_fn`).
cdef void space_left(CpuState* c, MapTarget* target) noexcept nogil
