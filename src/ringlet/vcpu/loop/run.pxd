"""The run loop of one virtual processor."""
from ringlet.core.state cimport CpuState, u32, u64
from ringlet.translate.builder cimport Builder

# Run the guest until Python has to act; return an Exit.
cdef int run_loop(CpuState* c, Builder* b) noexcept nogil
# Call these around `run_loop`, so that a thread that requests a stop knows whether it has to
# interrupt translated code.
cdef void begin_run(CpuState* c) noexcept nogil
cdef void end_run(CpuState* c) noexcept nogil
