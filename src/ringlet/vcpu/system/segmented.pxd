"""Linear addresses outside 64-bit mode: a segment's checks and its base (SDM 3A 5.3-5.5)."""
from ringlet.core.state cimport CpuState, u32, u64

cdef bint real_or_v86(CpuState* c) noexcept nogil
cdef int segment_linear(CpuState* c, u32 seg, u64 offset, u32 size, u32 access,
                        u64* linear) noexcept nogil
