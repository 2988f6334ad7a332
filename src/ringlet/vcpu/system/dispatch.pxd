"""Emulation of one sensitive instruction."""
from ringlet.core.state cimport CpuState, OpInfo, u8, u16, u32, u64

cdef int emulate(CpuState* c, OpInfo* op) noexcept nogil
cdef int complete(CpuState* c) noexcept nogil
# Call this if `pending` is PENDING_OP or higher.
cdef int begin_anew(CpuState* c) noexcept nogil
