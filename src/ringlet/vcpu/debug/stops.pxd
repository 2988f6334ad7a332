"""Breakpoints, watchpoints and single steps of a debugger, invisible to the guest."""
from ringlet.core.state cimport CpuState, u32, u64

cdef enum:
    MAX_BREAKS = 256
    MAX_WATCHES = 4

# Results of `debug_before`.
cdef enum:
    DEBUG_GO = 0
    DEBUG_ALONE = 1   # run the instruction alone
    DEBUG_STOP = 2    # stop before the instruction

# The reason of a stop.
cpdef enum DebugReason:
    DEBUG_NOTHING = 0
    DEBUG_BREAKPOINT = 1
    DEBUG_STEPPED = 2
    DEBUG_WATCHPOINT = 3

cdef struct Watch:
    u64 linear
    u32 size          # 1, 2, 4 or 8
    u32 kinds         # bit 0: reads, bit 1: writes

# CpuState.debugger; NULL until a debugger first asks for something.
cdef struct Debugger:
    u32 step          # stop after the next instruction
    u32 skip          # the next instruction runs even if there is a breakpoint
    u32 over          # the stepped instruction is complete
    u32 n_watches
    u32 n_breaks
    u32 reason        # DebugReason of the last stop
    u64 skip_linear   # linear address of the instruction that `skip` refers to
    u64 seen          # bits of the watchpoints that the current instruction has hit
    u64 hits          # bits of the watchpoints of the last stop
    Watch watches[MAX_WATCHES]
    u64 breaks[MAX_BREAKS]   # linear addresses in rising order

cdef inline bint debug_watches(CpuState* c) noexcept nogil:
    """Whether a debugger watches data, so that instructions run one by one."""
    return c.debugger != NULL and (<Debugger*>c.debugger).n_watches != 0

cdef inline bint debug_seen(CpuState* c) noexcept nogil:
    return c.debugger != NULL and (<Debugger*>c.debugger).seen != 0

# Whether interrupts wait for the next instruction: a step must end after it, not in a handler.
cdef bint debug_holds(CpuState* c) noexcept nogil
# Whether the debugger stops here; call between two instructions, before interrupts.
cdef bint debug_stops(CpuState* c) noexcept nogil
# Call before the instruction at RIP, after interrupts; returns 0 or DEBUG_*.
cdef int debug_before(CpuState* c) noexcept nogil
# Call after an instruction; `again`: more repetitions of it follow.
cdef void debug_after(CpuState* c, bint again) noexcept nogil
# Call after the delivery of an exception or interrupt, with RIP at the handler.
cdef void debug_event(CpuState* c) noexcept nogil
# Record an access of the current instruction; forget its accesses, because it did not complete.
cdef void debug_access(CpuState* c, u64 linear, u32 size, bint write) noexcept nogil
cdef void debug_forget(CpuState* c) noexcept nogil
# Return how many bytes a fragment at `linear` may have before the next breakpoint; 0: no limit.
cdef u32 debug_room(CpuState* c, u64 linear) noexcept nogil
