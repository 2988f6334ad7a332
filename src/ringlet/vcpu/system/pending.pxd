"""Instructions that leave for Python in their middle: what `complete` still has to do for them.

The OpInfo is copied: Python may run devices that write guest code, and so drop the fragment that
owned it.
"""
from ringlet.core.state cimport CpuState, OpInfo, u8, u16, u32, u64, EMU_EXIT, EXIT_EMULATE

cdef enum Pending:
    PENDING_NONE = 0
    PENDING_IN = 1          # io_data goes to the accumulator
    PENDING_INS = 2         # io_data goes to memory, then RDI and RCX step
    PENDING_TRAP = 3        # done, but a single-step trap follows
    # What waits for a device's answer, to be begun anew (ringlet.vcpu.system.mmio):
    PENDING_OP = 4          # pending_op
    PENDING_EVENT = 5       # the delivery of `event`
    PENDING_STORE = 6       # INS, whose pending_data goes to memory

cdef inline int leave_emulate(CpuState* c, OpInfo* op) noexcept nogil:
    """Hand the instruction to the general emulator with the bytes that it was fetched as."""
    cdef int i
    for i in range(16):
        c.insn[i] = op.bytes[i]
    c.exit_kind = EXIT_EMULATE
    return EMU_EXIT

cdef inline int leave(CpuState* c, OpInfo* op, u32 exit_kind, u32 pending) noexcept nogil:
    c.pending_op = op[0]
    c.pending = pending
    c.exit_kind = exit_kind
    return EMU_EXIT
