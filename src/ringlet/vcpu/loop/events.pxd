"""Events that are taken at an instruction boundary (SDM 3A 6.6-6.9)."""
from ringlet.core.state cimport CpuState

# CpuState.inhibit: the interrupt shadow that covers the next instruction.
cdef enum:
    SHADOW_STI = 1      # holds back interrupts, and also NMIs, as processors may do
    SHADOW_MOV_SS = 2   # holds back interrupts, NMIs and debug exceptions

cdef inline bint nmi_due(CpuState* c) noexcept nogil:
    return c.arch.nmi_pending and not c.arch.nmi_blocked

cdef inline bint event_due(CpuState* c) noexcept nogil:
    """Whether an NMI or an interrupt can be taken, once no shadow holds it back."""
    return (c.intr and c.arch.iflag) or nmi_due(c)

# Deliver the exception in exc_*; return an Exit, or EXIT_NONE to continue.
cdef int deliver_exception(CpuState* c) noexcept nogil
# Continue what has waited for a device's answer; return an Exit or EXIT_NONE.
cdef int go_on_with_answer(CpuState* c) noexcept nogil
# Handle what is due before the next instruction; return an Exit or EXIT_NONE.
cdef int take_events(CpuState* c) noexcept nogil
