"""Which segments translated code of 16 and 32 bits may take for flat."""
from ringlet.core.state cimport CpuState, u32, u64

cdef enum:
    PARAGRAPH_DEPOSIT = 0x400000000000FFFF   # moves bit 16 of an offset to bit 62

# The bits of the key from KEY_SEGMENTED on.
cdef u32 key_of_segments(CpuState* c) noexcept nogil
# Find which loads of segment registers change nothing at CPL 0 of protected mode.
cdef void hold_segments(CpuState* c) noexcept nogil
# Find the host addresses of linear address 0, given its addend, and of FS and GS.
cdef void locate_segments(CpuState* c, u64 addend) noexcept nogil
