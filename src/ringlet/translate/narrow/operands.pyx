"""Memory operands of 16- and 32-bit code.

The window of linear addresses 0 to 4 GiB is one region, whose host address is in r10, and guest
registers are zero-extended in their own host registers (docs/adr/0028).  In flat segments an
operand of one register and a small displacement is [r10 + register + displacement]: where the sum
wraps around, it leads to a guard of the region.  LEA computes the others, and wraps around itself.
FS and GS have bases, which are added first, as 32-bit sums; what takes the place of r10 then leads
nowhere if the segment has less than 4 GiB.  An access that passes the last offset of 4 GiB is not
refused: processors may do either (SDM 3A 5.3).
"""
from ringlet.core.state cimport (
    RBP, RSP, SEG_DS, SEG_FS, SEG_GS, SEG_NONE, SEG_SS, CpuState, Segment, u8, u32, i32)
from ringlet.translate.builder cimport *
from ringlet.translate.insn cimport *

cdef CpuState* _null = NULL
cdef u32 SEGMENT_HOST = <u32><size_t>&_null.segment_host[0]
cdef u32 SEGMENTS = <u32><size_t>&_null.arch.seg[0].base


cdef u32 segment_of(Insn* i) noexcept nogil:
    cdef u32 base
    if i.seg != SEG_NONE:
        return i.seg
    if is_moffs(i):
        return SEG_DS
    base = insn_base(i)
    return SEG_SS if base == RSP or base == RBP else SEG_DS


cdef inline void load_offset(Builder* b, u32 value) noexcept nogil:
    e8(b, 0x41); e8(b, 0xB9); e32(b, value)                   # mov r9d, imm32


cdef inline void lea32(Builder* b, u32 dst, Ref* r) noexcept nogil:
    e8(b, 0x40 | rex_of(0, dst, r)); e8(b, 0x8D)
    modrm_mem(b, dst, r)


cdef void sum_to_r9(Builder* b, Insn* i, i32 moved) noexcept nogil:
    """r9 := the offset of the ModRM operand, at its address size."""
    cdef Ref r
    cdef u8 base = insn_base(i), index = insn_index(i)
    cdef i32 disp = i.disp + (moved if base == RSP else 0)
    if base == NO_REG and index == NO_REG:
        load_offset(b, <u32>disp & (0xFFFF if i.address == 2 else <u32>0xFFFFFFFF))
        return
    r = ref_sum(base, index, disp)
    if i.address == 4 and index != NO_REG:
        r.scale = i.sib >> 6
    lea32(b, H9, &r)
    if i.address == 2:
        movzx16(b, H9, H9)


cdef void offset_operand(Builder* b, Insn* i) noexcept nogil:
    if is_moffs(i):
        load_offset(b, <u32>i.imm)
    else:
        sum_to_r9(b, i, 0)


cdef Ref based_operand(Builder* b, Insn* i) noexcept nogil:
    """Return the host operand of one in FS or GS."""
    cdef u32 at = SEGMENTS + i.seg * <u32>sizeof(Segment)
    cdef u8 base = NO_REG
    cdef bint alone = is_moffs(i)
    cdef Ref r
    if not alone and i.address == 4 and insn_index(i) == NO_REG:
        base = insn_base(i)
        alone = True
    if not alone:
        sum_to_r9(b, i, 0)
    state_op(b, 0, 0x8B, H8, at)                              # mov r8d, [base]
    if alone:
        r = ref_sum(H8, base, <i32>i.imm if is_moffs(i) else i.disp)
        if base == RSP:
            r = ref_sum(RSP, H8, i.disp)
    else:
        r = ref_sum(H8, H9, 0)
    lea32(b, H9, &r)
    load_state(b, H8, SEGMENT_HOST + 8 * i.seg)
    return ref_sum(H8, H9, 0)


cdef Ref host_operand(Builder* b, Insn* i, i32 moved) noexcept nogil:
    cdef u8 base = NO_REG, index
    cdef i32 disp
    if i.seg == SEG_FS or i.seg == SEG_GS:
        return based_operand(b, i)
    if is_moffs(i):
        disp = <i32>i.imm
    else:
        base = insn_base(i)
        index = insn_index(i)
        disp = i.disp + (moved if base == RSP else 0)
        if i.address != 4 or index != NO_REG or (base != NO_REG and not is_near(disp)):
            sum_to_r9(b, i, moved)
            return ref_sum(WINDOW, H9, 0)
    if base != NO_REG:
        return ref_sum(base, WINDOW, disp) if base == RSP else ref_sum(WINDOW, base, disp)
    if disp >= 0:
        return ref_mem(WINDOW, disp)
    load_offset(b, <u32>disp)
    return ref_sum(WINDOW, H9, 0)
