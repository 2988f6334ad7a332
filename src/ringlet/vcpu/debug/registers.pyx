"""Debug registers and the debug exceptions of the virtual processor (SDM 3B 17.2-17.3)."""
from ringlet.core.state cimport (
    EMU_FAULT, EMU_FLOW, EMU_NEXT, FLAG_RF, KEY_MODE64, VEC_DB, VEC_GP, VEC_UD,
    code_linear, raise_err, raise_exc)
from ringlet.vcpu.system.control cimport update_key
from ringlet.vcpu.system.registers cimport CR4_DE, DR6_BD, DR6_BS, DR7_GD, advance, write_gpr
from ringlet.vcpu.debug.watch cimport execution_hits

cdef enum:
    DR6_FIXED = 0xFFFF0FF0    # reads as ones; bit 16 too, as there is no RTM
    DR6_WRITABLE = 0xE00F
    DR7_FIXED = 0x400
    DR7_WRITABLE = 0xFFFF23FF


cdef int access_dr(CpuState* c, OpInfo* op, u32* number) noexcept nogil:
    """Check an access in the processor's order: DR4 and DR5, CPL, DR7.GD (SDM 3B 17.2.2)."""
    number[0] = op.reg
    if op.reg > 7:
        return raise_exc(c, VEC_UD)
    if op.reg == 4 or op.reg == 5:
        if c.arch.cr4 & CR4_DE:
            return raise_exc(c, VEC_UD)
        number[0] = op.reg + 2
    if c.arch.cpl:
        return raise_err(c, VEC_GP, 0)
    if c.arch.dr[7] & DR7_GD:
        c.exc_dr6 = DR6_BD
        return raise_exc(c, VEC_DB)
    return 0


cdef int op_mov_from_dr(CpuState* c, OpInfo* op) noexcept nogil:
    cdef u32 number = 0
    cdef u64 value
    if access_dr(c, op, &number):
        return EMU_FAULT
    value = c.arch.dr[number]
    if number == 6:
        value = (value & DR6_WRITABLE) | DR6_FIXED
    elif number == 7:
        value = (value & DR7_WRITABLE) | DR7_FIXED
    write_gpr(c, op.rm, value, 8 if c.key & KEY_MODE64 else 4)
    return EMU_NEXT


cdef int op_mov_to_dr(CpuState* c, OpInfo* op) noexcept nogil:
    cdef u32 number = 0
    cdef u64 value = c.arch.gpr[op.rm]
    if access_dr(c, op, &number):
        return EMU_FAULT
    if not c.key & KEY_MODE64:
        value &= <u64>0xFFFFFFFF
    if number < 4:
        c.arch.dr[number] = value
        return EMU_NEXT
    if value >> 32:
        return raise_err(c, VEC_GP, 0)
    if number == 6:
        c.arch.dr[6] = (value & DR6_WRITABLE) | DR6_FIXED
        return EMU_NEXT
    c.arch.dr[7] = (value & DR7_WRITABLE) | DR7_FIXED
    update_key(c)
    advance(c, op)
    return EMU_FLOW


cdef int single_step(CpuState* c) noexcept nogil:
    """Raise the single-step trap after an instruction that began with TF set; RIP is past it."""
    c.exc_dr6 = DR6_BS | c.arch.db_pending
    c.arch.db_pending = 0
    return raise_exc(c, VEC_DB)


cdef int instruction_breakpoint(CpuState* c) noexcept nogil:
    """Raise #DB if there is an instruction breakpoint at RIP and RF is clear: EMU_FAULT or 0."""
    cdef u64 hit
    if c.arch.rflags & FLAG_RF:
        return 0
    hit = execution_hits(c, code_linear(c, c.arch.rip))
    if not hit:
        return 0
    c.exc_dr6 = hit
    return raise_exc(c, VEC_DB)
