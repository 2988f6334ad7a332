"""Addresses by segment outside 64-bit mode: base, limit, type (SDM 3A 5.3-5.5)."""
from ringlet.core.state cimport CpuState, OpInfo, Segment, u8, u16, u32, u64

# Each function returns 0, or EMU_FAULT with exc_* set.  `access` is ACC_WRITE or 0, or ACC_FETCH for
# a read that code need not allow (SDM 2A CLFLUSH).

# Tell whether an access of `size` bytes at `offset` is within a segment and of its type.
cdef bint segment_allows(CpuState* c, Segment* s, bint code, u64 offset, u32 size,
                         u32 access) noexcept nogil
# Check an access through a segment register; *linear is its linear address.  Outside 64-bit mode
# #SS(0) or #GP(0); in 64-bit mode nothing is checked, and only FS and GS have a base.
cdef int segment_linear(CpuState* c, u32 seg, u64 offset, u32 size, u32 access,
                        u64* linear) noexcept nogil
# Turn c.ea from the offset of the operand of `op` into its linear address; not in 64-bit mode.
cdef int locate_operand(CpuState* c, OpInfo* op) noexcept nogil
# Return the size in bytes of the addresses of `op`: 2, 4 or 8.
cdef u32 address_size(CpuState* c, OpInfo* op) noexcept nogil
