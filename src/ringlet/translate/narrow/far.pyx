"""Transfers to other segments in real and virtual-8086 mode, and PUSHF and POPF at CPL 0.

CALL, JMP and RET far, INT n and IRET with 16-bit operands set the selector and the base of CS,
which keeps its limit of 64 KiB, and go on by the jump table, which knows both EIP and the base.
No flag changes but by IRET and POPF.  These two leave where they would change DF, TF, IOPL or NT,
or where an interrupt or an NMI may wait for them.

Sources: SDM 3A 20.1.1, 20.1.4; SDM vol. 2A CALL, INT, IRET, JMP; vol. 2B POPF, RET.
"""
from ringlet.core.ops cimport (
    OP_CALL_FAR, OP_INT, OP_IRET, OP_JMP_FAR, OP_POPF, OP_PUSHF, OP_RET_FAR)
from ringlet.core.state cimport (
    FLAG_IF, KEY_CPL, KEY_CS64K, KEY_CS_ODD, KEY_DATA64K, KEY_PARAGRAPHS, KEY_STEP, RAX, RCX,
    SEG_CS, CpuState, u8, u32, i32)
from ringlet.translate.builder cimport *
from ringlet.translate.flow cimport emit_indirect
from ringlet.translate.insn cimport *
from ringlet.translate.narrow.branch cimport emit_narrow_op
from ringlet.translate.narrow.segments cimport (
    allows, move, move_sp, operand, restore_r11, stack_operand)
from ringlet.translate.narrow.selectors cimport load_paragraph, load_selector

cdef CpuState* _null = NULL
cdef u32 IFLAG = <u32><size_t>&_null.arch.iflag
cdef u32 RFLAGS = <u32><size_t>&_null.arch.rflags
cdef u32 INTR = <u32><size_t>&_null.intr
cdef u32 NMI_BLOCKED = <u32><size_t>&_null.arch.nmi_blocked
cdef u32 SCRATCH = <u32><size_t>&_null.scratch[0]
cdef u32 STRING_STEP = <u32><size_t>&_null.string_step
cdef u32 VECTORS_AT = <u32><size_t>&_null.vectors_at
cdef u32 KEPT_FLAGS = <u32><size_t>&_null.kept_flags
cdef u32 INTERRUPT_FLAG = <u32><size_t>&_null.interrupt_flag
cdef u32 OVERFLOW_FLAG = <u32><size_t>&_null.overflow_flag

cdef enum:
    R11 = 11


cdef inline void mov32(Builder* b, u32 dst, u32 src) noexcept nogil:
    e8(b, 0x40 | src >> 3 << 2 | dst >> 3); e8(b, 0x89)
    e8(b, 0xC0 | (src & 7) << 3 | dst & 7)


cdef inline void load32(Builder* b, u32 reg, u32 field) noexcept nogil:
    state_op(b, 0, 0x8B, reg, field)


cdef void extract(Builder* b, u32 dst, u32 src, u32 mask) noexcept nogil:
    """`pext dst32, src32, [mask]`."""
    e8(b, 0xC4)
    e8(b, 0x42 | (1 - (dst >> 3)) << 7 | 0x20)
    e8(b, (~src & 15) << 3 | 2)
    e8(b, 0xF5)
    e8(b, (dst & 7) << 3 | 4); e8(b, 0x25)
    reloc(b, RELOC_STATE, mask)
    e32(b, <u32>(b.block + mask))


cdef void add_direction(Builder* b) noexcept nogil:
    """Add DF to the flags in r11; r8 is lost."""
    load32(b, H8, STRING_STEP)
    e8(b, 0x41); e8(b, 0xF7); e8(b, 0xD0)                     # not r8d: -2, or 0 with DF
    sum32(b, H8, H8, NO_REG, 2)
    rorx(b, H8, H8, 55)
    sum32(b, R11, R11, H8, 0)


