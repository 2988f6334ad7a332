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
