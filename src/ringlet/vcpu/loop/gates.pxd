"""One event through the real-mode interrupt table or through a gate of 8 or 16 bytes."""
from ringlet.core.state cimport CpuState, Event, u8, u16, u32, u64

# The source of an event decides the checks, the pushed RIP and the EXT bit.
cdef enum Source:
    FROM_PROCESSOR = 0   # a fault, trap or abort, or INT1, which skips the gate's DPL check
    FROM_SOFTWARE = 1    # INT n, INT3, INTO: checks the gate's DPL, EXT = 0
    FROM_OUTSIDE = 2     # external interrupt or NMI

# Deliver one event: 0, or EMU_FAULT with the new exception in exc_*; error codes have EXT = 0.
# Nothing has changed then, unless TR has: a task switch has got past its point of no return.
cdef int pass_gate(CpuState* c, Event* e) noexcept nogil
