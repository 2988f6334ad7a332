"""Task switches (SDM 3A ch. 7)."""
from ringlet.core.state cimport CpuState, u8, u16, u32, u64
from ringlet.vcpu.system.descriptors cimport Descriptor

# What causes a task switch.
cdef enum:
    TASK_JMP = 0
    TASK_CALL = 1     # CALL, or an event through a task gate: the new task is nested
    TASK_IRET = 2

# Each function returns 0, or EMU_FAULT with exc_* set.
#
# Read and check the descriptor of a task's TSS, which must be busy for IRET, else available.
cdef int find_task(CpuState* c, u32 selector, u32 cause, Descriptor* tss) noexcept nogil
# Switch to the task `tss`; `rip` and `rflags` are saved.  A fault after TR has changed belongs to
# the new task.  Afterwards push an error code, if there is one, then call `begin_task`.
cdef int switch_task(CpuState* c, Descriptor* tss, u32 cause, u64 rip, u64 rflags) noexcept nogil
cdef int push_task_error(CpuState* c, u32 error) noexcept nogil
cdef int begin_task(CpuState* c) noexcept nogil
# IRET with RFLAGS.NT: back to the task that the back link of the TSS names.
cdef int return_from_task(CpuState* c, u64 rip) noexcept nogil
