"""Accesses to devices by what compiled code carries out: instructions, and delivery of events."""
from ringlet.core.state cimport CpuState, u8, u32, u64

# Copy from or to linear addresses some of which are a device's, in accesses of at most `unit`
# bytes, a power of 2 up to 8.  0, or EMU_FAULT: an exception is set, or the device has to answer.
cdef int device_read(CpuState* c, u64 linear, u8* data, u32 size, u32 unit,
                     u32 access) noexcept nogil
cdef int device_write(CpuState* c, u64 linear, const u8* data, u32 size, u32 unit,
                      u32 access) noexcept nogil
# The device has answered what `CpuState.device_waits` waited for.
cdef void device_answer(CpuState* c, u64 value) noexcept nogil
# Forget the answers: what asked for them is over.
cdef void device_forget(CpuState* c) noexcept nogil
