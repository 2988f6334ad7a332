"""Requests of a debugger, from Python; `ringlet.vcpu.debug.stops` carries them out."""
from libc.stdlib cimport calloc, free
from ringlet.cache.codecache cimport Cache
from ringlet.cache.invalidation cimport cache_drop_linear
from ringlet.core.state cimport ACC_READ, MEM_OK, CpuState, code_linear, u8, u32, u64
from ringlet.mmu.mmu cimport mmu_translate, phys_write, ram_host
from ringlet.vcpu.debug.blocks cimport BlockEvent, Blocks
from ringlet.vcpu.system.control cimport update_key
from ringlet.vcpu.debug.stops cimport DEBUG_NOTHING, Debugger, MAX_BREAKS, MAX_WATCHES, Watch

from ringlet.vcpu.debug.blocks import EventRecord


cdef Debugger* debugger(CpuState* c) except NULL:
    if c.debugger == NULL:
        c.debugger = calloc(1, sizeof(Debugger))
        if c.debugger == NULL:
            raise MemoryError("debugger")
    # Translated code that was left for Python may not fit the new settings.
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
    d.skip_linear = code_linear(c, c.arch.rip)
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
    # Write all of it or nothing: the first pass only checks.
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


cdef list blocks_events(CpuState* c):
    """Return the events in the ring as `EventRecord`s, the oldest first."""
    cdef Blocks* b = <Blocks*>c.blocks
    cdef u64 i, first
    cdef BlockEvent* e
    result = []
    if b != NULL and b.size:
        first = b.count - b.size if b.count > b.size else 0
        for i in range(first, b.count):
            e = &b.ring[i & (b.size - 1)]
            result.append(EventRecord(
                e.kind, e.cpl, e.rip, e.argument[0], e.argument[1], e.linear, e.cs, e.bits,
                (<char*>e.code)[:e.length]))
    return result
