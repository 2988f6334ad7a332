"""Delivery of exceptions, interrupts and NMIs through a 64-bit IDT (SDM 3A ch. 6).

If the delivery of an event faults, the second exception, a double fault or a shutdown follows, as
in SDM 3A table 6-5.  The guest's state does not change until the last access of a delivery has
succeeded, except CR2 and DR6, which are written when the exception arises.
"""
from ringlet.core.state cimport (
    SEG_CS, SEG_SS, RSP, AR_S, AR_P, AR_L, AR_DB, AR_UNUSABLE, EMU_FLOW, EMU_FAULT, EMU_EXIT,
    EXIT_SHUTDOWN, Event, FLAG_TF, FLAG_RF, FLAG_NT, FLAG_VM, ACC_FETCH, ACC_USER, ACC_WRITE,
    VEC_DE, VEC_DB, VEC_NMI, VEC_DF, VEC_TS, VEC_NP, VEC_SS, VEC_GP, VEC_PF, VEC_MC,
    get_rflags, raise_err, is_canonical)
from ringlet.vcpu.system.control cimport update_key
from ringlet.vcpu.debug.stops cimport debug_event
from ringlet.vcpu.system.descriptors cimport (
    Descriptor, SYS_INTERRUPT_GATE, SYS_TRAP_GATE, is_null, load_cache, load_null,
    mark_accessed, require, selector_error)
from ringlet.vcpu.system.memory cimport push_frame, read_bytes
from ringlet.vcpu.system.mmio cimport device_forget
from ringlet.vcpu.system.pending cimport PENDING_EVENT
from ringlet.vcpu.system.registers cimport (
    AR_CODE, AR_CONFORMING, DR6_BD, DR7_GD, dpl_of)

# The source of an event decides the checks, the pushed RIP and the EXT bit.
cdef enum Source:
    FROM_PROCESSOR = 0   # a fault, trap or abort, or INT1, which skips the gate's DPL check
    FROM_SOFTWARE = 1    # INT n, INT3: checks the gate's DPL, EXT = 0
    FROM_OUTSIDE = 2     # external interrupt or NMI

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


cdef int tss_stack(CpuState* c, u32 offset, u64* rsp) noexcept nogil:
    """Read a stack pointer of the 64-bit TSS (SDM 3A figure 7-11)."""
    if c.arch.tr.ar & AR_UNUSABLE or <u64>offset + 7 > c.arch.tr.limit:
        return raise_err(c, VEC_TS, selector_error(c.arch.tr.selector))
    return read_bytes(c, c.arch.tr.base + offset, rsp, 8, 0)


