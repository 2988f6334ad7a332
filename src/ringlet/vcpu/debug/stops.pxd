"""A debugger's stops: breakpoints, watchpoints and single steps that the guest cannot see."""
from ringlet.core.state cimport CpuState, u32, u64

cdef enum:
    MAX_BREAKS = 256
    MAX_WATCHES = 4

# What comes before an instruction.
cdef enum:
    DEBUG_GO = 0
    DEBUG_ALONE = 1   # it is to run alone
    DEBUG_STOP = 2    # not now

# Why the processor stopped.
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
    u32 over          # the instruction that was stepped is over
    u32 n_watches
    u32 n_breaks
    u32 reason        # DebugReason of the last stop
    u64 skip_rip      # which that is
    u64 seen          # bits of the watchpoints that the instruction at hand has hit
    u64 hits          # those of the last stop
    Watch watches[MAX_WATCHES]
    u64 breaks[MAX_BREAKS]   # linear addresses in rising order

cdef inline bint debug_watches(CpuState* c) noexcept nogil:
    """A debugger watches data: instructions run one by one."""
    return c.debugger != NULL and (<Debugger*>c.debugger).n_watches != 0

cdef inline bint debug_seen(CpuState* c) noexcept nogil:
    return c.debugger != NULL and (<Debugger*>c.debugger).seen != 0

# No interrupt comes before the next instruction: a step is to end behind it, not in a handler.
cdef bint debug_holds(CpuState* c) noexcept nogil
# Between two instructions, before interrupts: the debugger wants to stop here.
cdef bint debug_stops(CpuState* c) noexcept nogil
# Before the instruction at RIP, after interrupts: DEBUG_*.
cdef int debug_before(CpuState* c) noexcept nogil
# The instruction is over; `again`: but for more repetitions.
cdef void debug_after(CpuState* c, bint again) noexcept nogil
# An exception or interrupt was delivered: RIP is its handler's.
cdef void debug_event(CpuState* c) noexcept nogil
# An access of the instruction at hand, and that it came to nothing.
cdef void debug_access(CpuState* c, u64 linear, u32 size, bint write) noexcept nogil
cdef void debug_forget(CpuState* c) noexcept nogil
# How many bytes a fragment at `linear` may have so that no breakpoint is within; 0: any number.
cdef u32 debug_room(CpuState* c, u64 linear) noexcept nogil
