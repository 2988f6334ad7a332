"""Branches, calls and returns of 16- and 32-bit code, and the exits for operations.

EIP is truncated to the operand size.  Where CS is not flat a target may be beyond its limit: no
fragment is there, and the dispatcher raises #GP.
"""
from ringlet.core.state cimport (
    RCX, KEY_CS64K, KEY_CS_ODD, KEY_DATA64K, KEY_SEGMENTED, KEY_STACK16, KEY_STEP, CpuState, u8,
    u32, u64, i32, i64)
from ringlet.core.template cimport STUB_INDIRECT
from ringlet.core.ops cimport OP_NM, OP_NONE, OP_UD
from ringlet.translate.builder cimport *
from ringlet.translate.device cimport leave_for_device
from ringlet.translate.flow cimport (
    add_link, emit_indirect, emit_jump, leave_for, name_op)
from ringlet.translate.insn cimport *
from ringlet.translate.narrow.counts cimport give_cx, take_cx
from ringlet.translate.narrow.operands cimport offset_operand, segment_of
from ringlet.translate.narrow.segments cimport (
    allows, move_sp, operand_of_next, restore_r11, stack_operand)
from ringlet.translate.shape cimport *

cdef CpuState* _null = NULL
cdef u32 EA = <u32><size_t>&_null.ea


cdef void emit_narrow_op(Builder* b, Insn* i, u32 op) noexcept nogil:
    cdef bint mem = i.shape.modrm and i.modrm < 0xC0
    if b.n_ops >= MAX_OPS:
        b.full = 1
        return
    mem = (mem or is_moffs(i)) and i.shape.kind == SHAPE_OP and op != OP_UD and op != OP_NM
    if mem:
        offset_operand(b, i)
    leave_for(b, i, op, mem)
    b.ops[b.n_ops - 1].seg = <u8>segment_of(i)


cdef void emit_narrow_device(Builder* b, Insn* i) noexcept nogil:
    if b.n_ops >= MAX_OPS:
        b.full = 1
        return
    offset_operand(b, i)
    leave_for_device(b, i)
    b.ops[b.n_ops - 1].seg = <u8>segment_of(i)
    b.ops[b.n_ops - 1].rm = 0xFF         # of a MOV without ModRM too


cdef inline u64 truncated(Builder* b, Insn* i, u64 eip) noexcept nogil:
    if i.shape.size != 2:
        return <u32>eip
    b.overflowed = 1      # the code depends on whether the fragment is in the first 64 KiB
    return eip & 0xFFFF


cdef void load_eip(Builder* b, u64 eip) noexcept nogil:
    """r8 := `eip`."""
    e8(b, 0x41); e8(b, 0xB8); e32(b, <u32>eip)                # mov r8d, imm32
    b.overflowed = 1      # the code depends on the fragment's address


cdef inline bint has_4_gib(Builder* b) noexcept nogil:
    """Whether no target is beyond the limit of CS."""
    cdef u32 limit = b.key & (KEY_CS64K | KEY_CS_ODD)
    return limit == 0 or limit == KEY_CS64K | KEY_CS_ODD


cdef inline u64 place(Builder* b) noexcept nogil:
    """Base of CS and EIP of the fragment: what tells it from others."""
    return (b.linear - b.rip) << 32 | <u32>b.rip


cdef void emit_narrow_thunk(Builder* b) noexcept nogil:
    b.thunk = b.n
    mov_rr(b, H9, RCX)
    if not b.key & (KEY_CS64K | KEY_CS_ODD):
        e8(b, 0x41); e8(b, 0x8D); e8(b, 0x88)                 # lea ecx, [r8 - eip]
        reloc(b, RELOC_NRIP32, 0)
        e32(b, <u32>(0 - b.rip))
    else:
        e8(b, 0x48); e8(b, 0xB9); e64(b, 0 - place(b))        # mov rcx, -place
        lea_sum(b, RCX, RCX, H8, 0)
    e8(b, 0xE3); e8(b, 8)                                     # jrcxz over
    mov_rr(b, RCX, H9)
    jmp_stub(b, STUB_INDIRECT)
    mov_rr(b, RCX, H9)


cdef void go_indirectly(Builder* b) noexcept nogil:
    """Go to the EIP in r8, by the jump table.

    Where CS has a base, that is in the upper half of r8, so that the thunk tells code of one base
    from that of another.
    """
    if b.key & (KEY_CS64K | KEY_CS_ODD):
        e8(b, 0x49); e8(b, 0xB9); e64(b, (b.linear - b.rip) << 32)    # mov r9, base << 32
        lea_sum(b, H8, H8, H9, 0)
    emit_indirect(b)


cdef void go_to(Builder* b, Insn* i, i64 delta) noexcept nogil:
    """Go to a relative target."""
    cdef u64 eip = truncated(b, i, b.rip + <u64>delta)
    if eip == b.rip + <u64>delta:
        emit_jump(b, delta)
        return
    load_eip(b, eip)
    go_indirectly(b)


cdef void push_return(Builder* b, Insn* i) noexcept nogil:
    """Push the EIP of the next instruction."""
    cdef i64 delta = <i64>i.offset + i.length
    cdef u32 size = i.shape.size
    cdef Ref top = stack_operand(b, -<i32>size, size, True)
    if size == 2:
        e8(b, 0x66)
    e8(b, 0x40 | rex_of(0, 0, &top)); e8(b, 0xC7)
    modrm_mem(b, 0, &top)
    if size == 2:
        e8(b, <u32>(b.rip + <u64>delta)); e8(b, <u32>(b.rip + <u64>delta) >> 8)
        b.overflowed = 1
    else:
        reloc(b, RELOC_RIP32, delta)
        e32(b, <u32>(b.rip + <u64>delta))
    move_sp(b, -<i32>size)


