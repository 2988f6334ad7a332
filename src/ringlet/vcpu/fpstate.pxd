"""Save areas of the x87, SSE and AVX state, and XCR0 (SDM 1 ch. 10.5 and 13)."""
from ringlet.core.state cimport CpuState, OpInfo, u8, u16, u32, u64

# What CpuState.fpu_pointer tells of an x87 instruction or data pointer that the host's registers
# hold: the guest's linear address, or 0; of an instruction pointer also the opcode (FOP) of the
# guest's instruction, and in the upper half that of its translation.
cdef enum:
    FPU_INSTRUCTION = 0
    FPU_DATA = 1
    FPU_OPCODE = 2
    X87_NONE = 0x10000   # no opcode
# NULL stands for "always 0".
ctypedef u64 (*fpu_pointer_fn)(CpuState* c, u64 host, int data) noexcept nogil

cdef int op_fxsave(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_fxrstor(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_xsave(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_xsaveopt(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_xsavec(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_xsaves(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_xrstor(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_xrstors(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_fnstenv(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_fnsave(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_xgetbv(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_xsetbv(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_nm(CpuState* c, OpInfo* op) noexcept nogil