cdef void load_flags(Builder* b) noexcept nogil:
    """r11d := RFLAGS; r8 is lost."""
    mov_rr(b, H8, RAX)
    e8(b, 0x9F)                                               # lahf
    e8(b, 0x0F); e8(b, 0xB6); e8(b, 0xC4)                     # movzx eax, ah
    mov32(b, R11, RAX)
    mov_rr(b, RAX, H8)
    e8(b, 0x41); e8(b, 0x0F); e8(b, 0x90); e8(b, 0xC0)        # seto r8b
    e8(b, 0x45); e8(b, 0x0F); e8(b, 0xB6); e8(b, 0xC0)        # movzx r8d, r8b
    rorx(b, H8, H8, 53)
    sum32(b, R11, R11, H8, 0)
    add_direction(b)
    load32(b, H8, RFLAGS)
    sum32(b, R11, R11, H8, -2)                                # bit 1 is set in both
    load32(b, H8, IFLAG)
    sum32(b, R11, R11, H8, 0)


cdef void store_arithmetic(Builder* b) noexcept nogil:
    """CF, PF, AF, ZF, SF and OF := those in r11d; r8 and r9 are lost."""
    extract(b, H9, R11, OVERFLOW_FLAG)
    mov_rr(b, H8, RAX)
    # rorx eax, r11d, 24: the lowest byte comes to AH.
    e8(b, 0xC4); e8(b, 0xC3); e8(b, 0x7B); e8(b, 0xF0); e8(b, 0xC3); e8(b, 24)
    e8(b, 0x41); e8(b, 0x80); e8(b, 0xC1); e8(b, 0x7F)        # add r9b, 7Fh
    e8(b, 0x9E)                                               # sahf
    mov_rr(b, RAX, H8)


cdef void store_interrupt_flag(Builder* b) noexcept nogil:
    """IF := that in r11d; r9 is lost."""
    cdef u32 over
    extract(b, H9, R11, INTERRUPT_FLAG)
    e8(b, 0x4C); e8(b, 0x87); e8(b, 0xC9)                     # xchg rcx, r9
    store_state_imm(b, IFLAG, 0)
    e8(b, 0xE3)                                               # jrcxz over
    over = b.n
    e8(b, 0)
    store_state_imm(b, IFLAG, FLAG_IF)
    b.out[over] = <u8>(b.n - over - 1)
    mov_rr(b, RCX, H9)


cdef u32 compare_kept(Builder* b, bint returns) noexcept nogil:
    """Emit a branch for when DF, TF, IOPL and NT stay, and nothing waits; return its distance.

    The image is in r11d, which is kept; r8 and r9 are lost, and RCX is in scratch.
    """
    cdef u32 over
    store_state(b, RCX, SCRATCH)
    extract(b, RCX, R11, KEPT_FLAGS)
    mov_rr(b, H9, R11)
    load32(b, R11, RFLAGS)
    add_direction(b)
    extract(b, R11, R11, KEPT_FLAGS)
    e8(b, 0x41); e8(b, 0xF7); e8(b, 0xD3)                     # not r11d
    sum32(b, RCX, RCX, R11, 1)
    mov_rr(b, R11, H9)
    load32(b, H8, INTR)
    lea_sum(b, RCX, RCX, H8, 0)
    if returns:
        load32(b, H8, NMI_BLOCKED)
        lea_sum(b, RCX, RCX, H8, 0)
    e8(b, 0xE3)                                               # jrcxz
    over = b.n
    e8(b, 0)
    load_state(b, RCX, SCRATCH)
    restore_r11(b)
    return over


cdef void store_flags(Builder* b, Insn* i) noexcept nogil:
    """Load the flags of IRET or POPF from r11d, or leave for the operation; r8 and r9 are lost."""
    cdef u32 over = compare_kept(b, i.shape.op == OP_IRET)
    emit_narrow_op(b, i, i.shape.op)
    b.out[over] = <u8>(b.n - over - 1)
    load_state(b, RCX, SCRATCH)
    store_interrupt_flag(b)
    store_arithmetic(b)


