"""Single steps and breakpoints around one instruction of translated code."""
from ringlet.core.state cimport CpuState, u32, u64
from ringlet.cache.codecache cimport Fragment

cdef struct Step:
    u64 rip        # of the instruction
    u64 traps      # RFLAGS.TF before it
    u64 resume     # RFLAGS.RF before it
    u64 flags      # the arithmetic flags before it
    u64 hits       # DR6.B0-B3 of the data it accesses
    bint repeats   # a string instruction with a repeat prefix

# Before an instruction, with the shadow (CpuState.inhibit) it stands in: EMU_FAULT or 0.
cdef int step_before(CpuState* c, u32 shadow, Step* s) noexcept nogil
# It is the first one of the fragment, which is about to be entered.
cdef void step_watch(CpuState* c, Fragment* frag, Step* s) noexcept nogil
# It goes on in the machine: its traps come when that is over.
cdef void step_left(CpuState* c, Step* s) noexcept nogil
# It was begun and left for later.
cdef void step_undone(CpuState* c, Step* s) noexcept nogil
# It is over, with EMU_FAULT in `result` if an exception is to be delivered; `emulated` where
# `emulate` has looked after TF.  EMU_FAULT: deliver the exception, which may be a #DB trap.
cdef int step_after(CpuState* c, Step* s, int result, bint emulated) noexcept nogil
