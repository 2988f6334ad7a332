"""Stacks of inner rings, named by a 16- or 32-bit TSS."""
from ringlet.core.state cimport CpuState, Segment, u8, u16, u32, u64

# A stack to which a transfer goes, before it is loaded: for `push_on`, then SS and RSP.
cdef struct InnerStack:
    Segment ss
    u64 rsp
    u32 error    # error code that names its selector

cdef int read_inner_stack(CpuState* c, u32 cpl, InnerStack* stack) noexcept nogil
