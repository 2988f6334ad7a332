"""Far JMP and CALL."""
from ringlet.core.state cimport CpuState, OpInfo, u8, u16, u32, u64

cdef int op_jmp_far(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_call_far(CpuState* c, OpInfo* op) noexcept nogil
