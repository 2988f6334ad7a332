"""The state of the local APIC (SDM 3A 10.4)."""
from ringlet.core.state cimport CpuState, u32, u64

# IA32_APIC_BASE.
cdef enum:
    APIC_EXTD = 1 << 10
    APIC_EN = 1 << 11

# Entries of the local vector table, in the order of their registers.
cdef enum:
    LVT_TIMER = 0
    LVT_THERMAL = 1
    LVT_COUNTERS = 2
    LVT_LINT0 = 3
    LVT_LINT1 = 4
    LVT_ERROR = 5
    LVT_COUNT = 6

# Bits of an entry.
cdef enum:
    LVT_MASKED = 1 << 16
    TIMER_MODE = 3 << 17
    TIMER_PERIODIC = 1 << 17
    TIMER_DEADLINE = 2 << 17

# The architectural state: saved, compared and shown with CpuState.arch.
cdef struct ApicState:
    u32 ldr, dfr, svr, esr, errors
    u32 tpr_low             # bits 3:0 of TPR; CR8 holds bits 7:4
    u32 icr, icr_high
    u32 lvt[LVT_COUNT]
    u32 divide, initial
    u32 irr[8]
    u32 isr[8]
    u32 tmr[8]
    u64 started             # TSC at which the count began
    u64 period              # TSC ticks of a whole count
    u64 due                 # TSC at which the timer's interrupt is due, or 0
    u64 deadline            # IA32_TSC_DEADLINE

cdef struct Apic:
    ApicState arch
    # --- other threads write these
    u32 line
    u64 posted[8]           # posted requests: 32 vectors, and 32 bits for level triggering
    u32 posted_nmi

cdef inline bint apic_enabled(CpuState* c) noexcept nogil:
    return c.arch.apic_base & APIC_EN != 0

cdef inline bint in_x2apic(CpuState* c) noexcept nogil:
    return c.arch.apic_base & (APIC_EN | APIC_EXTD) == APIC_EN | APIC_EXTD

cdef extern from * nogil:
    """
    /* A request and its trigger mode share a word, so that no thread reads half of a message.
       The last of several messages sets the mode, as if they were accepted one by one. */
    static inline void ringlet_post(unsigned long *word, unsigned bit, int level)
    {
        unsigned long old = __atomic_load_n(word, __ATOMIC_RELAXED), value;
        do {
            value = old | bit;
            value = level ? value | (unsigned long)bit << 32 : value & ~((unsigned long)bit << 32);
        } while (!__atomic_compare_exchange_n(word, &old, value, 0, __ATOMIC_SEQ_CST,
                                              __ATOMIC_RELAXED));
    }
    static inline unsigned long ringlet_take(unsigned long *word)
    {
        return __atomic_exchange_n(word, 0, __ATOMIC_SEQ_CST);
    }
    """
    void post "ringlet_post" (u64* word, u32 bit, bint level)
    u64 take "ringlet_take" (u64* word)
