"""The state of a processor after power-up (SDM 3A 9.1, table 9-1), except CS:RIP."""
from ringlet.core.state cimport CpuState

cdef void reset(CpuState* c) noexcept nogil
