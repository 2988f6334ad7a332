"""Innocuous instructions.

Most are emitted byte for byte.  The others get a host operand for their memory operand and scratch
registers for r8-r11 and RSP; the bytes of opcode and immediate stay as they are.
"""
from ringlet.core.state cimport (u8, u16, u32, u64, i32, i64, RAX, RCX, RBX, RSP, RBP, RSI, RDI,
                                 SEG_NONE, CpuState)
from ringlet.translate.insn cimport *
from ringlet.translate.shape cimport *
from ringlet.translate.bindings cimport SMALL_MOVE, TOTAL_MOVE
from ringlet.translate.builder cimport *
from ringlet.translate.operands cimport (memory_operand, guest_rsp, bind_rsp, lookup, load_guest,
                                         of_disp, window, linear_operand)

cdef CpuState* _null = NULL
cdef u32 NADDEND = <u32><size_t>&_null.rsp_naddend
cdef u32 SCRATCH = <u32><size_t>&_null.scratch[0]


cdef void copy_verbatim(Builder* b, Insn* i) noexcept nogil:
    cdef const u8* p = b.code + i.offset
    cdef u8* q = b.out + b.n
    cdef u32 k
    (<u64*>q)[0] = 0
    cdef u32 at = b.n
    for k in range(i.length):
        q[k] = p[k]
    if i.disp_size == 4 and not i.rip_relative and is_far(i.disp):
        b.n = at + i.imm_at - 4
        free_field(b, i, FREE_DISP)
    if i.shape.imm == 4 and is_far(i.imm):
        b.n = at + i.imm_at
        free_field(b, i, FREE_IMM)
    b.n = at + i.length


cdef inline bint away(u32 reg) noexcept nogil:
    """The guest register is not in the host register of its number."""
    return reg == RSP or 8 <= reg <= 11


cdef inline void copy_imm(Builder* b, Insn* i) noexcept nogil:
    cdef const u8* p = b.code + i.offset + i.imm_at
    cdef u32 k
    if i.shape.imm == 4 and is_far(i.imm):
        free_field(b, i, FREE_IMM)
    for k in range(i.shape.imm):
        b.out[b.n + k] = p[k]
    b.n += i.shape.imm


cdef inline void legacy_opcode(Builder* b, Insn* i, u32 opcode, u32 rex) noexcept nogil:
    """The prefixes of `i`, REX with the bits of `rex`, and the opcode in its map."""
    if i.prefixes & PFX_66:
        e8(b, 0x66)
    if i.prefixes & PFX_REP:
        e8(b, 0xF3)
    elif i.prefixes & PFX_REPNE:
        e8(b, 0xF2)
    if rex or (i.prefixes & PFX_REX):
        e8(b, 0x40 | rex)
    if i.map:
        e8(b, 0x0F)
        if i.map == 2:
            e8(b, 0x38)
        elif i.map == 3:
            e8(b, 0x3A)
    e8(b, opcode)


cdef void encode(Builder* b, Insn* i, u32 opcode, u32 reg, Ref* mem, u32 rm,
        u32 vvvv) noexcept nogil:
    """Emit `i` with other registers: memory operand `mem`, or register `rm` where it is NULL."""
    cdef u32 rex = (i.rex & 8) | ((reg >> 3) << 2)
    if mem != NULL:
        rex |= rex_of(0, 0, mem)
    else:
        rex |= rm >> 3
    if i.enc == ENC_VEX:
        if (rex & 11) == 0 and i.map == 1:
            e8(b, 0xC5)
            e8(b, (((~rex) & 4) << 5) | ((~vvvv & 15) << 3) | (i.vex & 7))
        else:
            e8(b, 0xC4)
            e8(b, (((~rex) & 7) << 5) | i.map)
            e8(b, ((rex & 8) << 4) | ((~vvvv & 15) << 3) | (i.vex & 7))
        e8(b, opcode)
    else:
        if i.prefixes & PFX_LOCK:
            e8(b, 0xF0)
        legacy_opcode(b, i, opcode, rex)
    if b.shapes.groups[i.enc][i.map][i.opcode] & GROUP_MODRM:
        if mem != NULL:
            modrm_mem(b, reg, mem)
        else:
            e8(b, 0xC0 | ((reg & 7) << 3) | (rm & 7))
    copy_imm(b, i)


