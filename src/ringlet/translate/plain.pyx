"""Innocuous instructions.

Most are copied byte for byte.  In the others a host operand replaces the memory operand, and
scratch registers replace r8-r11 and RSP; opcode and immediate do not change.
"""
from ringlet.core.state cimport RSP, SEG_NONE, u8, u32, i32, i64
from ringlet.translate.bindings cimport SMALL_MOVE, TOTAL_MOVE
from ringlet.translate.builder cimport *
from ringlet.translate.encode cimport (
    copy_imm, copy_verbatim, encode, encode_state, is_away, load_away, store_away)
from ringlet.translate.held cimport hold, store_held
from ringlet.translate.insn cimport *
from ringlet.translate.operands cimport bind_rsp, guest_rsp, load_guest, memory_operand
from ringlet.translate.shape cimport *

# Which operands are guest registers that are in no host register, and the host registers of the
# others.
cdef struct Away:
    bint reg
    bint rm
    bint vvvv
    u32 at_reg
    u32 at_rm
    u32 at_vvvv


cdef inline bint moves_rsp(Insn* i) noexcept nogil:
    """ADD or SUB RSP, imm."""
    return ((i.opcode == 0x83 or i.opcode == 0x81) and i.map == 0 and i.modrm >= 0xC0
            and insn_rm(i) == RSP and (i.rex & 8) and i.enc == ENC_LEGACY
            and not i.prefixes & (PFX_66 | PFX_LOCK)
            and (((i.modrm >> 3) & 7) == 0 or ((i.modrm >> 3) & 7) == 5))


cdef int emit_rsp_move(Builder* b, Insn* i, u32 live_after) noexcept nogil:
    cdef i64 delta = i.imm if ((i.modrm >> 3) & 7) == 0 else -i.imm
    if live_after & i.shape.flags_write:
        # Exact flags need the guest's own value of RSP.
        guest_rsp(b, H8)
        encode(b, i, i.opcode, insn_reg(i), NULL, H8, 0)
        lea_disp(b, RSP, RSP, <i32>delta)
    else:
        copy_verbatim(b, i)
    b.sp_moved += <u32>(delta if delta > 0 else -delta)
    return 1


cdef bint in_memory(Insn* i) noexcept nogil:
    """Whether the instruction has the same effect with its r/m register in memory.

    This is not so for a 32-bit write, which zeroes the upper half of a register; for XCHG, which
    would lock the bus; for a bit test with a register offset, which would access other memory; and
    for a rotation by a count, which leaves OF undefined: Intel's processors keep OF with a register
    operand, but not with one in memory.
    """
    cdef u8 op = i.opcode
    if i.enc != ENC_LEGACY:
        return False
    if (op & 0xFE) in (0xC0, 0xD2) and i.map == 0 and not i.modrm & 0x20:
        return False
    if (i.shape.rm & ROLE_WRITE) and (i.shape.rm & 7) == ROLE_32:
        return False
    if i.map == 0:
        if op < 0x40:
            return (op & 7) < 4
        return (op == 0x63 or op == 0x69 or op == 0x6B or op == 0x80 or op == 0x81 or op == 0x83
                or op == 0x84 or op == 0x85 or 0x88 <= op <= 0x8B or op == 0xC0 or op == 0xC1
                or op == 0xC6 or op == 0xC7 or 0xD0 <= op <= 0xD3 or op == 0xF6 or op == 0xF7
                or op == 0xFE or op == 0xFF)
    if i.map == 1:
        return (0x40 <= op <= 0x4F or 0x90 <= op <= 0x9F or op == 0xAF or op == 0xB6 or op == 0xB7
                or op == 0xBE or op == 0xBF or op == 0xBA or op == 0xBC or op == 0xBD or op == 0xB8
                or op == 0xA4 or op == 0xA5 or op == 0xAC or op == 0xAD)
    return False


cdef inline bint copies_rsp(Insn* i) noexcept nogil:
    """MOV r64, RSP."""
    return i.opcode == 0x89 and i.map == 0 and (i.rex & 8) and i.enc == ENC_LEGACY \
        and not i.prefixes & PFX_66


cdef inline bint swaps(Insn* i) noexcept nogil:
    """Whether the instruction (ADD to CMP, MOV, TEST) can be encoded with its operands exchanged.

    The instruction only reads the register in ModRM.reg.
    """
    cdef u8 op = i.opcode
    return (i.enc == ENC_LEGACY and i.map == 0
            and ((op < 0x40 and (op & 7) < 2) or 0x84 <= op <= 0x85 or 0x88 <= op <= 0x89))


