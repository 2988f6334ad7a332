"""Delivery of exceptions, interrupts and NMIs through a 64-bit IDT (SDM 3A ch. 6)."""
from ringlet.core.state cimport CpuState, OpInfo, u8, u16, u32, u64

# All return EMU_FLOW, or EMU_EXIT: EXIT_SHUTDOWN after a triple fault, or a device has to answer,
# after which `deliver_again` goes on.
cdef int deliver(CpuState* c) noexcept nogil
cdef int deliver_again(CpuState* c) noexcept nogil
cdef int interrupt(CpuState* c, u32 vector) noexcept nogil
cdef int nmi(CpuState* c) noexcept nogil
cdef int software_interrupt(CpuState* c, u32 vector, u64 return_rip, bint privileged) noexcept nogil
