"""Segment registers in 16- and 32-bit code.

Their selectors are in the state.  In real and virtual-8086 mode, a load sets the selector and the
base, which is 16 times that; the limit stays, or has been 64 KiB before (SDM 3A 20.1.1).  At CPL 0
of protected mode a load, but for MOV from memory, changes nothing if DS or ES holds this segment
already; FS and GS get it from the state block if it is one of the last two that each has held.
Loads of SS, which inhibit interrupts, leave.
"""
from ringlet.core.ops cimport OP_LOAD_FAR, OP_MOV_FROM_SEG, OP_MOV_TO_SEG, OP_POP_SEG, OP_PUSH_SEG
from ringlet.core.state cimport (
    RCX, SEG_CS, SEG_DS, SEG_ES, SEG_FS, SEG_GS, SEG_SS, KEY_CPL, KEY_DATA64K, KEY_LIMITED,
    KEY_PARAGRAPHS, KEY_SEGMENTED, KEY_STACK16, KEY_STEP, CpuState, Held, Remembered, Segment, u8,
    u32, i32)
from ringlet.translate.builder cimport *
from ringlet.translate.insn cimport *
from ringlet.translate.narrow.branch cimport emit_narrow_op
from ringlet.translate.narrow.segments cimport (
    allows, move, move_sp, operand, restore_r11, stack_operand)

cdef CpuState* _null = NULL
cdef Held* _held = NULL
cdef Remembered* _remembered = NULL
cdef u32 SELECTORS = <u32><size_t>&_null.arch.seg[0].selector
cdef u32 BASES = <u32><size_t>&_null.arch.seg[0].base
cdef u32 SCRATCH = <u32><size_t>&_null.scratch[0]
cdef u32 HELD_NOW = <u32><size_t>&_null.held[0]
cdef u32 HELD_AT = <u32><size_t>&_held.at
cdef u32 HELD_LOW = <u32><size_t>&_held.low
cdef u32 HELD_HIGH = <u32><size_t>&_held.high
cdef u32 REMEMBERED = <u32><size_t>&_null.remembered[0]
cdef u32 REMEMBERED_HOST = <u32><size_t>&_remembered.host
cdef u32 REMEMBERED_HELD = <u32><size_t>&_remembered.held
cdef u32 SEGMENTS = <u32><size_t>&_null.arch.seg[0]
cdef u32 SEGMENT_HOST = <u32><size_t>&_null.segment_host[0]
cdef u32 PARAGRAPH_AT = <u32><size_t>&_null.paragraph_at[0]


cdef void load_selector(Builder* b, u32 reg, u32 seg) noexcept nogil:
    """`movzx reg32, word [selector]`."""
    if reg >= 8:
        e8(b, 0x44)
    e8(b, 0x0F)
    state_op(b, 0, 0xB7, reg & 7, SELECTORS + seg * <u32>sizeof(Segment))


cdef u32 named_segment(Insn* i) noexcept nogil:
    """Return the segment register that the opcode of PUSH, POP, LDS, LES, LSS, LFS or LGS names."""
    if i.map:
        if i.opcode == 0xB2:
            return SEG_SS
        if i.opcode >= 0xB4:
            return i.opcode & 7
        return SEG_FS if i.opcode < 0xA8 else SEG_GS
    if i.opcode >= 0xC4:
        return SEG_ES if i.opcode == 0xC4 else SEG_DS
    return i.opcode >> 3 & 3


cdef int push_selector(Builder* b, Insn* i) noexcept nogil:
    cdef u32 size = i.shape.size, reg = H8
    cdef Ref top = stack_operand(b, -<i32>size, size, True)
    if b.key & (KEY_SEGMENTED | KEY_STACK16):
        reg = 11
    load_selector(b, reg, named_segment(i))
    move(b, 0x89, reg, &top, size)
    if reg == 11:
        restore_r11(b)
    move_sp(b, -<i32>size)
    return 1


