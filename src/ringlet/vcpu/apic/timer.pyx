"""The timer of the local APIC (SDM 3A 10.5.4).

The end of its count and its deadline are both kept as a value of the host's TSC.
"""
from ringlet.core.alarm cimport from_ticks, to_ticks
from ringlet.core.host cimport host_ticks
from ringlet.core.state cimport CpuState, CpuidEntry, u32, u64
from ringlet.vcpu.apic.state cimport (
    Apic, LVT_TIMER, TIMER_DEADLINE, TIMER_MODE, TIMER_PERIODIC)
from ringlet.vcpu.system.cpuid cimport cpuid_find

cdef enum:
    SHORTEST = 2000         # ns: with a shorter period the guest would only handle interrupts


cdef u64 frequency(CpuState* c) noexcept nogil:
    """Return the frequency in Hz before the divider: the core crystal clock (CPUID leaf 15h)."""
    cdef CpuidEntry* entry = cpuid_find(c, 0x15, 0)
    return entry.ecx if entry != NULL and entry.ecx else 1000000


cdef u32 divisor(Apic* a) noexcept nogil:
    cdef u32 code = (a.arch.divide & 3) | (a.arch.divide >> 1 & 4)
    return 1 if code == 7 else 2 << code


cdef void timer_start(CpuState* c, Apic* a, u32 count) noexcept nogil:
    """Start the timer with an initial count; 0 stops it."""
    cdef u64 least = to_ticks(c, SHORTEST, 1000000000)
    a.arch.initial = count
    a.arch.due = 0
    if count:
        a.arch.started = host_ticks()
        a.arch.period = to_ticks(c, <u64>count * divisor(a), frequency(c))
        if a.arch.period < least:
            a.arch.period = least
        a.arch.due = a.arch.started + a.arch.period


cdef u32 timer_count(CpuState* c, Apic* a) noexcept nogil:
    cdef u64 gone, counted
    if not a.arch.initial or a.arch.lvt[LVT_TIMER] & TIMER_DEADLINE:
        return 0
    gone = host_ticks() - a.arch.started
    if a.arch.lvt[LVT_TIMER] & TIMER_PERIODIC:
        gone %= a.arch.period
    elif gone >= a.arch.period:
        return 0
    counted = from_ticks(c, gone, frequency(c)) / divisor(a)
    return a.arch.initial - <u32>counted if counted < a.arch.initial else 0


cdef bint timer_expires(Apic* a, u64 now) noexcept nogil:
    if not a.arch.due or now < a.arch.due:
        return False
    if a.arch.lvt[LVT_TIMER] & TIMER_MODE == TIMER_PERIODIC:
        # Expirations that come before the previous one was handled are lost, as on a processor.
        a.arch.due += a.arch.period * (1 + (now - a.arch.due) / a.arch.period)
    else:
        a.arch.due = a.arch.deadline = 0
    return True


cdef void timer_mode_written(CpuState* c, Apic* a, u32 old) noexcept nogil:
    cdef u32 mode = a.arch.lvt[LVT_TIMER] & TIMER_MODE
    if (mode ^ old) & TIMER_DEADLINE:
        # SDM 3A 10.5.4.1: changing from or to the deadline mode disarms.
        a.arch.due = a.arch.deadline = 0
        a.arch.initial = 0
    elif mode != old and mode == TIMER_PERIODIC and a.arch.initial and not a.arch.due:
        timer_start(c, a, a.arch.initial)


cdef void timer_set_deadline(CpuState* c, Apic* a, u64 deadline) noexcept nogil:
    """Set a deadline in ticks of the guest's TSC; 0 disarms.  Other modes ignore it."""
    if a.arch.lvt[LVT_TIMER] & TIMER_MODE != TIMER_DEADLINE:
        return
    a.arch.deadline = deadline
    a.arch.due = 0
    if deadline:
        a.arch.due = deadline - c.arch.tsc_offset
        # A deadline in the past (by the signed difference) expires now; `due` = 0 would mean never.
        if <u64>(a.arch.due - host_ticks()) >> 63 or not a.arch.due:
            a.arch.due = 1