cdef void load_eip_from(Builder* b, u32 size, Ref* r) noexcept nogil:
    """r8 := 2 or 4 bytes in memory, zero-extended."""
    e8(b, 0x40 | rex_of(0, H8, r))
    if size == 2:
        e8(b, 0x0F); e8(b, 0xB7)
    else:
        e8(b, 0x8B)
    modrm_mem(b, H8, r)


cdef int emit_indirect_branch(Builder* b, Insn* i) noexcept nogil:
    cdef bint call = i.shape.kind == SHAPE_CALL_IND
    cdef u32 size = i.shape.size
    cdef Ref r
    if call and b.key & (KEY_SEGMENTED | KEY_STACK16) and not b.key & KEY_DATA64K:
        return NO_CODE    # the check of the stack would need the target's register
    if call and size == 4 and not has_4_gib(b):
        return NO_CODE    # the check of the limit comes before the push
    if i.modrm >= 0xC0:
        if size == 2:
            movzx16(b, H8, insn_rm(i))
        else:
            e8(b, 0x41); e8(b, 0x89)                          # mov r8d, reg
            e8(b, 0xC0 | insn_rm(i) << 3)
    else:
        if not allows(b, i, False):
            return NO_CODE
        r = operand_of_next(b, i, size, False)
        load_eip_from(b, size, &r)
    if call and b.key & KEY_DATA64K:
        mov_rr(b, 11, H8)
        push_return(b, i)
        mov_rr(b, H8, 11)
        restore_r11(b)
    elif call:
        push_return(b, i)
    name_branch(b, i, <i64>size if call else 0)
    go_indirectly(b)
    return 0


cdef void name_branch(Builder* b, Insn* i, i64 back) noexcept nogil:
    """Name the branch in op_info, if its target may be beyond the limit of CS.

    `back` is how far ESP must be moved before the #GP.
    """
    if has_4_gib(b) or i.shape.size == 2:
        return
    if b.n_ops >= MAX_OPS:
        b.full = 1
        return
    name_op(b, i, OP_NONE)
    b.ops[b.n_ops - 1].imm = <u64>back


cdef int emit_return(Builder* b, Insn* i) noexcept nogil:
    cdef Ref top
    cdef i32 drop = <i32>i.shape.size + (<i32>(i.imm & 0xFFFF) if i.shape.imm else 0)
    top = stack_operand(b, 0, i.shape.size, False)
    load_eip_from(b, i.shape.size, &top)
    move_sp(b, drop)
    name_branch(b, i, -<i64>drop)
    go_indirectly(b)
    return 0


cdef int emit_loop(Builder* b, Insn* i, i64 target, i64 after) noexcept nogil:
    """Emit LOOP, LOOPE, LOOPNE, JECXZ or JCXZ, without changing a flag."""
    cdef u32 skip, second = 0, op = i.opcode
    if op != 0xE3:
        if i.address == 2:
            e8(b, 0x66)
        e8(b, 0x8D); e8(b, 0x49); e8(b, 0xFF)                 # lea ecx or cx, [rcx - 1]
    take_cx(b, i)
    e8(b, 0xE3)                                               # jrcxz
    skip = b.n
    e8(b, 0)
    if op == 0xE3:
        give_cx(b, i)
        emit_jump(b, after)
        b.out[skip] = <u8>(b.n - skip - 1)
        give_cx(b, i)
        go_to(b, i, target)
        return 0
    give_cx(b, i)
    if op != 0xE2:
        e8(b, 0x75 if op == 0xE1 else 0x74)
        second = b.n
        e8(b, 0)
    go_to(b, i, target)
    b.out[skip] = <u8>(b.n - skip - 1)
    give_cx(b, i)
    if second:
        b.out[second] = <u8>(b.n - second - 1)
    emit_jump(b, after)
    return 0


cdef int emit_narrow_branch(Builder* b, Insn* i) noexcept nogil:
    cdef u32 kind = i.shape.kind, over
    cdef i64 after = <i64>i.offset + i.length
    cdef i64 target = after + i.imm
    if not has_4_gib(b):
        if b.key & KEY_CS_ODD:
            return NO_CODE
        if (kind <= SHAPE_CALL or kind == SHAPE_LOOP) \
                and truncated(b, i, b.rip + <u64>target) > 0xFFFF:
            # The target of a longer operand is beyond the limit of CS.
            return NO_CODE
    if kind == SHAPE_JMP:
        go_to(b, i, target)
        return 0
    if kind == SHAPE_JCC:
        if truncated(b, i, b.rip + <u64>target) == b.rip + <u64>target:
            e8(b, 0x0F); e8(b, 0x80 | (i.opcode & 15))
            add_link(b, target, 1)
            return 1
        e8(b, 0x0F); e8(b, 0x80 | (i.opcode & 15) ^ 1)
        over = b.n
        e32(b, 0)
        go_to(b, i, target)
        patch_rel32(b, over, b.n)
        return 1
    if kind == SHAPE_LOOP:
        return NO_CODE if loops_by_prefix(i) else emit_loop(b, i, target, after)
    if kind == SHAPE_CALL:
        push_return(b, i)
        go_to(b, i, target)
        return 0
    if kind == SHAPE_RET:
        return emit_return(b, i)
    return emit_indirect_branch(b, i)
