"""Debug registers and the debug exceptions of the virtual processor (SDM 3B 17.2-17.3)."""
from ringlet.core.state cimport (
    EMU_FAULT, EMU_FLOW, EMU_NEXT, FLAG_RF, KEY_MODE64, VEC_DB, VEC_GP, VEC_UD,
    raise_err, raise_exc)
from ringlet.vcpu.control cimport update_key
from ringlet.vcpu.sysregs cimport CR4_DE, DR6_BD, DR6_BS, DR7_GD, advance, write_gpr

cdef enum:
    DR6_FIXED = 0xFFFF0FF0    # reads as ones; bit 16 too, as there is no RTM
    DR6_WRITABLE = 0xE00F
    DR7_FIXED = 0x400
    DR7_WRITABLE = 0xFFFF23FF


cdef int access_dr(CpuState* c, OpInfo* op, u32* number) noexcept nogil:
    """The checks of every access, in order: DR4 and DR5, CPL, then DR7.GD (SDM 3B 17.2.2)."""
    number[0] = op.reg
    if op.reg > 7:
        return raise_exc(c, VEC_UD)
    if op.reg == 4 or op.reg == 5:
        if c.cr4 & CR4_DE:
            return raise_exc(c, VEC_UD)
        number[0] = op.reg + 2
    if c.cpl:
        return raise_err(c, VEC_GP, 0)
    if c.dr[7] & DR7_GD:
        c.exc_dr6 = DR6_BD
        return raise_exc(c, VEC_DB)
    return 0


cdef int op_mov_from_dr(CpuState* c, OpInfo* op) noexcept nogil:
    cdef u32 number = 0
    cdef u64 value
    if access_dr(c, op, &number):
        return EMU_FAULT
    value = c.dr[number]
    if number == 6:
        value = (value & DR6_WRITABLE) | DR6_FIXED
    elif number == 7:
        value = (value & DR7_WRITABLE) | DR7_FIXED
    write_gpr(c, op.rm, value, 8 if c.key & KEY_MODE64 else 4)
    return EMU_NEXT


cdef int op_mov_to_dr(CpuState* c, OpInfo* op) noexcept nogil:
    cdef u32 number = 0
    cdef u64 value = c.gpr[op.rm]
    if access_dr(c, op, &number):
        return EMU_FAULT
    if not c.key & KEY_MODE64:
        value &= <u64>0xFFFFFFFF
    if number < 4:
        c.dr[number] = value
        return EMU_NEXT
    if value >> 32:
        return raise_err(c, VEC_GP, 0)
    if number == 6:
        c.dr[6] = (value & DR6_WRITABLE) | DR6_FIXED
        return EMU_NEXT
    c.dr[7] = (value & DR7_WRITABLE) | DR7_FIXED
    update_key(c)
    advance(c, op)
    return EMU_FLOW


cdef int single_step(CpuState* c) noexcept nogil:
    """Raises the single-step trap after an instruction that began with TF set; rip is past it."""
    c.exc_dr6 = DR6_BS
    return raise_exc(c, VEC_DB)


cdef u64 matches(CpuState* c, u64 linear, u32 size, u32 kinds) noexcept nogil:
    """DR6.B0-B3 of the enabled breakpoints whose R/W field is in the bit set `kinds`."""
    cdef u64 hit = 0
    cdef u32 i, control, length
    for i in range(4):
        if not c.dr[7] >> (2 * i) & 3:
            continue
        control = <u32>(c.dr[7] >> (16 + 4 * i)) & 15
        if not kinds >> (control & 3) & 1:
            continue
        length = control >> 2
        length = 8 if length == 2 else length + 1
        if linear < (c.dr[i] & ~<u64>(length - 1)) + length and (
                c.dr[i] & ~<u64>(length - 1)) < linear + size:
            hit |= <u64>1 << i
    return hit


cdef int instruction_breakpoint(CpuState* c) noexcept nogil:
    """Raises #DB if an instruction breakpoint stands at c.rip and RF is clear: EMU_FAULT or 0."""
    cdef u64 hit
    if not c.dr[7] & 0xFF or c.rflags & FLAG_RF:
        return 0
    hit = matches(c, c.rip, 1, 1)
    if not hit:
        return 0
    c.exc_dr6 = hit
    return raise_exc(c, VEC_DB)


cdef u64 data_hits(CpuState* c, u64 linear, u32 size, bint write) noexcept nogil:
    if not c.dr[7] & 0xFF:
        return 0
    return matches(c, linear, size, 0xA if write else 0x8)


cdef int data_breakpoint(CpuState* c, u64 linear, u32 size, bint write) noexcept nogil:
    """Raises the #DB trap of a performed data access, rip past its instruction: EMU_FAULT or 0."""
    cdef u64 hit = data_hits(c, linear, size, write)
    if not hit:
        return 0
    c.exc_dr6 = hit
    return raise_exc(c, VEC_DB)