cdef inline void fetch(Builder* b, u32 reg, u32 scratch, u32 role) noexcept nogil:
    """Bring a register that is away into `scratch`, unless it is only overwritten."""
    if (role & ROLE_READ) or (role & 7) <= ROLE_16:
        load_guest(b, reg, scratch)


cdef inline void store_back(Builder* b, u32 reg, u32 scratch, u32 role) noexcept nogil:
    if role & ROLE_WRITE:
        if reg == RSP:
            bind_rsp(b, scratch)
        else:
            store_state(b, scratch, reg * 8)


cdef inline bint moves_rsp(Insn* i) noexcept nogil:
    """ADD or SUB RSP, imm."""
    return ((i.opcode == 0x83 or i.opcode == 0x81) and i.map == 0 and i.modrm >= 0xC0
            and insn_rm(i) == RSP and (i.rex & 8) and i.enc == ENC_LEGACY
            and not i.prefixes & (PFX_66 | PFX_LOCK)
            and (((i.modrm >> 3) & 7) == 0 or ((i.modrm >> 3) & 7) == 5))


cdef int emit_rsp_move(Builder* b, Insn* i, u32 live_after) noexcept nogil:
    cdef i64 delta = i.imm if ((i.modrm >> 3) & 7) == 0 else -i.imm
    if live_after & i.shape.flags_write:
        # Exact flags come from the guest's own value.
        guest_rsp(b, H8)
        encode(b, i, i.opcode, insn_reg(i), NULL, H8, 0)
        lea_disp(b, RSP, RSP, <i32>delta)
    else:
        copy_verbatim(b, i)
    b.sp_moved += <u32>(delta if delta > 0 else -delta)
    return 1


cdef bint in_memory(Insn* i) noexcept nogil:
    """The instruction does the same with its r/m register in memory.

    A 32-bit write is not among them (it zeroes the upper half), nor XCHG, which would lock, nor a
    bit test with an offset from a register, which would address memory beside it.
    """
    cdef u8 op = i.opcode
    if i.enc != ENC_LEGACY:
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
    """The instruction has a twin whose operands are the other way round: ADD to CMP, MOV, TEST.

    It only reads the register in ModRM.reg.
    """
    cdef u8 op = i.opcode
    return (i.enc == ENC_LEGACY and i.map == 0
            and ((op < 0x40 and (op & 7) < 2) or 0x84 <= op <= 0x85 or 0x88 <= op <= 0x89))


cdef void encode_state(Builder* b, Insn* i, u32 opcode, u32 reg, u32 spilled) noexcept nogil:
    """`encode` with the r/m operand [state + spilled * 8]."""
    legacy_opcode(b, i, opcode, (i.rex & 8) | ((reg >> 3) << 2))
    e8(b, ((reg & 7) << 3) | 4)
    e8(b, 0x25)
    reloc(b, RELOC_STATE, spilled * 8)
    e32(b, <u32>(b.block + spilled * 8))
    copy_imm(b, i)


