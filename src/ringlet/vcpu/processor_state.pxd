"""Access from Python to the registers and the memory of one virtual CPU."""
from ringlet.core.state cimport CpuState, Segment, u8

cdef class ProcessorState:
    cdef CpuState* c
    cdef u8* xsave(self)
    cdef Segment* segment(self, int index)
