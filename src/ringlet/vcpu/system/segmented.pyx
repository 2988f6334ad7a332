"""Addresses by segment outside 64-bit mode: base, limit, type (SDM 3A 5.3-5.5).

Translated code leaves the offset of a sensitive instruction's memory operand in c.ea, and its
segment in op.seg.  `locate_operand` checks the access and makes the offset a linear address, once,
so that the operations need not know the mode.
"""
from ringlet.core.ops cimport (
    OP_SGDT, OP_SIDT, OP_SLDT, OP_STR, OP_LGDT, OP_LIDT, OP_LLDT, OP_LTR, OP_SMSW, OP_LMSW,
    OP_CALL_FAR, OP_JMP_FAR, OP_MOV_FROM_SEG, OP_MOV_TO_SEG, OP_LOAD_FAR, OP_LAR, OP_LSL, OP_VERR,
    OP_VERW, OP_INVLPG, OP_FXSAVE, OP_FXRSTOR, OP_XSAVE, OP_XSAVEC, OP_XSAVEOPT, OP_XSAVES,
    OP_XRSTOR, OP_XRSTORS, OP_FNSTENV, OP_FNSAVE, OP_FLDENV, OP_FRSTOR, OP_DEVICE_READ,
    OP_DEVICE_WRITE)
from ringlet.core.state cimport (
    RAX, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, SEG_NONE, AR_DB, AR_UNUSABLE, ACC_FETCH,
    ACC_WRITE, KEY_MODE16, KEY_MODE64, OPF_ADDR32, VEC_GP, VEC_SS, raise_err)
from ringlet.vcpu.system.registers cimport (
    AR_CODE, AR_EXPAND_DOWN, AR_READABLE, AR_WRITABLE, CR0_EM, CR0_TS, CR4_OSXSAVE, XCR0_AVX,
    mode64, paragraphs, real_mode)

cdef enum:
    # Bytes that XSAVE accesses at most: legacy region and header, and with AVX that component.
    XSAVE_SIZE = 576
    XSAVE_AVX_SIZE = 832


cdef bint segment_allows(CpuState* c, Segment* s, bint code, u64 offset, u32 size,
                         u32 access) noexcept nogil:
    """Tell whether an access of `size` bytes at `offset` is within a segment and of its type.

    `code`: the segment is in CS, which allows every access in real mode, whatever its rights were
    in protected mode.  An access beyond the offset FFFFFFFFh is outside; SDM 3A 5.3 leaves it open.
    """
    cdef u64 last = offset + size - 1
    if s.ar & AR_UNUSABLE:
        return False
    if s.ar & AR_CODE:
        if not (code and real_mode(c)) and (
                access & ACC_WRITE or not (s.ar & AR_READABLE or access & ACC_FETCH)):
            return False
        return last <= s.limit
    if access & ACC_WRITE and not s.ar & AR_WRITABLE:
        return False
    if s.ar & AR_EXPAND_DOWN:
        return offset > s.limit and last <= (<u64>0xFFFFFFFF if s.ar & AR_DB else <u64>0xFFFF)
    return last <= s.limit


cdef int segment_linear(CpuState* c, u32 seg, u64 offset, u32 size, u32 access,
                        u64* linear) noexcept nogil:
    """Check an access through a segment register, and give its linear address."""
    cdef Segment* s = &c.arch.seg[seg]
    if mode64(c):
        linear[0] = offset + s.base if seg == SEG_FS or seg == SEG_GS else offset
        return 0
    if not segment_allows(c, s, seg == SEG_CS, offset, size, access):
        return raise_err(c, VEC_SS if seg == SEG_SS else VEC_GP, 0)
    linear[0] = (s.base + offset) & <u64>0xFFFFFFFF
    return 0


cdef u32 address_size(CpuState* c, OpInfo* op) noexcept nogil:
    """Return the size in bytes of the addresses of `op`; the prefix 67h selects the other one."""
    if c.key & KEY_MODE64:
        return 4 if op.flags & OPF_ADDR32 else 8
    if c.key & KEY_MODE16:
        return 4 if op.flags & OPF_ADDR32 else 2
    return 2 if op.flags & OPF_ADDR32 else 4