cdef int emit_plain(Builder* b, Insn* i, u32 flags_dead, u32 live_after) noexcept nogil:
    cdef Shape* s = i.shape
    cdef u8 group = b.shapes.groups[i.enc][i.map][i.opcode]
    cdef bint has_modrm = group & GROUP_MODRM
    cdef bint mem = has_modrm and i.modrm < 0xC0
    cdef u32 reg = insn_reg(i), rm = insn_rm(i), vvvv = i.vvvv
    cdef bint reg_away = s.reg != 0 and away(reg)
    cdef bint rm_away = s.rm != 0 and not mem and away(rm)
    cdef bint vvvv_away = s.vvvv != 0 and away(vvvv)
    cdef bint simple
    cdef u32 free_reg, other
    cdef Ref ref
    if mem and s.mem == MEM_HINT:
        return 1
    if s.opreg:
        return emit_opreg(b, i)
    if (s.reg & 7) == ROLE_8 and not i.prefixes & PFX_REX and i.enc == ENC_LEGACY and reg >= 4:
        reg_away = False
        if mem:
            return emit_high_byte(b, i, flags_dead)
    if (s.rm & 7) == ROLE_8 and not i.prefixes & PFX_REX and i.enc == ENC_LEGACY and rm >= 4:
        rm_away = False
        if reg_away and not mem:
            # MOVZX ESP, AH: a scratch register needs REX, beside which there is no AH.
            return 0
    simple = not mem or (insn_base(i) == RSP and insn_index(i) == NO_REG and i.seg == SEG_NONE
                         and not i.prefixes & PFX_67)
    if simple and not (reg_away or rm_away or vvvv_away):
        copy_verbatim(b, i)
        if s.stack or (mem and not s.mem & MEM_MAYBE):
            b.sp_moved = 0
        return 1
    if s.kind == SHAPE_POP_MEM and insn_base(i) == RSP:
        # Its address is formed with RSP after the pop.
        return 0
    if rm_away and rm == RSP:
        if moves_rsp(i) and -SMALL_MOVE <= i.imm <= SMALL_MOVE and b.sp_moved < TOTAL_MOVE:
            return emit_rsp_move(b, i, live_after)
        if (i.opcode == 0x83 and i.map == 0 and (i.rex & 8) and ((i.modrm >> 3) & 7) == 4
                and -128 <= i.imm < 0 and not live_after & s.flags_write
                and not i.prefixes & (PFX_66 | PFX_LOCK)):
            # AND RSP, -16: regions are aligned to more than that.
            copy_verbatim(b, i)
            b.sp_moved += 128
            return 1
    if mem:
        if reg_away and vvvv_away and not (s.reg & ROLE_READ) and (s.reg & 7) > ROLE_16 \
                and not s.vvvv & ROLE_WRITE:
            # The destination may be the scratch register of a source.
            ref = memory_operand(b, i, flags_dead, True)
            free_reg = H9 if (ref.base == H8 or ref.index == H8) else H8
            fetch(b, vvvv, free_reg, s.vvvv)
            encode(b, i, i.opcode, free_reg, &ref, 0, free_reg)
            store_back(b, reg, free_reg, s.reg)
            return 1
        if reg_away and vvvv_away:
            return 0
        ref = memory_operand(b, i, flags_dead, reg_away or vvvv_away)
        if insn_base(i) == RSP and ref.base == RSP and not s.mem & MEM_MAYBE:
            b.sp_moved = 0
        free_reg = H9 if (ref.base == H8 or ref.index == H8) else H8
        if reg_away:
            fetch(b, reg, free_reg, s.reg)
            encode(b, i, i.opcode, free_reg, &ref, 0, vvvv)
            store_back(b, reg, free_reg, s.reg)
        elif vvvv_away:
            fetch(b, vvvv, free_reg, s.vvvv)
            encode(b, i, i.opcode, reg, &ref, 0, free_reg)
            store_back(b, vvvv, free_reg, s.vvvv)
        else:
            encode(b, i, i.opcode, reg, &ref, 0, vvvv)
        return 1
    if rm_away and rm != RSP and not vvvv_away and in_memory(i):
        # The spilled register is operated on where it is.
        if reg_away:
            fetch(b, reg, H8, s.reg)
            reg = H8
        encode_state(b, i, i.opcode, reg, rm)
        if reg_away:
            store_back(b, insn_reg(i), H8, s.reg)
        return 1
    if reg_away and reg != RSP and not rm_away and swaps(i):
        encode_state(b, i, i.opcode if 0x84 <= i.opcode <= 0x85 else i.opcode | 2, rm, reg)
        return 1
    if reg_away and reg == RSP and not rm_away and copies_rsp(i):
        load_state(b, rm, NADDEND)
        lea_sum(b, rm, RSP, <u8>rm, 0)
        return 1
    # Register forms: at most three general registers, two scratch registers.
    free_reg = H8
    if rm_away:
        fetch(b, rm, H8, s.rm)
        rm = H8
        free_reg = H9
    if vvvv_away:
        if free_reg == H9 and reg_away and (s.reg & ROLE_READ or s.vvvv & ROLE_WRITE):
            return 0
        fetch(b, vvvv, free_reg, s.vvvv)
        vvvv = free_reg
        other = free_reg
        free_reg = H9 if free_reg == H8 else H8
        if reg_away and rm_away:
            # Three away: the destination shares the scratch register of the second source.
            encode(b, i, i.opcode, other, NULL, rm, vvvv)
            store_back(b, reg, other, s.reg)
            return 1
    if reg_away:
        if reg == insn_rm(i) and rm_away:
            free_reg = rm
            if not s.rm & ROLE_READ:
                fetch(b, reg, rm, s.reg)
        else:
            fetch(b, reg, free_reg, s.reg)
        reg = free_reg
    encode(b, i, i.opcode, reg, NULL, rm, vvvv)
    if (s.rm & ROLE_WRITE) and rm_away and insn_rm(i) != RSP:
        store_state(b, rm, insn_rm(i) * 8)
    if vvvv_away and i.vvvv != RSP:
        store_back(b, i.vvvv, vvvv, s.vvvv)
    if reg_away and not (reg == rm and rm_away and not s.reg & ROLE_WRITE):
        if insn_reg(i) == RSP and (s.reg & ROLE_WRITE) and rm_away and (s.rm & ROLE_WRITE) \
                and insn_rm(i) == RSP:
            bind_rsp(b, reg)
            return 1
        store_back(b, insn_reg(i), reg, s.reg)
    # RSP comes last: binding it takes both scratch registers.
    if vvvv_away and i.vvvv == RSP and insn_reg(i) != RSP:
        store_back(b, RSP, vvvv, s.vvvv)
    if (s.rm & ROLE_WRITE) and rm_away and insn_rm(i) == RSP:
        bind_rsp(b, rm)
    return 1