cdef int pass_gate(CpuState* c, Event* e) noexcept nogil:
    """Deliver one event through its gate; EMU_FAULT: the new exception is in exc_*."""
    cdef u64 gate[2]
    cdef u64 frame[6]
    cdef u64* words = &frame[0]
    cdef u64 target, rsp
    cdef u32 kind, access, selector, ist, cpl
    cdef u32 idt_error = (e.vector << 3) | 2
    cdef u32 count = 5
    cdef Descriptor cs
    if e.vector * 16 + 15 > c.arch.idtr.limit:
        return raise_err(c, VEC_GP, idt_error)
    if read_bytes(c, c.arch.idtr.base + e.vector * 16, gate, 16, 0):
        return EMU_FAULT
    access = <u32>(gate[0] >> 40) & 0xFF
    kind = access & 0x1F
    if kind != SYS_INTERRUPT_GATE and kind != SYS_TRAP_GATE:
        return raise_err(c, VEC_GP, idt_error)
    if e.source == FROM_SOFTWARE and dpl_of(access) < c.arch.cpl:
        return raise_err(c, VEC_GP, idt_error)
    if not access & AR_P:
        return raise_err(c, VEC_NP, idt_error)
    selector = <u32>(gate[0] >> 16) & 0xFFFF
    ist = <u32>(gate[0] >> 32) & 7
    target = (gate[0] & 0xFFFF) | ((gate[0] >> 32) & <u64>0xFFFF0000) | (gate[1] << 32)

    if is_null(selector):
        return raise_err(c, VEC_GP, 0)
    if require(c, selector, &cs):
        return EMU_FAULT
    if not cs.ar & AR_S or not cs.ar & AR_CODE or dpl_of(cs.ar) > c.arch.cpl:
        return raise_err(c, VEC_GP, selector_error(selector))
    if not cs.ar & AR_L or cs.ar & AR_DB:
        return raise_err(c, VEC_GP, selector_error(selector))
    if not cs.ar & AR_P:
        return raise_err(c, VEC_NP, selector_error(selector))
    cpl = c.arch.cpl if cs.ar & AR_CONFORMING else dpl_of(cs.ar)

    rsp = c.arch.gpr[RSP]
    if ist:
        if tss_stack(c, 36 + 8 * (ist - 1), &rsp):
            return EMU_FAULT
    elif cpl != c.arch.cpl:
        if tss_stack(c, 4 + 8 * cpl, &rsp):
            return EMU_FAULT
    rsp &= ~<u64>15
    if not is_canonical(target):
        return raise_err(c, VEC_GP, 0)
    frame[0] = e.error
    frame[1] = e.rip
    frame[2] = c.arch.seg[SEG_CS].selector
    frame[3] = e.rflags
    frame[4] = c.arch.gpr[RSP]
    frame[5] = c.arch.seg[SEG_SS].selector
    if e.has_error:
        count = 6
    else:
        words = &frame[1]
    if mark_accessed(c, &cs):
        return EMU_FAULT
    if push_frame(c, rsp, words, count, <u32>ACC_USER if cpl == 3 else 0):
        return EMU_FAULT

    c.arch.gpr[RSP] = rsp - 8 * count
    load_cache(&c.arch.seg[SEG_CS], &cs, (selector & 0xFFFC) | cpl)
    if cpl != c.arch.cpl:
        load_null(&c.arch.seg[SEG_SS], cpl, cpl)
    c.arch.cpl = cpl
    c.arch.rip = target
    c.arch.rflags &= ~<u64>(FLAG_TF | FLAG_NT | FLAG_RF | FLAG_VM)
    if kind == SYS_INTERRUPT_GATE:
        c.arch.iflag = 0
    c.arch.inhibit = 0
    c.arch.halted = 0
    update_key(c)
    if c.debugger != NULL:
        debug_event(c)
    return 0


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
    return go_through(c, e)


cdef int deliver_again(CpuState* c) noexcept nogil:
    """Continue the delivery of an event that has waited for a device."""
    cdef Event e = c.event
    return go_through(c, &e)


cdef int go_through(CpuState* c, Event* e) noexcept nogil:
    cdef int second
    while True:
        if pass_gate(c, e) == 0:
            return EMU_FLOW
        if c.device_waits:
            c.event = e[0]
            c.pending = PENDING_EVENT
            return EMU_EXIT
        device_forget(c)
        if e.source == FROM_PROCESSOR and e.vector == VEC_DF:
            c.exit_kind = EXIT_SHUTDOWN
            c.shutdown_rip = e.at
            return EMU_EXIT
        if VEC_TS <= c.exc_vector <= VEC_GP and e.source != FROM_SOFTWARE:
            c.exc_error |= 1
        arise(c)
        second = classify(c.exc_vector)
        if ((e.first == CONTRIBUTORY and second == CONTRIBUTORY) or
                (e.first == PAGE_FAULT and second != BENIGN)):
            e.vector = VEC_DF
            e.error = 0
            e.has_error = 1
        else:
            e.vector = c.exc_vector
            e.error = c.exc_error
            e.has_error = c.exc_has_error
        e.first = second
        e.source = FROM_PROCESSOR
        e.rip = e.at
        e.rflags = pushed_flags(c, e.vector)


cdef int deliver(CpuState* c) noexcept nogil:
    """Deliver the exception in exc_*, raised at c.arch.rip (a trap: past its instruction)."""
    cdef Event e
    cdef OpInfo* op = <OpInfo*>c.op_info
    if c.exc_is_soft:
        return software_interrupt(
            c, c.exc_vector,
            c.arch.rip + (op.length if op != NULL and op.rip == c.arch.rip else 0), False)
    arise(c)
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
    """Deliver INT n, INT3 or (privileged) INT1; a fault in delivery has the instruction's RIP."""
    cdef Event e
    c.n_exceptions += 1
    c.exc_is_soft = 0
    if privileged:
        c.arch.dr[7] &= ~<u64>DR7_GD
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
