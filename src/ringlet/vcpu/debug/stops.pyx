"""Breakpoints, watchpoints and single steps of a debugger, invisible to the guest.

The debugger writes nothing to guest memory and uses no register of the guest.  A fragment
ends before an address with a breakpoint, and no fragment that begins there is linked or in a jump
table.  So every path to a breakpoint leads through the run loop, which calls these functions.  An
instruction that is stepped, or that continues from a breakpoint, has KEY_STEP in its key, as if the
guest stepped it.  Fragments with that key hold one instruction and return to the run loop.
"""
from ringlet.core.state cimport CpuState, code_linear, u32, u64


cdef bint debug_holds(CpuState* c) noexcept nogil:
    cdef Debugger* d = <Debugger*>c.debugger
    # A halted processor has no next instruction until an interrupt comes.
    return ((d.step or (d.skip and code_linear(c, c.arch.rip) == d.skip_linear))
            and not c.arch.halted)


cdef bint debug_stops(CpuState* c) noexcept nogil:
    cdef Debugger* d = <Debugger*>c.debugger
    if d.seen:
        d.hits = d.seen
        d.reason = DEBUG_WATCHPOINT
    elif d.step and d.over:
        d.reason = DEBUG_STEPPED
    else:
        return False
    d.seen = 0
    d.step = d.skip = d.over = 0
    return True


cdef int debug_before(CpuState* c) noexcept nogil:
    cdef Debugger* d = <Debugger*>c.debugger
    cdef u64 linear = code_linear(c, c.arch.rip)
    cdef u32 low = 0, high = d.n_breaks, middle
    if d.step and d.over:
        # An interrupt ended the halt: the step of a halted processor ends at the handler.
        debug_stops(c)
        return DEBUG_STOP
    if d.skip and linear == d.skip_linear:
        return DEBUG_ALONE
    d.skip = 0
    while low < high:
        middle = (low + high) >> 1
        if d.breaks[middle] < linear:
            low = middle + 1
        else:
            high = middle
    if low < d.n_breaks and d.breaks[low] == linear:
        d.reason = DEBUG_BREAKPOINT
        d.step = d.over = 0
        return DEBUG_STOP
    return DEBUG_ALONE if d.step else DEBUG_GO


cdef void debug_after(CpuState* c, bint again) noexcept nogil:
    cdef Debugger* d = <Debugger*>c.debugger
    d.over = 1
    if not again:
        d.skip = 0


cdef void debug_event(CpuState* c) noexcept nogil:
    cdef Debugger* d = <Debugger*>c.debugger
    d.over = 1
    d.skip = 0


cdef void debug_access(CpuState* c, u64 linear, u32 size, bint write) noexcept nogil:
    cdef Debugger* d = <Debugger*>c.debugger
    cdef Watch* w
    cdef u32 i
    for i in range(d.n_watches):
        w = &d.watches[i]
        if w.kinds & (2 if write else 1) and (
                linear - w.linear < w.size or w.linear - linear < size):
            d.seen |= <u64>1 << i


cdef void debug_forget(CpuState* c) noexcept nogil:
    if c.debugger != NULL:
        (<Debugger*>c.debugger).seen = 0


cdef u32 debug_room(CpuState* c, u64 linear) noexcept nogil:
    cdef Debugger* d = <Debugger*>c.debugger
    cdef u32 i
    if d == NULL:
        return 0
    for i in range(d.n_breaks):
        if d.breaks[i] > linear:
            return <u32>(d.breaks[i] - linear) if d.breaks[i] - linear < 4096 else 0
    return 0
