"""The local APIC of the virtual processor (SDM 3A ch. 10): xAPIC and x2APIC, with its timer.

The state belongs to the processor's own thread.  Other threads post their interrupts, and the
processor accepts them at its next safepoint.  There is one processor, so messages to others are
dropped, and it ignores INIT and start-up messages to itself.

The timer is in `ringlet.vcpu.apic.timer`.
"""
from libc.stdlib cimport calloc, free
from ringlet.core.alarm cimport alarm_set
from ringlet.core.host cimport host_ticks
from ringlet.core.prod cimport request_stop
from ringlet.core.state cimport (
    CpuState, EMU_EXIT, EMU_FAULT, EXIT_EOI, VEC_GP, VEC_NMI, raise_err, u32, u64)
from ringlet.vcpu.apic.state cimport (
    APIC_EN, Apic, LVT_COUNT, LVT_ERROR, LVT_LINT0, LVT_LINT1, LVT_MASKED, LVT_TIMER,
    TIMER_DEADLINE, TIMER_MODE, apic_enabled, in_x2apic, post, take)
from ringlet.vcpu.apic.timer cimport (
    timer_count, timer_expires, timer_mode_written, timer_set_deadline, timer_start)
from ringlet.vcpu.system.cpuid cimport CPUID_ECX, cpuid_bit

cdef extern from * nogil:
    """
    static inline unsigned ringlet_exchange(unsigned *word, unsigned value)
    {
        return __atomic_exchange_n(word, value, __ATOMIC_SEQ_CST);
    }
    static inline void ringlet_or(unsigned *word, unsigned value)
    {
        __atomic_or_fetch(word, value, __ATOMIC_SEQ_CST);
    }
    static inline int ringlet_top(unsigned word) { return 31 - __builtin_clz(word); }
    """
    u32 ringlet_exchange(u32* word, u32 value)
    void ringlet_or(u32* word, u32 value)
    int ringlet_top(u32 word)

# Registers by their offset in the page; the MSR is 800h + offset / 16 (SDM 3A table 10-6).
cdef enum:
    REG_ID = 0x020
    REG_VERSION = 0x030
    REG_TPR = 0x080
    REG_PPR = 0x0A0
    REG_EOI = 0x0B0
    REG_LDR = 0x0D0
    REG_DFR = 0x0E0
    REG_SVR = 0x0F0
    REG_ISR = 0x100
    REG_TMR = 0x180
    REG_IRR = 0x200
    REG_ESR = 0x280
    REG_ICR = 0x300
    REG_ICR_HIGH = 0x310
    REG_LVT = 0x320
    REG_LVT_LAST = 0x370
    REG_INITIAL = 0x380
    REG_CURRENT = 0x390
    REG_DIVIDE = 0x3E0
    REG_SELF = 0x3F0

cdef enum:
    LVT_MODE = 7 << 8
    SVR_ENABLED = 1 << 8
    VERSION = 0x14 | (LVT_COUNT - 1) << 16
    DELIVER_FIXED = 0
    DELIVER_LOWEST = 1
    DELIVER_NMI = 4
    DELIVER_EXTERNAL = 7
    ERROR_SEND_VECTOR = 1 << 5
    ERROR_RECEIVED_VECTOR = 1 << 6
    ERROR_REGISTER = 1 << 7
    ICR_LOGICAL = 1 << 11
    ICR_SHORTHAND = 3 << 18
    SHORTHAND_SELF = 1 << 18
    SHORTHAND_ALL = 2 << 18
    SHORTHAND_OTHERS = 3 << 18
    MSR_FIRST = 0x800
    FIRST_LEGAL = 16        # lower vectors are illegal for the APIC

cdef int apic_create(CpuState* c) except -1:
    c.apic = calloc(1, sizeof(Apic))
    if c.apic == NULL:
        raise MemoryError("local APIC")
    reset(<Apic*>c.apic)
    return 0


cdef void apic_destroy(CpuState* c) noexcept:
    free(c.apic)
    c.apic = NULL


