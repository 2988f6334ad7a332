"""Which segments translated code of 16 and 32 bits may take for flat."""
from ringlet.core.state cimport CpuState, u32, u64

# The bits KEY_SEGMENTED, KEY_CS64K and KEY_CS_ODD of the key.
cdef u32 key_of_segments(CpuState* c) noexcept nogil
# Find the host addresses of linear address 0, given its addend, and of FS and GS.
cdef void locate_segments(CpuState* c, u64 addend) noexcept nogil
