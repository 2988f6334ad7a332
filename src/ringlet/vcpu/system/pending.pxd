"""Instructions that leave for Python before their end, and the rest that `complete` does.

The OpInfo is copied, because Python may run devices that write guest code, and so drop the fragment
that owns it.
"""
from ringlet.core.state cimport CpuState, OpInfo, u8, u16, u32, u64, EMU_EXIT, EXIT_EMULATE

cdef enum Pending:
    PENDING_NONE = 0
    PENDING_IN = 1          # store io_data in the accumulator
    PENDING_INS = 2         # store io_data in memory, then step RDI and RCX
    PENDING_TRAP = 3        # the instruction is done; raise the single-step trap
    PENDING_DEVICE = 4      # put io_data into the register of a MOV
    # These wait for a device's answer, and begin again after it (ringlet.vcpu.system.mmio):
    PENDING_OP = 5          # the instruction pending_op
    PENDING_EVENT = 6       # the delivery of `event`
    PENDING_STORE = 7       # the store of pending_data by INS

cdef inline int leave_emulate(CpuState* c, OpInfo* op) noexcept nogil:
    """Leave the instruction to the general emulator, with its bytes as they were fetched."""
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