cdef void enter_paragraph(Builder* b) noexcept nogil:
    """Go to the selector in r8d and the offset in r11d, both of 16 bits."""
    load_paragraph(b, SEG_CS)
    rorx(b, H9, H8, 32)
    lea_sum(b, H8, H9, R11, 0)
    restore_r11(b)
    emit_indirect(b)


cdef void enter_pointer(Builder* b) noexcept nogil:
    """Go to the far pointer in r8d."""
    movzx16(b, R11, H8)
    rorx(b, H8, H8, 16)
    movzx16(b, H8, H8)
    enter_paragraph(b)


cdef void store_return(Builder* b, Insn* i) noexcept nogil:
    """Store CS and the next instruction's EIP at r9; r8 is lost."""
    cdef Ref r = ref_mem(H9, 2)
    load_selector(b, H8, SEG_CS)
    move(b, 0x89, H8, &r, 2)
    e8(b, 0x66); e8(b, 0x41); e8(b, 0xC7); e8(b, 0x01)        # mov word [r9], imm16
    e8(b, <u32>(b.rip + i.offset + i.length)); e8(b, <u32>(b.rip + i.offset + i.length) >> 8)
    b.overflowed = 1


cdef int call_far(Builder* b, Insn* i) noexcept nogil:
    cdef Ref r
    if i.shape.modrm:
        if i.modrm >= 0xC0 or not allows(b, i, False):
            return 0
        r = operand(b, i, 4, False, 0)
        lea(b, H9, &r)
        r = ref_mem(H9, 0)
        move(b, 0x8B, R11, &r, 4)
    r = stack_operand(b, -4, 4, True)
    lea(b, H9, &r)
    store_return(b, i)
    move_sp(b, -4)
    if i.shape.modrm:
        mov_rr(b, H8, R11)
        enter_pointer(b)
    else:
        enter_constant(b, i)
    return 1


cdef void enter_constant(Builder* b, Insn* i) noexcept nogil:
    e8(b, 0x41); e8(b, 0xB8); e32(b, <u32>(i.imm >> 16) & 0xFFFF)    # mov r8d, imm32
    e8(b, 0x41); e8(b, 0xBB); e32(b, <u32>i.imm & 0xFFFF)            # mov r11d, imm32
    enter_paragraph(b)


cdef int jump_far(Builder* b, Insn* i) noexcept nogil:
    cdef Ref r
    if not i.shape.modrm:
        enter_constant(b, i)
        return 1
    if i.modrm >= 0xC0 or not allows(b, i, False):
        return 0
    r = operand(b, i, 4, False, 0)
    move(b, 0x8B, H8, &r, 4)
    enter_pointer(b)
    return 1


cdef int return_far(Builder* b, Insn* i) noexcept nogil:
    cdef Ref r = stack_operand(b, 0, 4, False)
    move(b, 0x8B, H8, &r, 4)
    move_sp(b, 4 + (<i32>(i.imm & 0xFFFF) if i.shape.imm else 0))
    enter_pointer(b)
    return 1


cdef void leave_without_handler(Builder* b, Insn* i) noexcept nogil:
    """Leave for the operation, which notes it, if the gate in r8 is 0: there is no firmware."""
    cdef u32 over
    mov_rr(b, H9, RCX)
    mov_rr(b, RCX, H8)
    e8(b, 0xE3); e8(b, 2)                                     # jrcxz over
    e8(b, 0xEB)
    over = b.n
    e8(b, 0)
    mov_rr(b, RCX, H9)
    emit_narrow_op(b, i, OP_INT)
    b.out[over] = <u8>(b.n - over - 1)
    mov_rr(b, RCX, H9)


