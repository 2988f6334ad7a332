"""Delivery of exceptions, interrupts and NMIs (SDM 3A ch. 6).

If the delivery of an event faults, the second exception, a double fault or a shutdown follows, as
in SDM 3A table 6-5.  The guest's state does not change until the last access of a delivery has
succeeded, except CR2 and DR6, which are written when the exception arises; but a switch to another
task may fault when that task has begun.
"""
from ringlet.core.state cimport (
    EMU_FLOW, EMU_EXIT, EXIT_INTERRUPTED, EXIT_SHUTDOWN, Event, RAISED_MAX, Raised, FLAG_RF,
    ACC_FETCH, ACC_WRITE, VEC_DE, VEC_DB, VEC_NMI, VEC_DF, VEC_TS, VEC_GP, VEC_PF, VEC_MC,
    get_rflags)
from ringlet.vcpu.apic.local cimport apic_tick
from ringlet.vcpu.debug.blocks cimport EXCEPTION, INTERRUPT, blocks_event
from ringlet.vcpu.debug.stops cimport debug_event
from ringlet.vcpu.loop.gates cimport (
    FROM_OUTSIDE, FROM_PROCESSOR, FROM_SOFTWARE, pass_gate)
from ringlet.vcpu.system.mmio cimport device_forget
from ringlet.vcpu.system.pending cimport PENDING_EVENT
from ringlet.vcpu.system.registers cimport DR6_BD, DR7_GD

cdef enum:
    LONGEST_CHAIN = 8    # of exceptions without an instruction between, if it is not endless

# Classes of SDM 3A table 6-4.
cdef enum Class:
    BENIGN = 0
    CONTRIBUTORY = 1
    PAGE_FAULT = 2


cdef int classify(u32 vector) noexcept nogil:
    if vector == VEC_PF:
        return PAGE_FAULT
    if vector == VEC_DE or VEC_TS <= vector <= VEC_GP:
        return CONTRIBUTORY
    return BENIGN


cdef void arise(CpuState* c) noexcept nogil:
    """Record what the processor records when the exception in exc_* arises: CR2 or DR6."""
    if c.exc_vector == VEC_PF:
        c.arch.cr2 = c.exc_cr2
        c.pf_rip = c.arch.rip
        c.pf_linear = c.exc_cr2
        c.pf_access = c.exc_error & (ACC_WRITE | ACC_FETCH)
        c.pf_waits = not c.exc_error & ACC_FETCH or c.direct != NULL
    elif c.exc_vector == VEC_DB:
        # SDM 3B 17.2.3: B0-B3 are rewritten and the other bits only set; GD and BTF are cleared.
        if c.exc_dr6:
            c.arch.dr[6] = (c.arch.dr[6] & ~<u64>0xF) | c.exc_dr6
        c.arch.dr[7] &= ~<u64>DR7_GD
        c.arch.debugctl &= ~<u64>2


cdef void record(CpuState* c, u32 vector, u32 error, u64 cr2) noexcept nogil:
    """Put an exception into the trace, if there is one."""
    if c.blocks != NULL:
        blocks_event(c, EXCEPTION, vector | <u64>error << 32, cr2)


cdef void note(CpuState* c, u32 vector, u32 error, u32 source, u64 cr2) noexcept nogil:
    """Add an event to those that a triple fault is reported with."""
    cdef Raised* r = &c.raised[min(c.raised_count, RAISED_MAX - 1)]
    c.raised_count = min(c.raised_count + 1, RAISED_MAX)
    r.vector = vector
    r.error = error
    r.source = source
    r.cr2 = cr2


cdef u64 pushed_flags(CpuState* c, u32 vector) noexcept nogil:
    """Return RFLAGS for the stack frame of an exception (SDM 3B 17.3.1.1).

    RF is set for faults, so that the instruction can be restarted past its breakpoint; a #DB is a
    fault only for DR7.GD, and #BP, #OF, #DF and #MC are not faults.
    """
    cdef u64 flags = get_rflags(c)
    if vector == VEC_DB:
        if not c.exc_dr6 & DR6_BD:
            return flags
    elif vector == VEC_DF or vector == VEC_MC or vector == 3 or vector == 4:
        return flags
    return flags | FLAG_RF


cdef int take(CpuState* c, Event* e) noexcept nogil:
    """Deliver an event and the exceptions that its delivery raises."""
    e.first = classify(e.vector) if e.source == FROM_PROCESSOR else BENIGN
    e.at = c.arch.rip
    c.raised_count = 0
    note(c, e.vector, e.error, e.source, c.arch.cr2)
    return go_through(c, e)


cdef int deliver_again(CpuState* c) noexcept nogil:
    """Continue the delivery of an event that has waited for a device."""
    cdef Event e = c.event
    return go_through(c, &e)


cdef bint must_stop(CpuState* c) noexcept nogil:
    """Whether an endless chain of exceptions has to stop; True takes the request.

    An #AC in delivering an #AC is benign, and so is the next.
    """
    if not c.attention:
        return False
    apic_tick(c)
    if not c.stop:
        return False
    c.stop = 0
    return True


