"""Innocuous instructions of 16- and 32-bit code.

They are copied with the host's operand size prefix and with another memory operand.  Registers are
the same, because all eight are in their own host registers.
"""
from ringlet.core.state cimport (
    RAX, RBP, RBX, RSP, SEG_CS, SEG_DS, SEG_NONE, SEG_SS, KEY_CPL, KEY_DATA64K, KEY_PARAGRAPHS,
    KEY_SEGMENTED, KEY_STACK16, KEY_STEP, CpuState, u8, u32, i32)
from ringlet.translate.builder cimport *
from ringlet.translate.encode cimport encode
from ringlet.translate.insn cimport *
from ringlet.translate.narrow.operands cimport far_field
from ringlet.translate.narrow.segments cimport (
    allows, in_segment, is_checked, move, move_sp, operand, operand_of_next, restore_r11,
    stack_operand, sum_in_64k)
from ringlet.translate.narrow.strings cimport emit_direction, emit_string
from ringlet.translate.plain cimport emit_high_byte_at, writes_both
from ringlet.translate.shape cimport *

cdef CpuState* _null = NULL
cdef u32 SCRATCH = <u32><size_t>&_null.scratch[0]


cdef Insn for_host(Insn* i) noexcept nogil:
    """Return the instruction as 64-bit code has it: 66h selects 16-bit operands there."""
    cdef Insn h = i[0]
    if i.shape.width == 2:
        h.prefixes |= PFX_66
    elif i.shape.width:
        h.prefixes &= ~<u8>PFX_66
    if i.enc == ENC_VEX and ignores_w(i):
        h.rex &= ~<u8>8
    return h


cdef inline bint ignores_w(Insn* i) noexcept nogil:
    """Whether VEX.W would select 64 bits of a general register, or of memory in its place."""
    cdef u8 op = i.opcode
    return (i.shape.reg | i.shape.rm | i.shape.vvvv) != 0 \
        or (i.map == 1 and op in (0x2A, 0x6E, 0x7E)) or (i.map == 3 and op in (0x16, 0x22))


cdef inline bint is_high_byte(u32 role, u32 reg) noexcept nogil:
    """AH, CH, DH or BH, which an instruction with REX cannot name."""
    return (role & 7) == ROLE_8 and reg >= 4


cdef void emit_high_byte(Builder* b, Insn* h, Ref* mem) noexcept nogil:
    """Emit an operation on AH-DH and memory, for which one scratch register must be free."""
    if mem.base == H8 and mem.index == H9:
        lea(b, H9, mem)
        mem[0] = ref_mem(H9, 0)
    emit_high_byte_at(b, h, mem)


cdef bint accessible(Builder* b, Insn* i) noexcept nogil:
    """Whether translated code can access the ModRM or moffs operand.

    CS, whose rights are not part of the key, is checked like a segment that is not flat.
    """
    cdef u32 size = i.shape.mem_size
    if i.shape.kind == SHAPE_BITS and (is_checked(b, i.seg) or i.address == 2):
        return False      # the processor adds the bit's offset itself
    return allows(b, i, stores(i)) and (size != 0 or not is_checked(b, i.seg))


cdef inline bint stores(Insn* i) noexcept nogil:
    return (i.shape.mem & MEM_WRITE) != 0


cdef int emit_push(Builder* b, Insn* i) noexcept nogil:
    """Emit PUSH of a register or an immediate: the store comes before ESP moves."""
    cdef u32 size = i.shape.width
    cdef Ref top = stack_operand(b, -<i32>size, size, True)
    if i.shape.opreg:
        move(b, 0x89, insn_opreg(i), &top, size)
    else:
        if size == 2:
            e8(b, 0x66)
        e8(b, 0x40 | rex_of(0, 0, &top)); e8(b, 0xC7)
        modrm_mem(b, 0, &top)
        if size == 2:
            e8(b, <u32>i.imm); e8(b, <u32>(i.imm >> 8))
        else:
            if i.shape.imm == 4 and is_far(i.imm):
                free_field(b, i, FREE_IMM)
            e32(b, <u32>i.imm)
    move_sp(b, -<i32>size)
    return 1


