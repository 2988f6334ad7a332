"""Data breakpoints and alignment checks, which an access may raise besides page faults.

This module serves the accesses that the virtual processor performs itself.  In translated code,
single steps (`vcpu.debug.step`) find the breakpoints, and the host's EFLAGS.AC checks alignment.
"""
from ringlet.core.state cimport FLAG_AC, VEC_AC, is_canonical, raise_err
from ringlet.vcpu.debug.stops cimport debug_access
from ringlet.vcpu.system.registers cimport CR0_AM, DR7_ENABLES


cdef u64 matches(CpuState* c, u64 linear, u32 size, u32 kinds) noexcept nogil:
    """Return DR6.B0-B3 of the enabled breakpoints whose R/W field is in the bit set `kinds`."""
    cdef u64 hit = 0
    cdef u32 i, control, length
    if not c.arch.dr[7] & DR7_ENABLES:
        return 0
    for i in range(4):
        if not c.arch.dr[7] >> (2 * i) & 3:
            continue
        control = <u32>(c.arch.dr[7] >> (16 + 4 * i)) & 15
        if not kinds >> (control & 3) & 1:
            continue
        length = control >> 2
        length = 8 if length == 2 else length + 1
        if linear < (c.arch.dr[i] & ~<u64>(length - 1)) + length and (
                c.arch.dr[i] & ~<u64>(length - 1)) < linear + size:
            hit |= <u64>1 << i
    return hit


cdef u64 execution_hits(CpuState* c, u64 linear) noexcept nogil:
    return matches(c, linear, 1, 1)


cdef u64 data_hits(CpuState* c, u64 linear, u32 size, bint write) noexcept nogil:
    return matches(c, linear, size, 0xA if write else 0x8)


cdef u64 port_hits(CpuState* c, u64 port, u32 size) noexcept nogil:
    return matches(c, port, size, 4)


cdef void watch(CpuState* c, u64 linear, u32 size, bint write) noexcept nogil:
    """Record the data breakpoints of an access; they trap after the instruction (SDM 3B 17.2.4)."""
    if c.arch.dr[7] & DR7_ENABLES:
        c.arch.db_pending |= data_hits(c, linear, size, write)
    if c.debugger != NULL:
        debug_access(c, linear, size, write)


cdef int check_aligned(CpuState* c, u64 linear, u32 size) noexcept nogil:
    """Raise #AC(0) for a misaligned operand of 2, 4, 8 or (x87) 10 bytes at CPL 3 (SDM 3A 6.15).

    EMU_FAULT or 0.  The #GP of a non-canonical address has priority (SDM 3A table 6-2).
    """
    if (not c.arch.rflags & FLAG_AC or c.arch.cpl != 3 or not c.arch.cr0 & CR0_AM
            or not is_canonical(linear)):
        return 0
    if size == 10:
        size = 8
    if size > 8 or size & (size - 1) or not linear & (size - 1):
        return 0
    return raise_err(c, VEC_AC, 0)
