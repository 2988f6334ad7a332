"""Keep a direct process and its virtual processor on one processor of the host."""
from ringlet.core.state cimport CpuState, u32, u64
from ringlet.direct.process cimport Direct

cdef enum:
    MASK_WORDS = 128         # for 8,192 processors, as many as Linux has at most

# The calling thread's place.
cdef struct Placement:
    u32 kept                 # it is kept on `cpu`
    u32 cpu
    u64 until                # TSC of the host
    u64 mask[MASK_WORDS]     # the processors on which it may run otherwise

# A hand-over to the process begins.
cdef void placement_begins(Placement* p, Direct* d) noexcept nogil
# The process has handed over to the calling thread.
cdef void placement_ended(CpuState* c, Placement* p, Direct* d) noexcept nogil
# Let the thread go if it was kept long enough.
cdef void placement_tick(Placement* p) noexcept nogil
# Let the thread go.
cdef void placement_leave(Placement* p) noexcept nogil