cdef int go_through(CpuState* c, Event* e) noexcept nogil:
    cdef int second
    cdef u32 task, chain = 0
    cdef u64 flags
    while True:
        chain += 1
        if chain > LONGEST_CHAIN and must_stop(c):
            c.event = e[0]
            c.pending = PENDING_EVENT
            c.exit_kind = EXIT_INTERRUPTED
            return EMU_EXIT
        task = c.arch.tr.selector
        if pass_gate(c, e) == 0:
            if c.debugger != NULL:
                debug_event(c)
            return EMU_FLOW
        if c.device_waits:
            c.event = e[0]
            c.pending = PENDING_EVENT
            return EMU_EXIT
        device_forget(c)
        if c.arch.tr.selector != task:
            e.at = c.arch.rip
        if VEC_TS <= c.exc_vector <= VEC_GP and e.source != FROM_SOFTWARE:
            c.exc_error |= 1
        if e.source == FROM_PROCESSOR and e.vector == VEC_DF and c.exc_vector != VEC_DB:
            record(c, c.exc_vector, c.exc_error, c.exc_cr2)
            note(c, c.exc_vector, c.exc_error, FROM_PROCESSOR, c.exc_cr2)
            c.exit_kind = EXIT_SHUTDOWN
            c.shutdown_rip = e.at
            return EMU_EXIT
        arise(c)
        note(c, c.exc_vector, c.exc_error, FROM_PROCESSOR, c.arch.cr2)
        record(c, c.exc_vector, c.exc_error, c.arch.cr2)
        flags = pushed_flags(c, c.exc_vector)
        c.exc_dr6 = 0
        second = classify(c.exc_vector)
        if ((e.first == CONTRIBUTORY and second == CONTRIBUTORY) or
                (e.first == PAGE_FAULT and second != BENIGN)):
            note(c, VEC_DF, 0, FROM_PROCESSOR, c.arch.cr2)
            record(c, VEC_DF, 0, c.arch.cr2)
            e.vector = VEC_DF
            e.error = 0
            e.has_error = 1
            flags = get_rflags(c)
        else:
            e.vector = c.exc_vector
            e.error = c.exc_error
            e.has_error = c.exc_has_error
        e.first = second
        e.source = FROM_PROCESSOR
        e.rip = e.at
        e.rflags = flags


cdef int deliver(CpuState* c) noexcept nogil:
    """Deliver the exception in exc_*, raised at c.arch.rip (a trap: past its instruction)."""
    cdef Event e
    cdef OpInfo* op = <OpInfo*>c.op_info
    if c.exc_is_soft:
        record(c, c.exc_vector, 0, c.arch.cr2)
        return software_interrupt(
            c, c.exc_vector,
            c.arch.rip + (op.length if op != NULL and op.rip == c.arch.rip else 0), False)
    arise(c)
    record(c, c.exc_vector, c.exc_error, c.arch.cr2)
    e.vector = c.exc_vector
    e.error = c.exc_error
    e.has_error = c.exc_has_error
    e.source = FROM_PROCESSOR
    e.rip = c.arch.rip
    e.rflags = pushed_flags(c, c.exc_vector)
    c.exc_dr6 = 0
    return take(c, &e)


cdef int software_interrupt(
        CpuState* c, u32 vector, u64 return_rip, bint privileged) noexcept nogil:
    """Deliver INT n, INT3 or (privileged) INT1; a fault in delivery has the instruction's RIP.

    The traps that a MOV SS before INT1 has held back are part of its #DB.  Those before INT n
    follow at the handler's first instruction (SDM 3A 6.8.3), where a #DB of its own would
    overwrite the frame of INT1's.
    """
    cdef Event e
    c.n_exceptions += 1
    c.exc_is_soft = 0
    if privileged:
        c.arch.dr[7] &= ~<u64>DR7_GD
        if c.arch.db_pending:
            c.arch.dr[6] = (c.arch.dr[6] & ~<u64>0xF) | c.arch.db_pending
            c.arch.db_pending = 0
    e.vector = vector & 0xFF
    e.error = 0
    e.has_error = 0
    e.source = FROM_PROCESSOR if privileged else FROM_SOFTWARE
    e.rip = return_rip
    e.rflags = get_rflags(c) & ~<u64>FLAG_RF
    return take(c, &e)


cdef int interrupt(CpuState* c, u32 vector) noexcept nogil:
    """Deliver an external interrupt; the caller has checked IF and the interrupt shadow."""
    cdef Event e
    c.n_interrupts += 1
    if c.blocks != NULL:
        blocks_event(c, INTERRUPT, vector & 0xFF, 0)
    e.vector = vector & 0xFF
    e.error = 0
    e.has_error = 0
    e.source = FROM_OUTSIDE
    e.rip = c.arch.rip
    e.rflags = get_rflags(c)
    return take(c, &e)


cdef int nmi(CpuState* c) noexcept nogil:
    """Deliver the pending NMI; NMIs stay blocked until an IRET (SDM 3A 6.7.1)."""
    c.arch.nmi_pending = 0
    c.arch.nmi_blocked = 1
    return interrupt(c, VEC_NMI)
