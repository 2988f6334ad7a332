"""Debug registers and the debug exceptions of the virtual processor (SDM 3B 17.2-17.3)."""
from ringlet.core.state cimport CpuState, OpInfo, u8, u16, u32, u64

cdef int op_mov_from_dr(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_mov_to_dr(CpuState* c, OpInfo* op) noexcept nogil
cdef int single_step(CpuState* c) noexcept nogil
cdef int instruction_breakpoint(CpuState* c) noexcept nogil
