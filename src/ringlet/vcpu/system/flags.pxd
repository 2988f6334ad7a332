"""Flags, software interrupts, HLT and ENTER."""
from ringlet.core.state cimport CpuState, OpInfo, u8, u16, u32, u64

# Kinds of `op_int`.
cdef enum:
    SOFT_INT = 0     # INT n
    SOFT_TRAP = 1    # INT3 and INTO
    SOFT_ICE = 2     # INT1, whose gate may have any DPL

cdef bint virtual_interrupt_due(CpuState* c) noexcept nogil
# For IRET: whether virtual-8086 mode denies it the flags; whether VIF stands for IF, and the load
# of flags where it does.
cdef bint flags_denied(CpuState* c, u32 size) noexcept nogil
cdef bint flags_virtual(CpuState* c) noexcept nogil
cdef int load_virtual_image(CpuState* c, u64 image) noexcept nogil

cdef int op_cli(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_sti(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_pushf(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_popf(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_int(CpuState* c, OpInfo* op, u32 vector, u32 kind) noexcept nogil
cdef int op_into(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_hlt(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_enter(CpuState* c, OpInfo* op) noexcept nogil