cdef inline bint is_high_byte(Insn* i, u32 role, u32 reg) noexcept nogil:
    """Whether the operand is AH, CH, DH or BH, which an instruction with REX cannot name."""
    return (role & 7) == ROLE_8 and not i.prefixes & PFX_REX and i.enc == ENC_LEGACY and reg >= 4


cdef inline bint aligns_rsp(Insn* i) noexcept nogil:
    """AND RSP, imm8 with a negative immediate."""
    return (i.opcode == 0x83 and i.map == 0 and (i.rex & 8) and ((i.modrm >> 3) & 7) == 4
            and -128 <= i.imm < 0 and not i.prefixes & (PFX_66 | PFX_LOCK))


cdef inline void hold_operand(Builder* b, u32 reg, u32 role, bint* away, u32* at) noexcept nogil:
    """Use a copy of a spilled register where it pays."""
    cdef u32 copy = hold(b, reg, role) if away[0] else 0
    if copy:
        away[0] = False
        at[0] = copy


cdef void hold_operands(Builder* b, Insn* i, Away* a) noexcept nogil:
    hold_operand(b, insn_rm(i), i.shape.rm, &a.rm, &a.at_rm)
    hold_operand(b, insn_reg(i), i.shape.reg, &a.reg, &a.at_reg)
    hold_operand(b, i.vvvv, i.shape.vvvv, &a.vvvv, &a.at_vvvv)


cdef int emit_memory_form(Builder* b, Insn* i, Away a, u32 flags_dead) noexcept nogil:
    """Emit the form with a memory operand, which leaves one scratch register for the others."""
    cdef Shape* s = i.shape
    cdef u32 reg, free_reg, vvvv
    cdef bint both
    cdef Ref ref = memory_operand(b, i, flags_dead, a.reg or a.vvvv)
    hold_operands(b, i, &a)
    reg = a.at_reg
    both = a.reg and a.vvvv
    if both and (s.reg & ROLE_READ or (s.reg & 7) <= ROLE_16):
        return 0
    if insn_base(i) == RSP and ref.base == RSP and not s.mem & MEM_MAYBE and not both:
        b.sp_moved = 0
    free_reg = H9 if (ref.base == H8 or ref.index == H8) else H8
    if both and s.vvvv & ROLE_WRITE:
        # MULX writes both, and only after the access: one may use the address's scratch register.
        reg, vvvv = free_reg, H8 if free_reg == H9 else H9
        encode(b, i, i.opcode, reg, &ref, 0, vvvv)
        store_results(b, i, a, reg, NO_REG, vvvv)
    elif both:
        # The destination may use the scratch register of a source.
        load_away(b, i.vvvv, free_reg, s.vvvv)
        encode(b, i, i.opcode, free_reg, &ref, 0, free_reg)
        store_away(b, insn_reg(i), free_reg, s.reg)
    elif a.reg:
        load_away(b, insn_reg(i), free_reg, s.reg)
        encode(b, i, i.opcode, free_reg, &ref, 0, a.at_vvvv)
        store_away(b, insn_reg(i), free_reg, s.reg)
    elif a.vvvv:
        load_away(b, i.vvvv, free_reg, s.vvvv)
        encode(b, i, i.opcode, reg, &ref, 0, free_reg)
        store_away(b, i.vvvv, free_reg, s.vvvv)
    else:
        encode(b, i, i.opcode, reg, &ref, 0, a.at_vvvv)
    return 1


cdef bint emit_in_state(Builder* b, Insn* i, Away a) noexcept nogil:
    """Operate on a spilled register in the state block itself; False: there is no such form."""
    cdef Shape* s = i.shape
    cdef u32 reg = insn_reg(i), rm = insn_rm(i)
    if a.rm and rm != RSP and not a.vvvv and in_memory(i):
        if a.reg:
            load_away(b, reg, H8, s.reg)
        encode_state(b, i, i.opcode, H8 if a.reg else a.at_reg, rm)
        if a.reg:
            store_away(b, reg, H8, s.reg)
        return True
    if a.reg and reg != RSP and not a.rm and swaps(i):
        encode_state(b, i, i.opcode if 0x84 <= i.opcode <= 0x85 else i.opcode | 2, a.at_rm, reg)
        return True
    if a.reg and reg == RSP and not a.rm and copies_rsp(i):
        guest_rsp(b, a.at_rm)
        return True
    return False


