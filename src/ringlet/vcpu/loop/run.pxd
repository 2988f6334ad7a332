"""The run loop of one virtual processor."""
from ringlet.core.state cimport CpuState, u32, u64
from ringlet.translate.builder cimport Builder

# Run the guest until Python has to act; returns an Exit.
cdef int run_loop(CpuState* c, Builder* b) noexcept nogil
# Around it: whoever asks it to stop sees to it that it does.
cdef void begin_run(CpuState* c) noexcept nogil
cdef void end_run(CpuState* c) noexcept nogil
