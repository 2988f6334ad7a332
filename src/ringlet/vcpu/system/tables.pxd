"""Descriptor-table registers, and the instructions that only inspect descriptors."""
from ringlet.core.state cimport CpuState, OpInfo, u8, u16, u32, u64

cdef int op_sgdt(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_sidt(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_lgdt(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_lidt(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_sldt(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_str(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_lldt(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_ltr(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_lar(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_lsl(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_verr(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_verw(CpuState* c, OpInfo* op) noexcept nogil