cdef int interrupt(Builder* b, Insn* i) noexcept nogil:
    """INT n in real mode: IF and AC become 0.  It has no operand size."""
    cdef Ref r
    load_state(b, H8, VECTORS_AT)
    r = ref_mem(H8, <i32>(4 * (i.imm & 0xFF)))
    move(b, 0x8B, H8, &r, 4)
    store_state(b, H8, SCRATCH)
    leave_without_handler(b, i)
    load_flags(b)
    r = stack_operand(b, -6, 6, True)
    lea(b, H9, &r)
    r = ref_mem(H9, 4)
    move(b, 0x89, R11, &r, 2)
    store_return(b, i)
    move_sp(b, -6)
    store_state_imm(b, IFLAG, 0)
    load32(b, R11, RFLAGS)
    movzx16(b, H9, R11)
    rorx(b, R11, R11, 19)
    e8(b, 0x45); e8(b, 0x0F); e8(b, 0xB6); e8(b, 0xDB)        # movzx r11d, r11b: VIF, VIP, ID
    rorx(b, R11, R11, 45)
    sum32(b, R11, R11, H9, 0)
    store_state(b, R11, RFLAGS)
    load_state(b, H8, SCRATCH)
    enter_pointer(b)
    return 1


cdef int return_from_interrupt(Builder* b, Insn* i) noexcept nogil:
    cdef Ref r = stack_operand(b, 0, 6, False)
    lea(b, H9, &r)
    r = ref_mem(H9, 4)
    load_word(b, R11, &r)
    r = ref_mem(H9, 0)
    move(b, 0x8B, H8, &r, 4)
    store_state(b, H8, SCRATCH + 8)
    store_flags(b, i)
    move_sp(b, 6)
    load_state(b, H8, SCRATCH + 8)
    enter_pointer(b)
    return 1


cdef int push_flags(Builder* b, u32 size) noexcept nogil:
    """PUSHF at CPL 0; outside segments of 64 KiB the flags wait in the state."""
    cdef Ref r
    load_flags(b)
    if not b.key & KEY_DATA64K:
        store_state(b, R11, SCRATCH)
        restore_r11(b)
    r = stack_operand(b, -<i32>size, size, True)
    if not b.key & KEY_DATA64K:
        load_state(b, R11, SCRATCH)
    move(b, 0x89, R11, &r, size)
    move_sp(b, -<i32>size)
    restore_r11(b)
    return 1


cdef int pop_flags(Builder* b, Insn* i) noexcept nogil:
    cdef Ref r = stack_operand(b, 0, 2, False)
    load_word(b, R11, &r)
    store_flags(b, i)
    move_sp(b, 2)
    restore_r11(b)
    b.ops[b.n_ops - 1].resume = b.n
    return 1


cdef inline bint is_plain(Builder* b, Insn* i) noexcept nogil:
    return b.key & KEY_PARAGRAPHS and not b.key & KEY_STEP \
        and (i.shape.size == 2 or i.shape.op == OP_INT)


cdef int emit_far(Builder* b, Insn* i) noexcept nogil:
    cdef u32 op = i.shape.op
    if not is_plain(b, i) or b.key & (KEY_CS64K | KEY_CS_ODD) != KEY_CS64K:
        return 0
    if op == OP_CALL_FAR:
        return call_far(b, i)
    if op == OP_JMP_FAR:
        return jump_far(b, i)
    if op == OP_RET_FAR:
        return return_far(b, i)
    if b.key & KEY_CPL:
        return 0
    if b.n_ops >= MAX_OPS:
        return 0
    if op == OP_INT:
        return interrupt(b, i)
    return return_from_interrupt(b, i) if op == OP_IRET else 0


cdef int emit_flags(Builder* b, Insn* i) noexcept nogil:
    if b.key & (KEY_CPL | KEY_STEP):
        return 0
    if i.shape.op == OP_PUSHF:
        return push_flags(b, i.shape.size)
    if i.shape.op == OP_POPF and is_plain(b, i) and b.n_ops < MAX_OPS and not b.checked:
        return pop_flags(b, i)
    return 0
