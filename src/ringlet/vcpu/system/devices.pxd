"""MOV to and from memory that has met a device."""
from ringlet.core.state cimport CpuState, OpInfo

cdef int op_device_read(CpuState* c, OpInfo* op) noexcept nogil
# Finish a read that the machine has answered with io_data.
cdef int finish_device_read(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_device_write(CpuState* c, OpInfo* op) noexcept nogil
