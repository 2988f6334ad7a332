"""A processor as it is after power-up (SDM 3A 9.1, table 9-1), but for where it begins to run."""
from ringlet.core.state cimport CpuState

cdef void reset(CpuState* c) noexcept nogil
