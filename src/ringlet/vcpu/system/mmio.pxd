"""Accesses to devices by compiled code: by sensitive instructions and the delivery of events."""
from ringlet.core.state cimport CpuState, u8, u32, u64

# Copy from or to linear addresses some of which belong to a device, in accesses of at most `unit`
# bytes, a power of 2 up to 8.  0, or EMU_FAULT: an exception is set, or the device has to answer.
cdef int device_read(CpuState* c, u64 linear, u8* data, u32 size, u32 unit,
                     u32 access) noexcept nogil
cdef int device_write(CpuState* c, u64 linear, const u8* data, u32 size, u32 unit,
                      u32 access) noexcept nogil
# Take the device's answer to the access that `CpuState.device_waits` marks.
cdef void device_answer(CpuState* c, u64 value) noexcept nogil
# Forget the answers, because the instruction or event that asked for them is complete.
cdef void device_forget(CpuState* c) noexcept nogil
