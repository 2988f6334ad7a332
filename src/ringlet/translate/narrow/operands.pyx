"""Memory operands of 16- and 32-bit code.

The window of linear addresses 0 to 4 GiB is one region, whose host address is in r10, and guest
registers are zero-extended in their own host registers (docs/adr/0028).  In flat segments an
operand of one register and a small displacement is [r10 + register + displacement]: where the sum
wraps around, it leads to a guard of the region.  Others are GS:[...] with 32-bit addresses, which
wrap around themselves: the base of the host's GS is r10.  Where LEA computes the sum, it wraps too.
FS and GS have bases, which are added first, as 32-bit sums; what takes the place of r10 then leads
nowhere if the segment cannot be used.  One with a limit is checked (`narrow.segments`).  An access
that passes the last offset of 4 GiB is not refused: processors may do either (SDM 3A 5.3).

A far displacement, such as an address of the kernel, is only copied, so that a kept translation
serves whatever it is (docs/adr/0008).
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


cdef u8 far_field(Insn* i) noexcept nogil:
    """Return which field the operand's displacement or offset is, if it is far, or 0."""
    if is_moffs(i):
        return FREE_IMM if i.address == 4 and is_far(<i32>i.imm) else 0
    return FREE_DISP if i.disp_size == 4 and is_far(i.disp) else 0


cdef inline void load_offset(Builder* b, Insn* i, u32 value, u8 own) noexcept nogil:
    e8(b, 0x41); e8(b, 0xB9)                                  # mov r9d, imm32
    if own:
        free_field(b, i, own)
    e32(b, value)


cdef void sum_to_r9(Builder* b, Insn* i, i32 moved) noexcept nogil:
    """r9 := the offset of the ModRM operand, at its address size."""
    cdef Ref r
    cdef u8 base = insn_base(i), index = insn_index(i)
    cdef i32 disp = i.disp + (moved if base == RSP else 0)
    if base == NO_REG and index == NO_REG:
        load_offset(b, i, <u32>disp & (0xFFFF if i.address == 2 else <u32>0xFFFFFFFF),
                    far_field(i))
        return
    r = ref_sum(base, index, disp)
    if disp == i.disp:
        r.own = far_field(i)
    if i.address == 4 and index != NO_REG:
        r.scale = i.sib >> 6
    lea32(b, H9, &r)
    if i.address == 2:
        movzx16(b, H9, H9)


cdef void offset_operand(Builder* b, Insn* i) noexcept nogil:
    if is_moffs(i):
        load_offset(b, i, <u32>i.imm, far_field(i))
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
        r.own = far_field(i)
    else:
        r = ref_sum(H8, H9, 0)
    lea32(b, H9, &r)
    load_state(b, H8, SEGMENT_HOST + 8 * i.seg)
    return ref_sum(H8, H9, 0)


cdef inline u8 base_of(Insn* i) noexcept nogil:
    return NO_REG if is_moffs(i) else insn_base(i)


cdef inline i32 disp_of(Insn* i) noexcept nogil:
    return <i32>i.imm if is_moffs(i) else i.disp


cdef bint is_simple(Insn* i, i32 disp) noexcept nogil:
    """Whether the operand is [r10 + register + displacement]."""
    if base_of(i) == NO_REG and (is_moffs(i) or insn_index(i) == NO_REG):
        return disp >= 0
    return i.address == 4 and insn_index(i) == NO_REG and is_near(disp)


cdef Ref host_operand(Builder* b, Insn* i, i32 moved) noexcept nogil:
    cdef u8 base = base_of(i)
    cdef i32 disp = disp_of(i) + (moved if base == RSP else 0)
    if i.seg == SEG_FS or i.seg == SEG_GS:
        return based_operand(b, i)
    if not is_simple(i, disp):
        if is_moffs(i):
            load_offset(b, i, <u32>disp, far_field(i))
        else:
            sum_to_r9(b, i, moved)
        return ref_sum(WINDOW, H9, 0)
    if base == NO_REG:
        return ref_mem(WINDOW, disp)
    return ref_sum(base, WINDOW, disp) if base == RSP else ref_sum(WINDOW, base, disp)


cdef Ref next_operand(Builder* b, Insn* i) noexcept nogil:
    cdef i32 disp = disp_of(i)
    cdef Ref r
    if i.seg == SEG_FS or i.seg == SEG_GS or i.address != 4 or is_simple(i, disp):
        return host_operand(b, i, 0)
    e8(b, 0x65); e8(b, 0x67)
    r = ref_mem(base_of(i), disp)
    r.own = far_field(i)
    if not is_moffs(i) and insn_index(i) != NO_REG:
        r.index = insn_index(i)
        r.scale = i.sib >> 6
    return r
