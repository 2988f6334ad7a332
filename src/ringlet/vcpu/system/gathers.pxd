"""Gathers (VGATHERxxx, VPGATHERxx) from ordinary memory."""
from ringlet.core.state cimport CpuState, OpInfo

cdef bint op_gather(CpuState* c, OpInfo* op) noexcept nogil