cdef void load_paragraph(Builder* b, u32 seg) noexcept nogil:
    """Load the selector in r8, which becomes the base; r9 is lost."""
    cdef u32 more = seg * <u32>sizeof(Segment)
    e8(b, 0x66)
    state_op(b, 0, 0x89, H8, SELECTORS + more)                # mov [selector], r8w
    # rorx r8d, r8d, 28: 16 bits, times 16
    e8(b, 0xC4); e8(b, 0x43); e8(b, 0x7B); e8(b, 0xF0); e8(b, 0xC0); e8(b, 28)
    store_state(b, H8, BASES + more)
    lea_sum(b, H9, H8, WINDOW, 0)
    store_state(b, H9, PARAGRAPH_AT + 8 * seg)


cdef int pop_paragraph(Builder* b, Insn* i, u32 seg) noexcept nogil:
    cdef u32 size = i.shape.size
    cdef Ref top = stack_operand(b, 0, size, False)
    load_word(b, H8, &top)
    move_sp(b, <i32>size)
    load_paragraph(b, seg)
    return 1


cdef int load_far(Builder* b, Insn* i, u32 seg) noexcept nogil:
    """Emit LDS, LES, LFS or LGS of 16 bits: both words are read before anything changes."""
    cdef Ref r, offset
    if i.shape.size != 2 or i.modrm >= 0xC0 or not allows(b, i, False):
        return 0
    r = operand(b, i, 4, False, 0)
    if b.key & KEY_DATA64K:
        # A list of such pointers waits for the base of each: no sum comes before the load.
        offset = r
        r.disp += 2
        load_word(b, 11, &r)
        load_word(b, H9, &offset)
        e8(b, 0x45); e8(b, 0x89); e8(b, 0xD8)                 # mov r8d, r11d
        restore_r11(b)
    else:
        lea(b, H9, &r)
        r = ref_mem(H9, 2)
        load_word(b, H8, &r)
        offset = ref_mem(H9, 0)
        load_word(b, H9, &offset)
    e8(b, 0x66); e8(b, 0x44); e8(b, 0x89); e8(b, 0xC8 | insn_reg(i))     # mov reg16, r9w
    load_paragraph(b, seg)
    return 1


cdef int emit_load(Builder* b, Insn* i, u32 op) noexcept nogil:
    cdef u32 seg = i.modrm >> 3 & 7 if op == OP_MOV_TO_SEG else named_segment(i)
    if op == OP_MOV_TO_SEG or op == OP_POP_SEG:
        if reload(b, i, seg):
            return 1
    if not b.key & KEY_PARAGRAPHS or seg > SEG_GS or seg == SEG_CS or seg == SEG_SS:
        return 0
    if op == OP_POP_SEG:
        return pop_paragraph(b, i, seg)
    if op == OP_LOAD_FAR:
        return load_far(b, i, seg)
    if i.modrm < 0xC0:
        return 0
    movzx16(b, H8, insn_rm(i))
    load_paragraph(b, seg)
    return 1


cdef u32 jump(Builder* b) noexcept nogil:
    """Emit a jump ahead, and return where its distance stands."""
    e8(b, 0xE9)
    e32(b, 0)
    return b.n - 4


cdef u32 jump_unless_zero(Builder* b) noexcept nogil:
    """Jump if rcx is not 0."""
    e8(b, 0xE3); e8(b, 5)                                     # jrcxz
    return jump(b)


cdef inline void add_held(Builder* b, u32 dst, u8 reg, u32 field) noexcept nogil:
    """`dst` := `reg` plus a field, both of 32 bits; rcx is lost."""
    state_op(b, 0, 0x8B, RCX, field)
    sum32(b, dst, RCX, reg, 0)


cdef u32 compare_descriptor(Builder* b, u32 held) noexcept nogil:
    """Jump if memory has another descriptor than a Held; rcx becomes 0 or is lost."""
    cdef Ref r
    load_state(b, RCX, SCRATCH)
    state_op(b, 0, 0x8B, H9, held + HELD_AT)                 # mov r9d, [at]
    r = ref_sum(WINDOW, H9, 0)
    move(b, 0x8B, H8, &r, 4)
    r.disp = 4
    move(b, 0x8B, H9, &r, 4)
    add_held(b, H8, H8, held + HELD_LOW)
    add_held(b, H9, H9, held + HELD_HIGH)
    lea_sum(b, RCX, H8, H9, 0)
    return jump_unless_zero(b)


