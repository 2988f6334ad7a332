"""Guest RAM: one memfd, its mapping for the host side, and plain copies from and to it."""
from ringlet.core.state cimport u8, u32, u64
from ringlet.mmu.layout cimport Mmu

cdef int ram_create(Mmu* m, u64 size) except -1
cdef void ram_destroy(Mmu* m) noexcept
cdef void copy_bytes(u8* dst, const u8* src, u64 size) noexcept nogil