cdef int emit_pop(Builder* b, Insn* i) noexcept nogil:
    """Emit POP of a register; POP ESP leaves the popped value there."""
    cdef u32 size = i.shape.width, reg = insn_opreg(i)
    cdef Ref top
    if reg == RSP and (size == 2 or b.key & KEY_STACK16):
        return 0
    top = stack_operand(b, 0, size, False)
    move(b, 0x8B, reg, &top, size)
    if reg != RSP:
        move_sp(b, <i32>size)
    return 1


cdef int emit_push_mem(Builder* b, Insn* i) noexcept nogil:
    """Emit PUSH of memory; where the stack is not flat, the value waits in the state."""
    cdef u32 size = i.shape.width
    cdef Ref r
    if not accessible(b, i):
        return 0
    r = operand_of_next(b, i, size, False)
    move(b, 0x8B, H8, &r, size)
    if b.key & (KEY_SEGMENTED | KEY_STACK16):
        store_state(b, H8, SCRATCH)
        r = stack_operand(b, -<i32>size, size, True)
        load_state(b, 11, SCRATCH)
        move(b, 0x89, 11, &r, size)
        restore_r11(b)
    else:
        r = stack_operand(b, -<i32>size, size, True)
        move(b, 0x89, H8, &r, size)
    move_sp(b, -<i32>size)
    return 1


cdef int emit_pop_mem(Builder* b, Insn* i) noexcept nogil:
    """Emit POP to memory, whose address is computed with ESP after the pop."""
    cdef u32 size = i.shape.width
    cdef Ref mem, top
    if b.key & (KEY_SEGMENTED | KEY_STACK16) or i.seg != SEG_NONE:
        return 0
    mem = operand(b, i, size, True, <i32>size)
    top = stack_operand(b, 0, size, False)
    move(b, 0x8B, H8, &top, size)
    move(b, 0x89, H8, &mem, size)
    move_sp(b, <i32>size)
    return 1


cdef int emit_stack(Builder* b, Insn* i) noexcept nogil:
    if i.shape.width < 2:
        return 0
    if i.shape.stack == STACK_PUSH:
        return emit_push(b, i) if i.shape.opreg or not i.shape.modrm else 0
    return emit_pop(b, i) if i.shape.opreg else 0


cdef int emit_leave(Builder* b, Insn* i) noexcept nogil:
    """Emit ESP := EBP, POP EBP; the access comes before any change."""
    cdef u32 size = i.shape.width
    cdef Ref r
    if b.key & KEY_STACK16 and b.key & KEY_DATA64K:
        r = sum_in_64k(b, SEG_SS, RBP, NO_REG, 0, size)
    elif b.key & (KEY_SEGMENTED | KEY_STACK16):
        if b.key & KEY_STACK16:
            movzx16(b, H9, RBP)
        else:
            e8(b, 0x41); e8(b, 0x89); e8(b, 0xE9)             # mov r9d, ebp
        r = in_segment(b, SEG_SS, size, False)
    else:
        r = ref_sum(WINDOW, RBP, 0)
    move(b, 0x8B, H8, &r, size)
    r = ref_mem(RBP, <i32>size)
    if b.key & KEY_STACK16:
        e8(b, 0x66)
    e8(b, 0x8D)                                               # lea esp or sp, [rbp + size]
    modrm_mem(b, RSP, &r)
    if size == 2:
        e8(b, 0x66)
    e8(b, 0x44); e8(b, 0x89); e8(b, 0xC5)                     # mov ebp or bp, r8
    return 1


cdef int emit_address(Builder* b, Insn* i) noexcept nogil:
    """Emit LEA: a sum at the address size, then a move at the operand size."""
    cdef Ref r
    cdef Insn h = for_host(i)
    cdef u8 base = insn_base(i), index = insn_index(i)
    if i.address == 4:
        r = ref_sum(base, index, i.disp)
        r.own = far_field(i)
        if index != NO_REG:
            r.scale = i.sib >> 6
        encode(b, &h, 0x8D, insn_reg(i), &r, 0, 0)
        return 1
    if base == NO_REG and index == NO_REG:
        e8(b, 0x41); e8(b, 0xB9); e32(b, <u32>i.disp & 0xFFFF)     # mov r9d, imm32
    else:
        r = ref_sum(base, index, i.disp)
        lea(b, H9, &r)
        movzx16(b, H9, H9)
    encode(b, &h, 0x8B, insn_reg(i), NULL, H9, 0)
    return 1