cdef void reset(Apic* a) noexcept nogil:
    """Set the registers to their values after power-up (SDM 3A 10.4.7.1), in virtual wire mode.

    As firmware leaves them, LINT0 passes the controller's INTR and LINT1 is the NMI
    (MultiProcessor Specification 3.6.2.1).
    """
    cdef u32 i
    a.arch.ldr = a.arch.esr = a.arch.errors = a.arch.tpr_low = 0
    a.arch.icr = a.arch.icr_high = a.arch.divide = a.arch.initial = 0
    a.arch.dfr = <u32>0xFFFFFFFF
    a.arch.svr = SVR_ENABLED | 0xFF
    for i in range(LVT_COUNT):
        a.arch.lvt[i] = LVT_MASKED
    a.arch.lvt[LVT_LINT0] = DELIVER_EXTERNAL << 8
    a.arch.lvt[LVT_LINT1] = DELIVER_NMI << 8
    for i in range(8):
        a.arch.irr[i] = a.arch.isr[i] = a.arch.tmr[i] = 0
    a.arch.started = a.arch.period = a.arch.due = a.arch.deadline = 0


# --- the three vectors of 256 bits

cdef inline void put(u32* bits, u32 vector) noexcept nogil:
    bits[vector >> 5] |= <u32>1 << (vector & 31)


cdef inline void clear(u32* bits, u32 vector) noexcept nogil:
    bits[vector >> 5] &= ~(<u32>1 << (vector & 31))


cdef inline bint has(u32* bits, u32 vector) noexcept nogil:
    return bits[vector >> 5] >> (vector & 31) & 1


cdef int highest(u32* bits) noexcept nogil:
    """Return the highest vector of a set, or -1."""
    cdef int i
    for i in range(7, -1, -1):
        if bits[i]:
            return 32 * i + ringlet_top(bits[i])
    return -1


# --- priorities and delivery (SDM 3A 10.8)

cdef u32 task_priority(CpuState* c) noexcept nogil:
    return <u32>c.arch.cr8 << 4 | (<Apic*>c.apic).arch.tpr_low


cdef u32 processor_priority(CpuState* c) noexcept nogil:
    cdef int serving = highest(&(<Apic*>c.apic).arch.isr[0])
    cdef u32 task = task_priority(c)
    if serving >= 0 and serving >> 4 > <int>(task >> 4):
        return serving & 0xF0
    return task


cdef void see(CpuState* c) noexcept nogil:
    """Set CpuState.intr from the requested interrupts."""
    cdef Apic* a = <Apic*>c.apic
    cdef u32 waits = 0
    cdef int request
    if not apic_enabled(c):
        waits = INTR_EXTERNAL if a.line else 0
    elif a.arch.svr & SVR_ENABLED:
        if a.line and a.arch.lvt[LVT_LINT0] & (LVT_MASKED | LVT_MODE) == DELIVER_EXTERNAL << 8:
            waits = INTR_EXTERNAL
        request = highest(&a.arch.irr[0])
        if request >= 0 and request >> 4 > <int>(processor_priority(c) >> 4):
            waits |= INTR_LOCAL
    c.intr = waits


cdef void error(Apic* a, u32 bit) noexcept nogil:
    a.arch.errors |= bit
    if not a.arch.lvt[LVT_ERROR] & LVT_MASKED:
        # An illegal vector is dropped here: to report it would raise the same error again.
        if a.arch.lvt[LVT_ERROR] & 0xFF >= FIRST_LEGAL:
            put(&a.arch.irr[0], a.arch.lvt[LVT_ERROR] & 0xFF)
            clear(&a.arch.tmr[0], a.arch.lvt[LVT_ERROR] & 0xFF)


cdef void request(Apic* a, u32 vector, bint level) noexcept nogil:
    if vector < FIRST_LEGAL:
        error(a, ERROR_RECEIVED_VECTOR)
        return
    put(&a.arch.irr[0], vector)
    if level:
        put(&a.arch.tmr[0], vector)
    else:
        clear(&a.arch.tmr[0], vector)


cdef void apic_update(CpuState* c) noexcept nogil:
    cdef Apic* a = <Apic*>c.apic
    cdef u32 i, bits
    cdef u64 posted
    for i in range(8):
        if a.posted[i]:
            posted = take(&a.posted[i])
            bits = <u32>posted
            a.arch.irr[i] |= bits
            a.arch.tmr[i] = (a.arch.tmr[i] & ~bits) | <u32>(posted >> 32)
    if a.posted_nmi and ringlet_exchange(&a.posted_nmi, 0):
        c.arch.nmi_pending = 1
    see(c)


