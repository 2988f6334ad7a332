"""Save areas of the x87, SSE and AVX state, and XCR0 (SDM 1 ch. 10.5 and 13)."""
from ringlet.core.state cimport CpuState, OpInfo, u8, u16, u32, u64

cdef int op_fxsave(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_fxrstor(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_xsave(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_xsaveopt(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_xsavec(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_xsaves(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_xrstor(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_xrstors(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_xgetbv(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_xsetbv(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_nm(CpuState* c, OpInfo* op) noexcept nogil
