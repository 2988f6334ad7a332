"""Far RET and IRET."""
from ringlet.core.state cimport CpuState, OpInfo, u8, u16, u32, u64

cdef int op_ret_far(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_iret(CpuState* c, OpInfo* op) noexcept nogil