cdef void apic_set_class(CpuState* c, u64 value) noexcept nogil:
    c.arch.cr8 = value
    (<Apic*>c.apic).arch.tpr_low = 0
    apic_update(c)


cdef u32 apic_accept(CpuState* c) noexcept nogil:
    cdef Apic* a = <Apic*>c.apic
    cdef int vector = highest(&a.arch.irr[0])
    if vector < 0 or vector >> 4 <= <int>(processor_priority(c) >> 4):
        see(c)
        return a.arch.svr & 0xFF
    clear(&a.arch.irr[0], vector)
    put(&a.arch.isr[0], vector)
    see(c)
    return vector


cdef int end_of_interrupt(CpuState* c) noexcept nogil:
    """End the interrupt in service; EMU_EXIT: the machine's I/O APIC has to be told of it."""
    cdef Apic* a = <Apic*>c.apic
    cdef int vector = highest(&a.arch.isr[0])
    if vector < 0:
        return 0
    clear(&a.arch.isr[0], vector)
    see(c)
    if not has(&a.arch.tmr[0], vector):
        return 0
    c.io_data = vector
    c.exit_kind = EXIT_EOI
    return EMU_EXIT


# --- messages (SDM 3A 10.6, 10.11)

cdef void apic_line(CpuState* c, bint level) noexcept nogil:
    (<Apic*>c.apic).line = level
    request_stop(c)


cdef bint addressed(CpuState* c, u32 destination, bint logical) noexcept nogil:
    """Whether an 8-bit destination names this processor, whose ID is 0 (SDM 3A 10.6.2)."""
    cdef Apic* a = <Apic*>c.apic
    if destination == 0xFF:
        return True
    if not logical:
        return destination == 0
    if in_x2apic(c):
        return destination & 1         # first member of cluster 0
    if a.arch.dfr >> 28 == 0xF:
        return destination & (a.arch.ldr >> 24) != 0
    return destination >> 4 == a.arch.ldr >> 28 and destination & (a.arch.ldr >> 24) & 0xF


cdef void apic_message(CpuState* c, u64 address, u32 data) noexcept nogil:
    cdef Apic* a = <Apic*>c.apic
    cdef u32 vector = data & 0xFF, mode = data >> 8 & 7
    if not addressed(c, <u32>(address >> 12) & 0xFF, address >> 2 & 1):
        return
    if mode == DELIVER_NMI:
        ringlet_or(&a.posted_nmi, 1)
    elif mode == DELIVER_FIXED or mode == DELIVER_LOWEST:
        if vector < FIRST_LEGAL:
            return
        post(&a.posted[vector >> 5], <u32>1 << (vector & 31), data >> 15 & 1)
    else:
        return
    request_stop(c)


cdef void send(CpuState* c, u32 destination, u32 low) noexcept nogil:
    """Send an interrupt command; only one to this processor has an effect."""
    cdef Apic* a = <Apic*>c.apic
    cdef u32 shorthand = low & ICR_SHORTHAND, mode = low >> 8 & 7
    cdef bint own
    if shorthand == 0:
        own = addressed(c, destination, low & ICR_LOGICAL)
    else:
        own = shorthand != SHORTHAND_OTHERS
    if mode <= DELIVER_LOWEST and low & 0xFF < FIRST_LEGAL:
        error(a, ERROR_SEND_VECTOR)
    elif own and mode <= DELIVER_LOWEST:
        request(a, low & 0xFF, False)
    elif own and mode == DELIVER_NMI:
        c.arch.nmi_pending = 1
    see(c)


# --- the timer

cdef u64 apic_due(CpuState* c) noexcept nogil:
    cdef u64 due = (<Apic*>c.apic).arch.due
    if not due or c.alarm_due and c.alarm_due < due:
        return c.alarm_due
    return due


