"""Code segments as targets of transfers: checks, and the load of CS."""
from ringlet.core.state cimport CpuState, OpInfo, AR_S, u8, u16, u32, u64
from ringlet.vcpu.system.descriptors cimport Descriptor
from ringlet.vcpu.system.registers cimport AR_CODE

cdef inline bint is_code(u32 ar) noexcept nogil:
    return ar & AR_S != 0 and ar & AR_CODE != 0

# Each check returns 0, or EMU_FAULT with exc_* set.
cdef int check_target(CpuState* c, u32 ar, u32 limit, u64 rip) noexcept nogil
cdef int check_same_ring(CpuState* c, u32 selector, Descriptor* d) noexcept nogil
cdef void enter_code(CpuState* c, Descriptor* d, u32 selector, u32 cpl, u64 rip) noexcept nogil
# The same in real and virtual-8086 mode.
cdef int check_paragraph_target(CpuState* c, u64 rip) noexcept nogil
cdef void enter_paragraph(CpuState* c, u32 selector, u64 rip) noexcept nogil
