"""Flags, software interrupts, HLT and ENTER."""
from ringlet.core.state cimport (
    RBP, RSP, ACC_WRITE, EMU_EXIT, EMU_FAULT, EMU_FLOW, EMU_NEXT, EXIT_HLT, FLAG_AC, FLAG_AF,
    FLAG_CF,
    FLAG_DF, FLAG_ID, FLAG_IF, FLAG_IOPL, FLAG_NT, FLAG_OF, FLAG_PF, FLAG_RF, FLAG_SF, FLAG_TF,
    FLAG_VM, FLAG_ZF, VEC_GP, VEC_SS, get_rflags, is_canonical, raise_err, set_rflags)
from ringlet.vcpu.system.control cimport update_key
from ringlet.vcpu.loop.events cimport SHADOW_STI, event_due, nmi_due
from ringlet.vcpu.loop.exceptions cimport software_interrupt
from ringlet.vcpu.system.memory cimport (
    check_write, pop_value, push_values, stack_linear, stack_step, user_access)
from ringlet.vcpu.system.registers cimport advance, iopl, mode64, next_rip, write_gpr


cdef bint event_waits(CpuState* c) noexcept nogil:
    """Whether an interrupt, a request or an NMI waits, which the run loop has to handle now."""
    return c.intr != 0 or c.attention != 0 or nmi_due(c)


cdef int op_cli(CpuState* c, OpInfo* op) noexcept nogil:
    if c.arch.cpl > iopl(c):
        return raise_err(c, VEC_GP, 0)
    c.arch.iflag = 0
    return EMU_NEXT


cdef int op_sti(CpuState* c, OpInfo* op) noexcept nogil:
    """STI: if IF was clear, interrupts wait for one more instruction (SDM 2B)."""
    if c.arch.cpl > iopl(c):
        return raise_err(c, VEC_GP, 0)
    if c.arch.iflag:
        return EMU_NEXT
    c.arch.iflag = FLAG_IF
    c.arch.inhibit = SHADOW_STI
    if not event_waits(c):
        return EMU_NEXT
    advance(c, op)
    return EMU_FLOW


cdef int op_pushf(CpuState* c, OpInfo* op) noexcept nogil:
    cdef u64 rsp = c.arch.gpr[RSP]
    cdef u64 image = get_rflags(c) & ~<u64>(FLAG_RF | FLAG_VM)
    if push_values(c, &rsp, &image, 1, op.size):
        return EMU_FAULT
    c.arch.gpr[RSP] = rsp
    return EMU_NEXT


cdef int op_popf(CpuState* c, OpInfo* op) noexcept nogil:
    """POPF: sets IOPL only at CPL 0, IF only at CPL <= IOPL, and never VM, VIF or VIP; clears RF.

    (SDM 2B POPF.)
    """
    cdef u64 image = 0
    cdef u64 old = get_rflags(c)
    cdef u64 rsp = c.arch.gpr[RSP]
    cdef u64 mask = (FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_TF | FLAG_DF |
                     FLAG_OF | FLAG_NT)
    if pop_value(c, &rsp, op.size, &image):
        return EMU_FAULT
    c.arch.gpr[RSP] = rsp
    if op.size > 2:
        mask |= FLAG_AC | FLAG_ID
        old &= ~<u64>FLAG_RF
    if c.arch.cpl <= iopl(c):
        mask |= FLAG_IF
    if c.arch.cpl == 0:
        mask |= FLAG_IOPL
    image = (old & ~mask) | (image & mask)
    set_rflags(c, image)
    if (image ^ old) & FLAG_TF:
        update_key(c)
    elif not image & ~old & FLAG_IF or not event_waits(c):
        return EMU_NEXT
    advance(c, op)
    return EMU_FLOW


cdef int op_int(CpuState* c, OpInfo* op, u32 vector, bint privileged) noexcept nogil:
    """INT n, INT3, and (privileged) INT1: a fault in delivery has the instruction's own RIP."""
    return software_interrupt(c, vector, next_rip(c, op), privileged)


cdef int op_hlt(CpuState* c, OpInfo* op) noexcept nogil:
    """HLT: ends at once if an interrupt or NMI can be taken."""
    if c.arch.cpl:
        return raise_err(c, VEC_GP, 0)
    advance(c, op)
    c.n_halts += 1
    if event_due(c):
        return EMU_FLOW
    c.arch.halted = 1
    c.exit_kind = EXIT_HLT
    return EMU_EXIT


cdef int op_enter(CpuState* c, OpInfo* op) noexcept nogil:
    """ENTER: copies the display of the outer procedures, then allocates (SDM 2A)."""
    cdef u32 size = <u32>op.imm & 0xFFFF
    cdef u32 level = <u32>(op.imm >> 16) & 31
    cdef u32 width = op.size
    cdef u64 value = 0
    cdef u64 source
    cdef u64 rsp = c.arch.gpr[RSP]
    cdef u64 rbp = c.arch.gpr[RBP]
    cdef u64 frame, linear
    if push_values(c, &rsp, &rbp, 1, width):
        return EMU_FAULT
    frame = rsp
    if level:
        while level > 1:
            level -= 1
            rbp = stack_step(c, rbp, -<long>width)
            source = rbp
            if pop_value(c, &source, width, &value):
                return EMU_FAULT
            if push_values(c, &rsp, &value, 1, width):
                return EMU_FAULT
        if push_values(c, &rsp, &frame, 1, width):
            return EMU_FAULT
    rsp = stack_step(c, rsp, -<long>size)
    # ENTER checks the final stack pointer as if it wrote through it.
    linear = stack_linear(c, rsp)
    if not is_canonical(linear):
        return raise_err(c, VEC_SS, 0)
    if check_write(c, linear, width, user_access(c)):
        return EMU_FAULT
    write_gpr(c, RBP, frame, width)
    c.arch.gpr[RSP] = rsp
    return EMU_NEXT
