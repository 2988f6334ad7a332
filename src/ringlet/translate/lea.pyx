"""LEA: an address as a value, without an access."""
from ringlet.core.state cimport CpuState, RSP, SEG_NONE, u8, u32, u64, i64
from ringlet.translate.bindings cimport SMALL_MOVE, TOTAL_MOVE
from ringlet.translate.builder cimport *
from ringlet.translate.encode cimport copy_verbatim, is_away
from ringlet.translate.held cimport hold
from ringlet.translate.insn cimport *
from ringlet.translate.operands cimport bind_rsp, linear_operand, load_guest, of_disp
from ringlet.translate.shape cimport *

cdef CpuState* _null = NULL
cdef u32 NADDEND = <u32><size_t>&_null.rsp_naddend


cdef int emit_lea(Builder* b, Insn* i) noexcept nogil:
    cdef u32 reg = insn_reg(i), base = insn_base(i), index = insn_index(i), dst
    cdef u32 copy = hold(b, reg, i.shape.reg)
    cdef Ref r
    dst = copy or (H8 if is_away(reg) else reg)
    if i.rip_relative and (i.rex & 8) and not i.prefixes & PFX_67:
        e8(b, 0x48 | (dst >> 3)); e8(b, 0xB8 | (dst & 7))
        reloc(b, RELOC_RIP64, <i64>i.offset + i.length + i.disp)
        e64(b, b.rip + i.offset + i.length + <u64><i64>i.disp)
        store_lea(b, reg, dst)
        return 1
    if i.rip_relative:
        linear_operand_no_segment(b, i)
        r = ref_mem(H9, 0)
        if (i.shape.reg & 7) == ROLE_16 and is_away(reg) and copy == 0:
            load_guest(b, reg, dst)
        emit_lea_bytes(b, i, dst, &r)
        store_lea(b, reg, dst)
        return 1
    if (reg == RSP and base == RSP and index == NO_REG and (i.rex & 8)
            and not i.prefixes & (PFX_67 | PFX_66)
            and -SMALL_MOVE <= i.disp <= SMALL_MOVE and b.sp_moved < TOTAL_MOVE):
        lea_disp(b, RSP, RSP, i.disp)
        b.sp_moved += <u32>(i.disp if i.disp > 0 else -i.disp)
        return 1
    if not is_away(reg) and (base == NO_REG or not is_away(base)) \
            and (index == NO_REG or not is_away(index)) and i.seg == SEG_NONE:
        copy_verbatim(b, i)
        return 1
    if base == RSP and index == NO_REG and not is_away(reg) and (i.rex & 8) \
            and not i.prefixes & (PFX_66 | PFX_67):
        load_state(b, reg, NADDEND)
        r = of_disp(b, i, RSP, <u8>reg)
        lea(b, reg, &r)
        return 1
    r = of_disp(b, i, NO_REG, NO_REG)
    r.scale = i.sib >> 6 if i.has_sib and index != NO_REG else 0
    r.base = NO_REG if base == NO_REG else <u8>load_guest(b, base, H9)
    r.index = NO_REG if index == NO_REG else <u8>load_guest(b, index, H8)
    if dst == H8:
        if (i.shape.reg & 7) == ROLE_16:
            # A 16-bit write keeps the upper bits; compute the address first to free a register.
            lea(b, H9, &r)
            r = ref_mem(H9, 0)
            load_guest(b, reg, H8)
    emit_lea_bytes(b, i, dst, &r)
    store_lea(b, reg, dst)
    return 1


cdef inline void linear_operand_no_segment(Builder* b, Insn* i) noexcept nogil:
    cdef u8 seg = i.seg
    i.seg = SEG_NONE
    linear_operand(b, i)
    i.seg = seg


cdef inline void emit_lea_bytes(Builder* b, Insn* i, u32 dst, Ref* r) noexcept nogil:
    cdef u32 rex = (i.rex & 8) | rex_of(0, dst, r)
    if i.prefixes & PFX_66:
        e8(b, 0x66)
    if i.prefixes & PFX_67:
        e8(b, 0x67)
    if rex:
        e8(b, 0x40 | rex)
    e8(b, 0x8D)
    modrm_mem(b, dst, r)


cdef inline void store_lea(Builder* b, u32 reg, u32 dst) noexcept nogil:
    if reg == RSP:
        bind_rsp(b, dst)
    elif is_away(reg):
        store_state(b, dst, reg * 8)
