"""The segment registers of a new task."""
from ringlet.core.state cimport CpuState, u8, u16, u32, u64

# Load LDTR and the six segment registers; 0, or EMU_FAULT with exc_* set, some of them unusable.
cdef int load_task_segments(CpuState* c, u32* selectors, u32 ldt) noexcept nogil
