"""SYSCALL, SYSRET, SYSENTER, SYSEXIT (SDM 3A 5.8.7-5.8.8)."""
from ringlet.core.state cimport CpuState, OpInfo, u8, u16, u32, u64

cdef int op_syscall(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_sysret(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_sysenter(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_sysexit(CpuState* c, OpInfo* op) noexcept nogil
