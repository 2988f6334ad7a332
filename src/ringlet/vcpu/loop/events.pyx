"""Events between two instructions: requests, interrupts, exceptions, and sleep in HLT."""
from ringlet.core.alarm cimport alarm_wait
from ringlet.core.host cimport host_fence
from ringlet.core.state cimport *
from ringlet.cache.codecache cimport Cache
from ringlet.cache.exits cimport exits_restore
from ringlet.vcpu.apic.local cimport INTR_LOCAL, apic_accept, apic_due, apic_tick, apic_update
from ringlet.vcpu.debug.stops cimport debug_holds
from ringlet.vcpu.direct.policy cimport policy_interrupt
from ringlet.vcpu.loop.exceptions cimport deliver, interrupt, nmi
from ringlet.vcpu.system.dispatch cimport begin_anew
from ringlet.vcpu.system.registers cimport DR6_BS


cdef int deliver_exception(CpuState* c) noexcept nogil:
    """Deliver the pending exception; return an Exit, or EXIT_NONE to continue."""
    c.n_exceptions += 1
    if deliver(c) == EMU_EXIT:
        return c.exit_kind
    return EXIT_NONE


cdef int go_on_with_answer(CpuState* c) noexcept nogil:
    """Continue what has waited for a device's answer; return an Exit or EXIT_NONE."""
    cdef int result = begin_anew(c)
    if result == EMU_FAULT:
        if not (c.exc_vector == VEC_DB and c.exc_dr6 & DR6_BS):
            c.arch.db_pending = 0
        return deliver_exception(c)
    return c.exit_kind if result == EMU_EXIT else EXIT_NONE


cdef void sleep(CpuState* c) noexcept nogil:
    """Wait, while halted, for a request or for the time of the next event."""
    c.sleeping = 1
    host_fence()
    if not c.attention:
        alarm_wait(c, apic_due(c))
    c.sleeping = 0
    c.attention = 1


cdef int take_events(CpuState* c) noexcept nogil:
    """Handle what is due before the next instruction; return an Exit or EXIT_NONE."""
    cdef u32 vector
    while True:
        if c.attention:
            exits_restore(c, <Cache*>c.cache)
            c.n_safepoints += 1
            c.attention = 0
            host_fence()
            apic_tick(c)
            apic_update(c)
        if c.stop:
            c.stop = 0
            return EXIT_INTERRUPTED
        if c.arch.inhibit or (c.debugger != NULL and debug_holds(c)):
            return EXIT_NONE
        if nmi_due(c):
            if nmi(c) == EMU_EXIT:
                return c.exit_kind
        elif c.intr and c.arch.iflag:
            if not c.intr & INTR_LOCAL:
                return EXIT_WINDOW
            vector = apic_accept(c)
            if c.direct != NULL:
                policy_interrupt(c)
            if interrupt(c, vector) == EMU_EXIT:
                return c.exit_kind
        elif c.arch.halted and c.patient:
            sleep(c)
        else:
            return EXIT_NONE
