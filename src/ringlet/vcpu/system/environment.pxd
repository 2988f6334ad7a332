"""The x87 environment in memory: FNSTENV, FNSAVE, FLDENV and FRSTOR (SDM 1 8.1.10, 8.1.11)."""
from ringlet.core.state cimport CpuState, OpInfo, u8, u16, u32, u64

cdef int op_fnstenv(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_fnsave(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_fldenv(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_frstor(CpuState* c, OpInfo* op) noexcept nogil