cdef int emit_opreg(Builder* b, Insn* i) noexcept nogil:
    """The register is in the opcode: PUSH, POP, MOV imm, BSWAP, XCHG with RAX."""
    cdef Shape* s = i.shape
    cdef u32 reg = insn_opreg(i)
    if (s.opreg & 7) == ROLE_8 and not i.prefixes & PFX_REX:
        copy_verbatim(b, i)
        return 1
    if not away(reg):
        copy_verbatim(b, i)
        if s.stack:
            b.sp_moved = 0
        return 1
    if s.stack and (i.prefixes & PFX_66):
        return 0
    if s.stack == STACK_PUSH:
        load_guest(b, reg, H8)
        e8(b, 0x41); e8(b, 0x50)                     # push r8
        b.sp_moved = 0
        return 1
    if s.stack == STACK_POP:
        e8(b, 0x41); e8(b, 0x58)                     # pop r8
        if reg == RSP:
            bind_rsp(b, H8)
        else:
            store_state(b, H8, reg * 8)
        b.sp_moved = 0
        return 1
    if reg != RSP and (i.opcode & 0xF8) == 0xB8 and i.map == 0 and not i.prefixes & PFX_66 \
            and not i.rex & 8 and i.imm >= 0:
        store_state_imm(b, reg * 8, <u32>i.imm)
        return 1
    fetch(b, reg, H8, s.opreg)
    if i.prefixes & PFX_66:
        e8(b, 0x66)
    e8(b, 0x41 | (i.rex & 8))
    if i.map:
        e8(b, 0x0F)
    e8(b, i.opcode & 0xF8)
    copy_imm(b, i)
    store_back(b, reg, H8, s.opreg)
    return 1


