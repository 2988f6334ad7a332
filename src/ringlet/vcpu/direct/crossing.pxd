"""Crossing to a direct process and back."""
from ringlet.core.state cimport CpuState

cdef enum:
    CROSS_NOT = 0        # translated code has to go on
    CROSS_AGAIN = 1      # the loop begins its next turn
    CROSS_RAISED = 2     # an exception is set
    CROSS_MAKE = 3       # Python has to make a process first

# Run the guest's code of CPL 3 in a direct process until it traps, and see to the trap.
cdef int cross(CpuState* c) noexcept nogil
# In the signal handler: make the process stop that the thread waits for.
cdef void direct_stop(CpuState* c) noexcept nogil
