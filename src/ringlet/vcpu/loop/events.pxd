"""What waits for the boundary before the next instruction (SDM 3A 6.6-6.9)."""
from ringlet.core.state cimport CpuState

# CpuState.inhibit: the shadow in which the next instruction stands.
cdef enum:
    SHADOW_STI = 1      # holds back interrupts, and NMIs as processors may
    SHADOW_MOV_SS = 2   # those and debug exceptions

cdef inline bint nmi_due(CpuState* c) noexcept nogil:
    return c.arch.nmi_pending and not c.arch.nmi_blocked

cdef inline bint event_due(CpuState* c) noexcept nogil:
    """An NMI or an interrupt is to be taken, as soon as no shadow holds it back."""
    return (c.intr and c.arch.iflag) or nmi_due(c)

# Deliver the exception in exc_*; an Exit, or EXIT_NONE to go on.
cdef int deliver_exception(CpuState* c) noexcept nogil
# A device has answered: go on with what asked it; an Exit, or EXIT_NONE.
cdef int go_on_with_answer(CpuState* c) noexcept nogil
# See to what is due before the next instruction; an Exit, or EXIT_NONE.
cdef int take_events(CpuState* c) noexcept nogil
