"""Delivery of exceptions, interrupts and NMIs (SDM 3A ch. 6)."""
from ringlet.core.state cimport CpuState, OpInfo, u8, u16, u32, u64

# Each function returns EMU_FLOW or EMU_EXIT.  EMU_EXIT means EXIT_SHUTDOWN after a triple fault, or
# that a device has to answer; `deliver_again` then continues the delivery.
cdef int deliver(CpuState* c) noexcept nogil
cdef int deliver_again(CpuState* c) noexcept nogil
cdef int interrupt(CpuState* c, u32 vector) noexcept nogil
cdef int nmi(CpuState* c) noexcept nogil
cdef int software_interrupt(CpuState* c, u32 vector, u64 return_rip, bint privileged) noexcept nogil
