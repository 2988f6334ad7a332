"""Keep a direct process and its virtual processor on one processor of the host.

From Linux 6.6 on, whoever hands over wakes the other on its own processor.  Earlier kernels wake it
on another one that is idle, which takes several times as long.  There the process follows the
thread, and the thread is kept where it is.  Ten times in a second it is let go for one hand-over,
so that Linux wakes it where a processor is idle, if one is.
"""
from ringlet.core.alarm cimport to_ticks
from ringlet.core.host cimport host_ticks
from ringlet.core.state cimport CpuState, u32, u64
from ringlet.direct.process cimport Direct

cdef extern from "ringlet/direct/calls.h" nogil:
    """
    static inline long ringlet_get_affinity(void *mask, long size)
    { return ringlet_call(SYS_sched_getaffinity, 0, size, (long)mask, 0); }
    static inline long ringlet_set_affinity(int pid, const void *mask, long size)
    { return ringlet_call(SYS_sched_setaffinity, pid, size, (long)mask, 0); }
    static inline unsigned ringlet_cpu(void)
    {
        unsigned cpu = 0;
        ringlet_call(SYS_getcpu, (long)&cpu, 0, 0, 0);
        return cpu;
    }
    """
    long ringlet_get_affinity(void* mask, long size)
    long ringlet_set_affinity(int pid, const void* mask, long size)
    u32 ringlet_cpu()

cdef enum:
    KEPT_MS = 100


cdef long keep(int pid, u32 cpu) noexcept nogil:
    """Keep a process, or with 0 the calling thread, on one processor; negative: it is not."""
    cdef u64[MASK_WORDS] mask
    cdef u32 i
    for i in range(MASK_WORDS):
        mask[i] = 0
    mask[cpu >> 6] = <u64>1 << (cpu & 63)
    return ringlet_set_affinity(pid, mask, sizeof(mask))


cdef bint alone(const u64* mask, u32 cpu) noexcept nogil:
    """The mask has this processor and no other."""
    cdef u32 i
    for i in range(MASK_WORDS):
        if mask[i] != (<u64>1 << (cpu & 63) if i == cpu >> 6 else 0):
            return False
    return True


cdef bint read_mask(u64* mask) noexcept nogil:
    """Read on which processors the thread may run; False: there are too many."""
    cdef u32 i
    # Linux writes no more than it needs.
    for i in range(MASK_WORDS):
        mask[i] = 0
    return ringlet_get_affinity(mask, MASK_WORDS * sizeof(u64)) > 0


cdef void widen(u64* mask) noexcept nogil:
    """Put all processors into a mask that has all that the thread's cpuset has: only then does a
    change of the cpuset change the thread's processors too."""
    cdef u64[MASK_WORDS] every
    cdef u64[MASK_WORDS] found
    cdef u32 i
    for i in range(MASK_WORDS):
        every[i] = ~<u64>0
    if ringlet_set_affinity(0, every, sizeof(every)) < 0 or not read_mask(found):
        return
    for i in range(MASK_WORDS):
        if found[i] != mask[i]:
            return
    for i in range(MASK_WORDS):
        mask[i] = every[i]


cdef void placement_begins(Placement* p, Direct* d) noexcept nogil:
    if d.wakes_here or not p.kept or d.cpu == p.cpu:
        return
    # A process that cannot follow still hands over, only more slowly.
    keep(d.pid, p.cpu)
    d.cpu = p.cpu


cdef void placement_ended(CpuState* c, Placement* p, Direct* d) noexcept nogil:
    if d.wakes_here or p.kept:
        return
    p.cpu = ringlet_cpu()
    if not read_mask(p.mask) or p.cpu >= 64 * MASK_WORDS:
        return
    widen(p.mask)
    p.kept = keep(0, p.cpu) == 0
    p.until = host_ticks() + to_ticks(c, KEPT_MS, 1000)
    if not p.kept:
        ringlet_set_affinity(0, p.mask, sizeof(p.mask))


cdef void placement_tick(Placement* p) noexcept nogil:
    if p.kept and host_ticks() >= p.until:
        placement_leave(p)


cdef void placement_leave(Placement* p) noexcept nogil:
    cdef u64[MASK_WORDS] mask
    if not p.kept:
        return
    p.kept = 0
    # If its processors were changed from outside, they stay so.
    if read_mask(mask) and alone(mask, p.cpu):
        ringlet_set_affinity(0, p.mask, sizeof(mask))