cdef u32 recall(Builder* b, u32 seg, u32 remembered) noexcept nogil:
    """Load FS or GS with what it held before, if memory still has its descriptor; jump if not.

    A null selector has none.
    """
    cdef u32 null, other, piece
    state_op(b, 0, 0x8B, RCX, remembered + REMEMBERED_HELD + HELD_AT)
    e8(b, 0xE3)                                               # jrcxz null
    null = b.n
    e8(b, 0)
    other = compare_descriptor(b, remembered + REMEMBERED_HELD)
    b.out[null] = <u8>(b.n - null - 1)
    for piece in range(0, <u32>sizeof(Segment), 8):
        load_state(b, H8, remembered + piece)
        store_state(b, H8, SEGMENTS + seg * <u32>sizeof(Segment) + piece)
    load_state(b, H8, remembered + REMEMBERED_HOST)
    store_state(b, H8, SEGMENT_HOST + 8 * seg)
    return other


cdef int reload(Builder* b, Insn* i, u32 seg) noexcept nogil:
    """Emit MOV or POP of a segment that the state block describes.

    DS and ES hold it already, and nothing changes; for FS and GS it is one of their last two.  So
    it is at the entry to a 32-bit kernel, and at its exit.  Where the selector or the descriptor is
    another, the operation is performed.
    """
    cdef u32 size = i.shape.size, field = HELD_NOW + seg * <u32>sizeof(Held)
    cdef u32 k, unknown = 0
    cdef u32 other[2]
    cdef u32 done[2]
    cdef bint pops = i.shape.op == OP_POP_SEG
    cdef u32 known = 2 if seg >= SEG_FS else 1
    cdef Ref r
    if b.key & (KEY_CPL | KEY_PARAGRAPHS) or b.checked or b.n_ops >= MAX_OPS \
            or seg == SEG_CS or seg == SEG_SS or seg > SEG_GS or not (pops or i.modrm >= 0xC0) \
            or (known == 2 and b.key & (KEY_SEGMENTED | KEY_LIMITED)):
        return 0
    if pops:
        r = stack_operand(b, 0, size, False)
        load_word(b, H8, &r)
    else:
        movzx16(b, H8, insn_rm(i))
    store_state(b, RCX, SCRATCH)
    for k in range(known):
        if known == 2:
            field = REMEMBERED + (2 * (seg - SEG_FS) + k) * <u32>sizeof(Remembered)
            if k:
                patch_rel32(b, unknown, b.n)
            add_held(b, RCX, H8, field + REMEMBERED_HELD)
        else:
            add_held(b, RCX, H8, field)
        # Only the descriptor of this selector may be read.
        unknown = jump_unless_zero(b)
        other[k] = recall(b, seg, field) if known == 2 else compare_descriptor(b, field)
        done[k] = jump(b)
    patch_rel32(b, unknown, b.n)
    for k in range(known):
        patch_rel32(b, other[k], b.n)
    load_state(b, RCX, SCRATCH)
    emit_narrow_op(b, i, i.shape.op)
    for k in range(known):
        patch_rel32(b, done[k], b.n)
    load_state(b, RCX, SCRATCH)
    if pops:
        move_sp(b, <i32>size)
    b.ops[b.n_ops - 1].resume = b.n
    return 1


cdef int emit_selector(Builder* b, Insn* i) noexcept nogil:
    cdef u32 seg = i.modrm >> 3 & 7, reg = insn_rm(i), op = i.shape.op
    if b.key & KEY_STEP:
        return 0
    if op == OP_PUSH_SEG:
        return push_selector(b, i)
    if op == OP_MOV_TO_SEG or op == OP_POP_SEG or op == OP_LOAD_FAR:
        return emit_load(b, i, op)
    if op != OP_MOV_FROM_SEG or i.modrm < 0xC0 or seg > SEG_GS:
        return 0
    if i.shape.size == 4:
        load_selector(b, reg, seg)
    else:
        load_selector(b, H8, seg)
        e8(b, 0x66); e8(b, 0x44); e8(b, 0x89); e8(b, 0xC0 | reg)      # mov reg16, r8w
    return 1