cdef int emit_register_form(Builder* b, Insn* i, Away a) noexcept nogil:
    """Emit the form with up to three guest registers; there are two scratch registers."""
    cdef Shape* s = i.shape
    cdef u32 reg = a.at_reg, rm = a.at_rm, vvvv = a.at_vvvv, free_reg = H8, other
    if a.rm:
        load_away(b, insn_rm(i), H8, s.rm)
        rm = H8
        free_reg = H9
    if a.vvvv:
        if a.rm and a.reg and s.reg & ROLE_READ:
            return 0
        load_away(b, i.vvvv, free_reg, s.vvvv)
        vvvv = free_reg
        other = free_reg
        free_reg = H9 if free_reg == H8 else H8
        if a.reg and a.rm and s.vvvv & ROLE_WRITE:
            # MULX reads its source before it writes: a destination uses the source's scratch.
            encode(b, i, i.opcode, rm, NULL, rm, vvvv)
            a.rm = False
            store_results(b, i, a, rm, NO_REG, vvvv)
            return 1
        if a.reg and a.rm:
            # All three are away: the destination uses the scratch register of the second source.
            encode(b, i, i.opcode, other, NULL, rm, vvvv)
            store_away(b, insn_reg(i), other, s.reg)
            return 1
    if a.reg:
        if insn_reg(i) == insn_rm(i) and a.rm:
            free_reg = rm
            if not s.rm & ROLE_READ:
                load_away(b, insn_reg(i), rm, s.reg)
        else:
            load_away(b, insn_reg(i), free_reg, s.reg)
        reg = free_reg
    encode(b, i, i.opcode, reg, NULL, rm, vvvv)
    store_results(b, i, a, reg, rm, vvvv)
    return 1


cdef void store_results(Builder* b, Insn* i, Away a, u32 reg, u32 rm, u32 vvvv) noexcept nogil:
    """Write the results from the host registers `reg`, `rm` and `vvvv` to the guest's registers.

    RSP comes last, because binding it takes both scratch registers.
    """
    cdef Shape* s = i.shape
    cdef bint rm_written = a.rm and s.rm & ROLE_WRITE
    if rm_written and insn_rm(i) != RSP:
        store_state(b, rm, insn_rm(i) * 8)
    if a.vvvv and i.vvvv != RSP:
        store_away(b, i.vvvv, vvvv, s.vvvv)
    if a.reg and not (reg == rm and a.rm and not s.reg & ROLE_WRITE):
        if insn_reg(i) == RSP and (s.reg & ROLE_WRITE) and rm_written and insn_rm(i) == RSP:
            bind_rsp(b, reg)
            return
        store_away(b, insn_reg(i), reg, s.reg)
    if a.vvvv and i.vvvv == RSP and insn_reg(i) != RSP:
        store_away(b, RSP, vvvv, s.vvvv)
    if rm_written and insn_rm(i) == RSP:
        bind_rsp(b, rm)


cdef int emit_plain(Builder* b, Insn* i, u32 flags_dead, u32 live_after) noexcept nogil:
    cdef Shape* s = i.shape
    cdef int done = 1
    cdef u8 group = b.shapes.groups[i.enc][i.map][i.opcode]
    cdef bint mem = group & GROUP_MODRM and i.modrm < 0xC0
    cdef u32 reg = insn_reg(i), rm = insn_rm(i)
    cdef bint simple
    cdef Away a
    a.reg = s.reg != 0 and is_away(reg)
    a.rm = s.rm != 0 and not mem and is_away(rm)
    a.vvvv = s.vvvv != 0 and is_away(i.vvvv)
    if mem and s.mem == MEM_HINT:
        return 1
    if s.opreg:
        return emit_opreg(b, i)
    if is_high_byte(i, s.reg, reg):
        a.reg = False
        if mem:
            return emit_high_byte(b, i, flags_dead)
    if is_high_byte(i, s.rm, rm):
        a.rm = False
        if a.reg and not mem:
            # MOVZX ESP, AH: a scratch register needs REX, with which AH cannot be encoded.
            return 0
    a.at_reg = reg
    a.at_rm = rm
    a.at_vvvv = i.vvvv
    simple = not mem or (insn_base(i) == RSP and insn_index(i) == NO_REG and i.seg == SEG_NONE
                         and not i.prefixes & PFX_67)
    if simple and not (a.reg or a.rm or a.vvvv):
        copy_verbatim(b, i)
        if s.stack or (mem and not s.mem & MEM_MAYBE):
            b.sp_moved = 0
        return 1
    if s.kind == SHAPE_POP_MEM and insn_base(i) == RSP:
        # POP computes the address with RSP after the pop.
        return 0
    if a.rm and rm == RSP:
        if moves_rsp(i) and -SMALL_MOVE <= i.imm <= SMALL_MOVE and b.sp_moved < TOTAL_MOVE:
            return emit_rsp_move(b, i, live_after)
        if aligns_rsp(i) and not live_after & s.flags_write:
            # Regions have a larger alignment, so the host's RSP can be aligned directly.
            copy_verbatim(b, i)
            b.sp_moved += 128
            return 1
    if mem:
        done = emit_memory_form(b, i, a, flags_dead)
    else:
        hold_operands(b, i, &a)
        done = emit_in_state(b, i, a) or emit_register_form(b, i, a)
    if done:
        store_held(b)
    return done