cdef u32 operand_size(CpuState* c, OpInfo* op, u32* access) noexcept nogil:
    """Return the number of bytes that `op` accesses in memory, and how; 0: none.

    The size is 0 too where an exception has priority over those of the operand.
    """
    cdef u32 kind = op.op
    cdef u32 size = op.size
    access[0] = 0
    if kind == OP_MOV_TO_SEG:
        return 2 if op.reg & 7 <= SEG_GS and op.reg & 7 != SEG_CS else 0
    elif kind == OP_MOV_FROM_SEG:
        access[0] = ACC_WRITE
        return 2 if op.reg & 7 <= SEG_GS else 0
    elif kind == OP_SMSW:
        access[0] = ACC_WRITE
        return 2
    elif kind == OP_SLDT or kind == OP_STR:
        access[0] = ACC_WRITE
        return 0 if paragraphs(c) else 2
    elif kind == OP_LAR or kind == OP_LSL or kind == OP_VERR or kind == OP_VERW:
        return 0 if paragraphs(c) else 2
    elif kind == OP_LLDT or kind == OP_LTR:
        return 0 if paragraphs(c) or c.arch.cpl else 2
    elif kind == OP_LMSW:
        return 0 if c.arch.cpl else 2
    elif kind == OP_LGDT or kind == OP_LIDT:
        return 0 if c.arch.cpl else 6
    elif kind == OP_SGDT or kind == OP_SIDT:
        access[0] = ACC_WRITE
        return 6
    elif kind == OP_JMP_FAR or kind == OP_CALL_FAR or kind == OP_LOAD_FAR:
        return size + 2
    elif kind == OP_DEVICE_READ:
        return size
    elif kind == OP_DEVICE_WRITE:
        access[0] = ACC_WRITE
        return size
    return state_size(c, kind, size, access)


cdef u32 state_size(CpuState* c, u32 kind, u32 size, u32* access) noexcept nogil:
    """Do what `operand_size` does for images of the floating-point state."""
    if OP_XSAVE <= kind <= OP_XRSTORS:
        if not c.arch.cr4 & CR4_OSXSAVE or c.arch.cr0 & CR0_TS:
            return 0
        if kind == OP_XSAVES or kind == OP_XRSTORS:
            if c.arch.cpl:
                return 0
        if kind != OP_XRSTOR and kind != OP_XRSTORS:
            access[0] = ACC_WRITE
        return XSAVE_AVX_SIZE if c.arch.gpr[RAX] & c.arch.xcr0 & XCR0_AVX else XSAVE_SIZE
    if c.arch.cr0 & (CR0_TS | CR0_EM):
        return 0
    if kind == OP_FXSAVE or kind == OP_FNSTENV or kind == OP_FNSAVE:
        access[0] = ACC_WRITE
    if kind == OP_FXSAVE or kind == OP_FXRSTOR:
        return 512
    if kind == OP_FNSTENV or kind == OP_FLDENV:
        return 14 if size == 2 else 28
    if kind == OP_FNSAVE or kind == OP_FRSTOR:
        return 94 if size == 2 else 108
    return 0


cdef int locate_operand(CpuState* c, OpInfo* op) noexcept nogil:
    """Turn c.ea from the offset of the operand of `op` into its linear address."""
    cdef u32 seg = SEG_DS if op.seg == SEG_NONE else op.seg
    cdef u32 access = 0
    cdef u32 size
    if op.rm != 0xFF:
        return 0
    if op.op == OP_INVLPG:
        # INVLPG accesses nothing, so no limit applies (SDM 2A INVLPG).
        c.ea = (c.arch.seg[seg].base + c.ea) & <u64>0xFFFFFFFF
        return 0
    size = operand_size(c, op, &access)
    return segment_linear(c, seg, c.ea, size, access, &c.ea) if size else 0
