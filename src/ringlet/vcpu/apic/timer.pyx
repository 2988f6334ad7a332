"""The timer of the local APIC (SDM 3A 10.5.4).

Its count and its deadline are both held as a moment of the host's TSC.
"""
from ringlet.core.alarm cimport from_ticks, to_ticks
from ringlet.core.host cimport host_ticks
from ringlet.core.state cimport CpuState, CpuidEntry, u32, u64
from ringlet.vcpu.apic.state cimport (
    Apic, LVT_TIMER, TIMER_DEADLINE, TIMER_MODE, TIMER_PERIODIC)
from ringlet.vcpu.system.cpuid cimport cpuid_find

cdef enum:
    SHORTEST = 2000         # ns: a faster timer would leave the guest no time


cdef u64 frequency(CpuState* c) noexcept nogil:
    """Hz of the count before its divider: the core crystal clock (CPUID leaf 15h)."""
    cdef CpuidEntry* entry = cpuid_find(c, 0x15, 0)
    return entry.ecx if entry != NULL and entry.ecx else 1000000


cdef u32 divisor(Apic* a) noexcept nogil:
    cdef u32 code = (a.divide & 3) | (a.divide >> 1 & 4)
    return 1 if code == 7 else 2 << code


cdef void timer_start(CpuState* c, Apic* a, u32 count) noexcept nogil:
    """The initial count was written; 0 stops the timer."""
    cdef u64 least = to_ticks(c, SHORTEST, 1000000000)
    a.initial = count
    a.due = 0
    if count:
        a.started = host_ticks()
        a.period = to_ticks(c, <u64>count * divisor(a), frequency(c))
        if a.period < least:
            a.period = least
        a.due = a.started + a.period


cdef u32 timer_count(CpuState* c, Apic* a) noexcept nogil:
    cdef u64 gone, counted
    if not a.initial or a.lvt[LVT_TIMER] & TIMER_DEADLINE:
        return 0
    gone = host_ticks() - a.started
    if a.lvt[LVT_TIMER] & TIMER_PERIODIC:
        gone %= a.period
    elif gone >= a.period:
        return 0
    counted = from_ticks(c, gone, frequency(c)) / divisor(a)
    return a.initial - <u32>counted if counted < a.initial else 0


cdef bint timer_expires(Apic* a, u64 now) noexcept nogil:
    if not a.due or now < a.due:
        return False
    if a.lvt[LVT_TIMER] & TIMER_MODE == TIMER_PERIODIC:
        # Ticks that nobody could take in time are lost, as on a processor.
        a.due += a.period * (1 + (now - a.due) / a.period)
    else:
        a.due = a.deadline = 0
    return True


cdef void timer_mode_written(CpuState* c, Apic* a, u32 old) noexcept nogil:
    cdef u32 mode = a.lvt[LVT_TIMER] & TIMER_MODE
    if (mode ^ old) & TIMER_DEADLINE:
        # SDM 3A 10.5.4.1: changing from or to the deadline mode disarms.
        a.due = a.deadline = 0
        a.initial = 0
    elif mode != old and mode == TIMER_PERIODIC and a.initial and not a.due:
        timer_start(c, a, a.initial)


cdef void timer_set_deadline(CpuState* c, Apic* a, u64 deadline) noexcept nogil:
    """A deadline by the guest's TSC; 0 disarms.  In another mode it is not kept."""
    if a.lvt[LVT_TIMER] & TIMER_MODE != TIMER_DEADLINE:
        return
    a.deadline = deadline
    a.due = 0
    if deadline:
        a.due = deadline - c.tsc_offset
        # A moment gone by, by the signed difference, is now; 0 would be never.
        if <u64>(a.due - host_ticks()) >> 63 or not a.due:
            a.due = 1
