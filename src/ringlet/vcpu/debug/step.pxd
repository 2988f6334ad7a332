"""Single steps and breakpoints around one instruction of translated code."""
from ringlet.core.state cimport CpuState, u32, u64
from ringlet.cache.codecache cimport Fragment

cdef struct Step:
    u64 rip        # RIP of the instruction
    u64 traps      # RFLAGS.TF before it
    u64 resume     # RFLAGS.RF before it
    u64 flags      # the arithmetic flags before it
    u64 hits       # DR6.B0-B3 of the data and ports that it accesses
    bint repeats   # a string instruction with a repeat prefix

# Call before an instruction, with its interrupt shadow (CpuState.inhibit); returns EMU_FAULT or 0.
cdef int step_before(CpuState* c, u32 shadow, Step* s) noexcept nogil
# Call before entering `frag`, whose first instruction it is.
cdef void step_watch(CpuState* c, Fragment* frag, Step* s) noexcept nogil
# The machine completes the instruction; its traps follow after that.
cdef void step_left(CpuState* c, Step* s) noexcept nogil
# The instruction was begun but has to be executed again.
cdef void step_undone(CpuState* c, Step* s) noexcept nogil
# Call after the instruction.  `result` is EMU_FAULT if it raised an exception; `emulated` says that
# `emulate` has already handled TF.  EMU_FAULT: deliver the exception, which may be a #DB trap.
cdef int step_after(CpuState* c, Step* s, int result, bint emulated) noexcept nogil
