"""Records of what windows were filled from: nodes, and chains from guest frames to mappings."""
from ringlet.core.state cimport CpuState, u32, u64
from ringlet.mmu.layout cimport Mmu, Node, Region, Walk

cdef enum:
    CHANGE_NONE = 0     # nothing that matters
    CHANGE_MORE = 1     # more is allowed now: what is mapped stays right
    CHANGE_LESS = 2     # the same page, but no longer (or not yet again) to be written freely
    CHANGE_OTHER = 3

cdef u32 change_of(u64 old, u64 new) noexcept nogil
cdef bint fetch_changed(u64 old, u64 new) noexcept nogil
cdef void nodes_create(Mmu* m) noexcept nogil
cdef u32 record(CpuState* c, Mmu* m, Region* r, Walk* w, bint refill) noexcept nogil
cdef void empty_region(CpuState* c, Mmu* m, Region* r) noexcept nogil
cdef void leaf_link(Mmu* m, Region* r, u32 index, u32 entry, bint writable) noexcept nogil
cdef void leaf_unlink(Mmu* m, Region* r, Node* node, u32 entry) noexcept nogil
cdef u64 forget(CpuState* c, Mmu* m, Region* r, u32 index, u32 entry) noexcept nogil
cdef u64 forget_region(CpuState* c, Mmu* m, Region* r) noexcept nogil
cdef void note_code(CpuState* c, Mmu* m, u64 low, u64 high) noexcept nogil
cdef void flush_code(CpuState* c, Mmu* m) noexcept nogil
cdef u64 leaf_phys(Mmu* m, Node* node, u32 entry) noexcept nogil
