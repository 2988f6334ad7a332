"""Emulation of one sensitive instruction."""
from ringlet.core.state cimport CpuState, OpInfo, u8, u16, u32, u64

cdef int emulate(CpuState* c, OpInfo* op) noexcept nogil
cdef int complete(CpuState* c) noexcept nogil
# If `pending` is PENDING_OP or beyond.
cdef int begin_anew(CpuState* c) noexcept nogil
