"""A debugger's stops: breakpoints, watchpoints and single steps that the guest cannot see.

Nothing is written to guest memory and no register of the guest is used.  A fragment ends before an
address with a breakpoint, and none that is linked or in a jump table begins there: every way to it
leads through the run loop, which asks here.  The one instruction that goes on from a breakpoint or
is stepped has KEY_STEP in its key, as one that the guest steps itself; fragments with that key
hold one instruction and lead back to the run loop.
"""
from libc.stdlib cimport calloc, free
from ringlet.cache.codecache cimport Cache, cache_drop_linear
from ringlet.core.state cimport ACC_READ, MEM_OK, CpuState, u8, u32, u64
from ringlet.mmu.mmu cimport mmu_translate, phys_write, ram_host
from ringlet.vcpu.control cimport update_key


cdef Debugger* debugger(CpuState* c) except NULL:
    if c.debugger == NULL:
        c.debugger = calloc(1, sizeof(Debugger))
        if c.debugger == NULL:
            raise MemoryError("debugger")
    # Translated code that an exit to Python left may not fit what is set now.
    c.resume = 0
    return <Debugger*>c.debugger


cdef void debug_destroy(CpuState* c) noexcept:
    free(c.debugger)
    c.debugger = NULL


cdef int debug_set_breaks(CpuState* c, addresses) except -1:
    cdef Debugger* d = debugger(c)
    cdef u32 i
    cdef u64 linear
    rising = sorted(set(addresses))
    if len(rising) > MAX_BREAKS:
        raise ValueError(f"at most {MAX_BREAKS} breakpoints")
    before = {d.breaks[i] for i in range(d.n_breaks)}
    for linear in before ^ set(rising):
        cache_drop_linear(c, <Cache*>c.cache, linear, 1)
    for i in range(len(rising)):
        d.breaks[i] = rising[i]
    d.n_breaks = len(rising)
    return 0


cdef int debug_set_watches(CpuState* c, watches) except -1:
    cdef Debugger* d = debugger(c)
    cdef Watch w
    rows = list(watches)
    if len(rows) > MAX_WATCHES:
        raise ValueError(f"at most {MAX_WATCHES} watchpoints")
    d.n_watches = 0
    for w.linear, w.size, w.kinds in rows:
        d.watches[d.n_watches] = w
        d.n_watches += 1
    d.seen = 0
    update_key(c)
    return 0


cdef int debug_go(CpuState* c, bint step, bint skip) except -1:
    cdef Debugger* d = debugger(c)
    d.step = step
    d.skip = skip
    d.skip_rip = c.rip
    d.over = 0
    d.seen = d.hits = 0
    d.reason = DEBUG_NOTHING
    return 0


cdef debug_why(CpuState* c):
    cdef Debugger* d = debugger(c)
    return d.reason, d.hits


cdef int debug_poke(CpuState* c, u64 linear, const u8* data, u64 size) except -1:
    cdef u64 at, phys = 0, part
    cdef int turn
    # All of it or nothing: the first turn only looks.
    for turn in range(2):
        at = 0
        while at < size:
            part = 4096 - ((linear + at) & 0xFFF)
            if part > size - at:
                part = size - at
            if mmu_translate(c, linear + at, ACC_READ, &phys) != MEM_OK or not ram_host(c, phys):
                raise ValueError(f"linear {linear + at:#x} is not mapped to RAM")
            if turn:
                phys_write(c, phys, data + at, <u32>part)
            at += part
    return 0


cdef bint debug_holds(CpuState* c) noexcept nogil:
    cdef Debugger* d = <Debugger*>c.debugger
    # A processor that is halted has no next instruction without one.
    return (d.step or (d.skip and c.rip == d.skip_rip)) and not c.halted


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
    cdef u32 low = 0, high = d.n_breaks, middle
    if d.skip and c.rip == d.skip_rip:
        return DEBUG_ALONE
    d.skip = 0
    while low < high:
        middle = (low + high) >> 1
        if d.breaks[middle] < c.rip:
            low = middle + 1
        else:
            high = middle
    if low < d.n_breaks and d.breaks[low] == c.rip:
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
