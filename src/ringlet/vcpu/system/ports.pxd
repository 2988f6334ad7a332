"""IN, OUT, INS and OUTS: permission, and the exits to the machine (SDM 1 ch. 19)."""
from ringlet.core.state cimport CpuState, OpInfo, u8, u16, u32, u64

cdef int op_in(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_out(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_ins(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_outs(CpuState* c, OpInfo* op) noexcept nogil
cdef int finish_in(CpuState* c, OpInfo* op) noexcept nogil
cdef int finish_ins(CpuState* c, OpInfo* op) noexcept nogil
