"""Flags, software interrupts, HLT and ENTER."""
from ringlet.core.state cimport CpuState, OpInfo, u8, u16, u32, u64

cdef int op_cli(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_sti(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_pushf(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_popf(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_int(CpuState* c, OpInfo* op, u32 vector, bint privileged) noexcept nogil
cdef int op_hlt(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_enter(CpuState* c, OpInfo* op) noexcept nogil