cdef int emit_xlat(Builder* b, Insn* i) noexcept nogil:
    """Emit XLATB; after LODSB it need not wait for AL, which waits for what EAX was before."""
    cdef Ref r = ref_sum(RBX, H9, 0)
    if not allows(b, i, False) or (i.seg != SEG_NONE and not b.key & KEY_SEGMENTED):
        return 0
    if not b.al_in_r9 or b.al_in_r9 != i.offset:
        e8(b, 0x44); e8(b, 0x0F); e8(b, 0xB6); e8(b, 0xC8)    # movzx r9d, al
    e8(b, 0x40 | rex_of(0, H9, &r)); e8(b, 0x8D)              # lea r9d, [rbx + r9]
    modrm_mem(b, H9, &r)
    if i.address == 2:
        movzx16(b, H9, H9)
    if b.key & KEY_SEGMENTED:
        r = in_segment(b, SEG_DS if i.seg == SEG_NONE else i.seg, 1, False)
    else:
        r = ref_sum(WINDOW, H9, 0)
    e8(b, 0x40 | rex_of(0, RAX, &r)); e8(b, 0x8A)
    modrm_mem(b, RAX, &r)
    return 1


cdef int emit_step(Builder* b, Insn* i) noexcept nogil:
    """Emit INC or DEC of a register, whose bytes 64-bit code takes for REX."""
    if i.shape.width == 2:
        e8(b, 0x66)
    e8(b, 0xFF)
    e8(b, 0xC0 | (i.opcode & 15))
    return 1


cdef int emit_exchange(Builder* b, Insn* i) noexcept nogil:
    """Emit real mode's XCHG with memory as a load and a store: no other processor runs.

    The host's own is a locked access, which takes some 20 cycles.  With paging the load would
    raise its #PF as a read.
    """
    cdef u32 size = i.shape.mem_size, reg = insn_reg(i)
    cdef Ref r
    if i.prefixes & PFX_LOCK or (size == 1 and reg >= 4):
        return 0
    r = operand(b, i, size, True, 0)
    move(b, 0x8A | (size > 1), 11, &r, size)
    move(b, 0x88 | (size > 1), reg, &r, size)
    if size == 2:
        e8(b, 0x66)
    e8(b, 0x44); e8(b, 0x88 | (size > 1)); e8(b, 0xD8 | reg)  # mov reg, r11
    restore_r11(b)
    return 1


cdef int emit_moffs(Builder* b, Insn* i) noexcept nogil:
    """Emit MOV between rAX and an absolute address in the ModRM form."""
    cdef Ref r
    cdef u32 size = i.shape.width if i.opcode & 1 else 1
    if not allows(b, i, i.opcode >= 0xA2):
        return 0
    r = operand_of_next(b, i, size, i.opcode >= 0xA2)
    if size == 2:
        e8(b, 0x66)
    e8(b, 0x40 | rex_of(0, RAX, &r))
    e8(b, (0x8A if i.opcode < 0xA2 else 0x88) | (i.opcode & 1))
    modrm_mem(b, RAX, &r)
    return 1


cdef int emit_all_registers(Builder* b, Insn* i) noexcept nogil:
    """Emit PUSHA, which stores from the top, or POPA, which reads all before a register changes.

    A single step is the emulator's, which tells watchpoints of each element.  So is a 16-bit stack
    of another size than 64 KiB, in which each element may wrap around.
    """
    cdef bint push = i.opcode == 0x60, checked = b.key & (KEY_SEGMENTED | KEY_STACK16) != 0
    cdef u32 size = i.shape.width, k
    cdef i32 disp = -8 * <i32>size if push else 0
    cdef Ref r
    if size < 2 or b.key & KEY_STEP or b.key & (KEY_STACK16 | KEY_DATA64K) == KEY_STACK16:
        return 0
    r = stack_operand(b, disp, 8 * size, push)
    if checked:
        lea(b, H9, &r)
        r = ref_mem(H9, 0)
        disp = 0
    if not push:
        # It is in two pages at most.
        for k in range(0, 8, 7):
            r.disp = disp + <i32>(k * size)
            move(b, 0x8B, H8, &r, size)
    for k in range(8):
        # EAX, the first register, is at the top.
        if push or k != RSP:
            r.disp = disp + <i32>((7 - k) * size)
            move(b, 0x89 if push else 0x8B, k, &r, size)
    move_sp(b, -8 * <i32>size if push else 8 * <i32>size)
    return 1