cdef void apic_tick(CpuState* c) noexcept nogil:
    cdef Apic* a = <Apic*>c.apic
    cdef u64 now = host_ticks()
    if c.alarm_due and now >= c.alarm_due:
        c.alarm_due = 0
        c.stop = 1
    if timer_expires(a, now) and not a.arch.lvt[LVT_TIMER] & LVT_MASKED:
        request(a, a.arch.lvt[LVT_TIMER] & 0xFF, False)
    alarm_set(c, apic_due(c))


cdef u64 apic_deadline(CpuState* c) noexcept nogil:
    return (<Apic*>c.apic).arch.deadline


cdef void apic_set_deadline(CpuState* c, u64 deadline) noexcept nogil:
    """Set IA32_TSC_DEADLINE, in ticks of the guest's TSC; 0 disarms the timer."""
    timer_set_deadline(c, <Apic*>c.apic, deadline)
    apic_tick(c)
    see(c)


cdef void write_lvt(CpuState* c, u32 index, u32 value) noexcept nogil:
    cdef Apic* a = <Apic*>c.apic
    cdef u32 mode = a.arch.lvt[LVT_TIMER] & TIMER_MODE
    if index == LVT_TIMER:
        value &= LVT_MASKED | TIMER_MODE | 0xFF
        if not cpuid_bit(c, 1, 0, CPUID_ECX, 24):
            value &= ~<u32>TIMER_DEADLINE
    elif index == LVT_ERROR:
        value &= LVT_MASKED | 0xFF
    elif index == LVT_LINT0 or index == LVT_LINT1:
        value &= LVT_MASKED | 0xA7FF
    else:
        value &= LVT_MASKED | 0x7FF
    if not a.arch.svr & SVR_ENABLED:
        value |= LVT_MASKED
    a.arch.lvt[index] = value
    if index == LVT_TIMER:
        timer_mode_written(c, a, mode)
        alarm_set(c, apic_due(c))
    see(c)


cdef void write_svr(CpuState* c, u32 value) noexcept nogil:
    cdef Apic* a = <Apic*>c.apic
    cdef u32 i
    a.arch.svr = value & 0x1FF
    if not value & SVR_ENABLED:
        for i in range(LVT_COUNT):
            a.arch.lvt[i] |= LVT_MASKED
    see(c)


# --- registers

cdef bint apic_holds(CpuState* c, u64 phys) noexcept nogil:
    return (phys ^ c.arch.apic_base) >> 12 == 0 and apic_enabled(c) and not in_x2apic(c)


cdef u32 apic_read(CpuState* c, u32 offset) noexcept nogil:
    cdef Apic* a = <Apic*>c.apic
    cdef u32 reg = offset & 0xFF0
    if reg == REG_VERSION:
        return VERSION
    elif reg == REG_TPR:
        return task_priority(c)
    elif reg == REG_PPR:
        return processor_priority(c)
    elif reg == REG_LDR:
        return 1 if in_x2apic(c) else a.arch.ldr
    elif reg == REG_DFR:
        return a.arch.dfr
    elif reg == REG_SVR:
        return a.arch.svr
    elif REG_ISR <= reg < REG_TMR:
        return a.arch.isr[(reg - REG_ISR) >> 4]
    elif REG_TMR <= reg < REG_IRR:
        return a.arch.tmr[(reg - REG_TMR) >> 4]
    elif REG_IRR <= reg < REG_ESR:
        return a.arch.irr[(reg - REG_IRR) >> 4]
    elif reg == REG_ESR:
        return a.arch.esr
    elif reg == REG_ICR:
        return a.arch.icr
    elif reg == REG_ICR_HIGH:
        return a.arch.icr_high
    elif REG_LVT <= reg <= REG_LVT_LAST:
        return a.arch.lvt[(reg - REG_LVT) >> 4]
    elif reg == REG_INITIAL:
        return a.arch.initial
    elif reg == REG_CURRENT:
        return timer_count(c, a)
    elif reg == REG_DIVIDE:
        return a.arch.divide
    return 0