cdef int emit_opreg(Builder* b, Insn* i) noexcept nogil:
    """Emit PUSH, POP, MOV imm, BSWAP or XCHG with RAX, whose opcode names the register."""
    cdef Shape* s = i.shape
    cdef u32 reg = insn_opreg(i), host
    if (s.opreg & 7) == ROLE_8 and not i.prefixes & PFX_REX:
        copy_verbatim(b, i)
        return 1
    if not is_away(reg):
        copy_verbatim(b, i)
        if s.stack:
            b.sp_moved = 0
        return 1
    if s.stack and (i.prefixes & PFX_66):
        return 0
    if s.stack == STACK_PUSH:
        host = hold(b, reg, s.opreg) or load_guest(b, reg, H8)
        e8(b, 0x41); e8(b, 0x50 | host & 7)          # push
        b.sp_moved = 0
        return 1
    if s.stack == STACK_POP:
        host = hold(b, reg, s.opreg) or H8
        e8(b, 0x41); e8(b, 0x58 | host & 7)          # pop
        store_away(b, reg, host, s.opreg)
        b.sp_moved = 0
        return 1
    host = hold(b, reg, s.opreg)
    if host == 0 and reg != RSP and (i.opcode & 0xF8) == 0xB8 and i.map == 0 \
            and not i.prefixes & PFX_66 and not i.rex & 8 and i.imm >= 0:
        store_state_imm(b, reg * 8, <u32>i.imm)
        return 1
    if host == 0:
        host = H8
        load_away(b, reg, H8, s.opreg)
    if i.prefixes & PFX_66:
        e8(b, 0x66)
    e8(b, 0x41 | (i.rex & 8))
    if i.map:
        e8(b, 0x0F)
    e8(b, i.opcode & 0xF8 | host & 7)
    copy_imm(b, i)
    store_away(b, reg, host, s.opreg)
    return 1


cdef inline void swap_high(Builder* b, u32 reg) noexcept nogil:
    """Emit `xchg bl, bh` or the like for the register whose high byte is number `reg` (4-7)."""
    e8(b, 0x86)
    e8(b, 0xC0 | (reg << 3) | (reg - 4))


cdef int emit_high_byte(Builder* b, Insn* i, u32 flags_dead) noexcept nogil:
    """Emit an operation on AH-DH and memory that needs REX: exchange the high and low bytes."""
    cdef u32 base = insn_base(i)
    cdef Ref ref
    if base == RSP and insn_index(i) == NO_REG and i.seg == SEG_NONE and not i.prefixes & PFX_67:
        copy_verbatim(b, i)
        b.sp_moved = 0
        return 1
    if writes_both(i):
        return 0
    ref = memory_operand(b, i, flags_dead, True)
    emit_high_byte_at(b, i, &ref)
    return 1


cdef void emit_high_byte_at(Builder* b, Insn* i, Ref* mem) noexcept nogil:
    cdef Shape* s = i.shape
    cdef u32 reg = insn_reg(i)
    cdef u32 free_reg = H9 if mem.base == H8 or mem.index == H8 else H8
    if s.reg & ROLE_WRITE or not s.mem & MEM_WRITE:
        # The only access comes first, so that a fault finds the state unchanged.
        e8(b, 0x40 | rex_of(0, free_reg, mem)); e8(b, 0x0F); e8(b, 0xB6)
        modrm_mem(b, free_reg, mem)
        swap_high(b, reg)
        encode(b, i, i.opcode, reg - 4, NULL, free_reg, 0)
        swap_high(b, reg)
        return
    rorx(b, free_reg, reg - 4, 8)
    encode(b, i, i.opcode, free_reg, mem, 0, 0)