cdef int emit_reencoded(Builder* b, Insn* i) noexcept nogil:
    cdef u8 op = i.opcode
    cdef Ref r
    if i.enc != ENC_LEGACY or i.map:
        return 0
    if is_moffs(i):
        return emit_moffs(b, i)
    if (op & 0xF0) == 0x40:
        return emit_step(b, i)
    if (op & 0xFE) == 0x60:
        return emit_all_registers(b, i)
    if op != 0x82:
        return 0
    # 82h is another name of 80h.
    if i.modrm >= 0xC0:
        encode(b, i, 0x80, insn_reg(i), NULL, insn_rm(i), 0)
        return 1
    if not allows(b, i, (i.modrm >> 3 & 7) != 7):
        return 0
    r = operand_of_next(b, i, 1, (i.modrm >> 3 & 7) != 7)
    encode(b, i, 0x80, insn_reg(i), &r, 0, 0)
    return 1


cdef int emit_vzero(Builder* b, Insn* i) noexcept nogil:
    """Emit VZEROUPPER or VZEROALL, which change eight registers here and sixteen in 64-bit code."""
    cdef u32 n
    for n in range(8):
        e8(b, 0xC5)
        if i.vex & 4:
            e8(b, 0x81 | (~n & 15) << 3); e8(b, 0xEF)         # vpxor xmm, xmm, xmm
        else:
            e8(b, 0xF8); e8(b, 0x28)                          # vmovaps xmm, xmm
        e8(b, 0xC0 | n << 3 | n)
    return 1


cdef int emit_narrow_plain(Builder* b, Insn* i) noexcept nogil:
    cdef Shape* s = i.shape
    cdef u32 kind = s.kind
    cdef bint mem = s.modrm and i.modrm < 0xC0, high
    cdef Insn h
    cdef Ref r
    if kind == SHAPE_ADDRESS:
        return emit_address(b, i)
    if kind == SHAPE_STRING:
        return emit_string(b, i)
    if kind == SHAPE_LEAVE:
        return emit_leave(b, i)
    if kind == SHAPE_XLAT:
        return emit_xlat(b, i)
    if kind == SHAPE_PUSH_MEM:
        return emit_push_mem(b, i)
    if kind == SHAPE_POP_MEM:
        return emit_pop_mem(b, i)
    if kind != SHAPE_PLAIN and kind != SHAPE_BITS:
        return 0
    if s.stack:
        return emit_stack(b, i)
    if i.enc == ENC_VEX and i.map == 1 and i.opcode == 0x77:
        return emit_vzero(b, i)
    if i.enc == ENC_LEGACY and i.map == 0 and (i.opcode & 0xFE) == 0xFC:
        emit_direction(b, i.opcode)
        return 1
    if mem and s.mem == MEM_HINT:
        return 1
    if mem and not accessible(b, i):
        return 0
    if mem and b.key & KEY_PARAGRAPHS and not b.key & KEY_CPL and i.enc == ENC_LEGACY \
            and i.map == 0 and (i.opcode & 0xFE) == 0x86 and emit_exchange(b, i):
        return 1
    h = for_host(i)
    if mem:
        high = is_high_byte(s.reg, insn_reg(i))
        if high and writes_both(i):
            return 0
        if high or kind == SHAPE_BITS:
            r = operand(b, i, s.mem_size, stores(i), 0)
        else:
            r = operand_of_next(b, i, s.mem_size, stores(i))
        if high:
            emit_high_byte(b, &h, &r)
        else:
            encode(b, &h, i.opcode, insn_reg(i), &r, 0, i.vvvv)
    elif s.modrm:
        encode(b, &h, i.opcode, insn_reg(i), NULL, insn_rm(i), i.vvvv)
    elif s.opreg:
        encode(b, &h, i.opcode, 0, NULL, 0, 0)
    else:
        encode(b, &h, i.opcode, 0, NULL, 0, i.vvvv)
    i.free |= h.free
    return 1