cdef inline void swap_high(Builder* b, u32 reg) noexcept nogil:
    """`xchg bl, bh` and its like for the register whose high byte is number `reg` (4-7)."""
    e8(b, 0x86)
    e8(b, 0xC0 | (reg << 3) | (reg - 4))


cdef int emit_high_byte(Builder* b, Insn* i, u32 flags_dead) noexcept nogil:
    """AH-DH beside a memory operand that needs REX: swapped through the low byte."""
    cdef Shape* s = i.shape
    cdef u32 reg = insn_reg(i), low = reg - 4, base = insn_base(i), free_reg
    cdef Ref ref
    if base == RSP and insn_index(i) == NO_REG and i.seg == SEG_NONE and not i.prefixes & PFX_67:
        copy_verbatim(b, i)
        b.sp_moved = 0
        return 1
    if (s.reg & ROLE_WRITE) and (s.mem & MEM_WRITE):
        return 0
    ref = memory_operand(b, i, flags_dead, True)
    free_reg = H9 if (ref.base == H8 or ref.index == H8) else H8
    if s.reg & ROLE_WRITE or not s.mem & MEM_WRITE:
        # The one access comes first, so that a fault sees nothing changed.
        e8(b, 0x40 | rex_of(0, free_reg, &ref)); e8(b, 0x0F); e8(b, 0xB6)
        modrm_mem(b, free_reg, &ref)
        swap_high(b, reg)
        encode(b, i, i.opcode, low, NULL, free_reg, 0)
        swap_high(b, reg)
        return 1
    rorx(b, free_reg, low, 8)
    encode(b, i, i.opcode, free_reg, &ref, 0, 0)
    return 1


cdef int emit_lea(Builder* b, Insn* i) noexcept nogil:
    cdef u32 reg = insn_reg(i), base = insn_base(i), index = insn_index(i), dst
    cdef Ref r
    if i.rip_relative and (i.rex & 8) and not i.prefixes & PFX_67:
        dst = H8 if away(reg) else reg
        e8(b, 0x48 | (dst >> 3)); e8(b, 0xB8 | (dst & 7))
        reloc(b, RELOC_LINEAR64, <i64>i.offset + i.length + i.disp)
        e64(b, b.linear + i.offset + i.length + <u64><i64>i.disp)
        store_lea(b, reg, dst)
        return 1
    if i.rip_relative:
        linear_operand_no_segment(b, i)
        r = ref_mem(H9, 0)
        dst = H8 if away(reg) else reg
        if (i.shape.reg & 7) == ROLE_16 and away(reg):
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
    if not away(reg) and (base == NO_REG or not away(base)) \
            and (index == NO_REG or not away(index)) and i.seg == SEG_NONE:
        copy_verbatim(b, i)
        return 1
    if base == RSP and index == NO_REG and not away(reg) and (i.rex & 8) \
            and not i.prefixes & (PFX_66 | PFX_67):
        load_state(b, reg, NADDEND)
        r = of_disp(b, i, RSP, <u8>reg)
        lea(b, reg, &r)
        return 1
    r = of_disp(b, i, NO_REG, NO_REG)
    r.scale = i.sib >> 6 if i.has_sib and index != NO_REG else 0
    r.base = NO_REG if base == NO_REG else <u8>load_guest(b, base, H9)
    r.index = NO_REG if index == NO_REG else <u8>load_guest(b, index, H8)
    dst = reg
    if away(reg):
        dst = H8
        if (i.shape.reg & 7) == ROLE_16:
            # A 16-bit write merges: fold the address first to free a register.
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
    elif away(reg):
        store_state(b, dst, reg * 8)