cdef int apic_write(CpuState* c, u32 offset, u32 value) noexcept nogil:
    """Write a register; EMU_EXIT: the write is done and the machine has to be told, else 0."""
    cdef Apic* a = <Apic*>c.apic
    cdef u32 reg = offset & 0xFF0
    if reg == REG_TPR:
        c.arch.cr8 = value >> 4 & 0xF
        a.arch.tpr_low = value & 0xF
        see(c)
    elif reg == REG_EOI:
        return end_of_interrupt(c)
    elif reg == REG_LDR:
        a.arch.ldr = value & <u32>0xFF000000
    elif reg == REG_DFR:
        a.arch.dfr = value | 0xFFFFFFF
    elif reg == REG_SVR:
        write_svr(c, value)
    elif reg == REG_ESR:
        a.arch.esr = a.arch.errors
        a.arch.errors = 0
    elif reg == REG_ICR:
        a.arch.icr = value & 0xCCFFF
        send(c, a.arch.icr_high >> 24, value)
    elif reg == REG_ICR_HIGH:
        a.arch.icr_high = value
    elif REG_LVT <= reg <= REG_LVT_LAST:
        write_lvt(c, (reg - REG_LVT) >> 4, value)
    elif reg == REG_INITIAL:
        if not a.arch.lvt[LVT_TIMER] & TIMER_DEADLINE:
            timer_start(c, a, value)
            alarm_set(c, apic_due(c))
    elif reg == REG_DIVIDE:
        a.arch.divide = value & 0xB
    return 0


cdef bint writable(u32 reg) noexcept nogil:
    return reg in (REG_TPR, REG_EOI, REG_SVR, REG_ESR, REG_ICR, REG_INITIAL, REG_DIVIDE,
                   REG_SELF) or REG_LVT <= reg <= REG_LVT_LAST


cdef bint readable(u32 reg) noexcept nogil:
    return reg in (REG_ID, REG_VERSION, REG_TPR, REG_PPR, REG_LDR, REG_SVR, REG_ESR, REG_ICR,
                   REG_INITIAL, REG_CURRENT, REG_DIVIDE) or (
        REG_ISR <= reg < REG_ESR or REG_LVT <= reg <= REG_LVT_LAST)


cdef int apic_read_msr(CpuState* c, u32 index, u64* value) noexcept nogil:
    cdef u32 reg = (index - MSR_FIRST) << 4
    if not in_x2apic(c) or not readable(reg):
        return raise_err(c, VEC_GP, 0)
    value[0] = apic_read(c, reg)
    if reg == REG_ICR:
        value[0] |= <u64>(<Apic*>c.apic).arch.icr_high << 32
    return 0


cdef u64 reserved_bits(u32 reg) noexcept nogil:
    """Return the bits that WRMSR must leave 0 (SDM 3A 10.12.1.2 and the registers' figures)."""
    if reg == REG_ICR:
        return 0xFFF32000
    if reg == REG_EOI or reg == REG_ESR:
        return ~<u64>0
    if reg == REG_TPR or reg == REG_SELF:
        return ~<u64>0xFF
    if reg == REG_SVR:
        return ~<u64>0x1FF
    return <u64>0xFFFFFFFF << 32


cdef int apic_write_msr(CpuState* c, u32 index, u64 value) noexcept nogil:
    cdef Apic* a = <Apic*>c.apic
    cdef u32 reg = (index - MSR_FIRST) << 4
    cdef u32 destination = <u32>(value >> 32)
    if not in_x2apic(c) or not writable(reg) or value & reserved_bits(reg):
        return raise_err(c, VEC_GP, 0)
    if reg == REG_SELF:
        send(c, 0, SHORTHAND_SELF | <u32>value)
        return 0
    if reg == REG_ICR:
        a.arch.icr = <u32>value & 0xCCFFF
        a.arch.icr_high = destination
        if destination != <u32>0xFFFFFFFF and destination >> 8:
            return 0                           # there is no such processor
        send(c, destination & 0xFF, <u32>value)
        return 0
    return apic_write(c, reg, <u32>value)


cdef void apic_base_written(CpuState* c, u64 old) noexcept nogil:
    """Reset the APIC when IA32_APIC_BASE disables it (SDM 3A 10.4.3)."""
    if old & APIC_EN and not apic_enabled(c):
        reset(<Apic*>c.apic)
        (<Apic*>c.apic).arch.svr = 0xFF
        alarm_set(c, apic_due(c))
    see(c)
