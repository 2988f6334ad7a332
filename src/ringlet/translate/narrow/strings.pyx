"""String instructions of 16- and 32-bit code.

A single element is accessed by MOV or CMP, and RSI and RDI move by `string_step`, which is DF as a
number.  CMPS, whose two operands processors read in different orders, and all repetitions are the
host's own, on host addresses: what takes these back to the guest's values is in `scratch`, with
which the fault handler reverts them.  The processor repeats in flat segments, and in segments of
64 KiB as far as the segment goes; `string_rest` is what the count has beyond that.  In other
segments each element is checked.
"""
from ringlet.core.state cimport (
    RAX, RCX, RDI, RSI, SEG_DS, SEG_ES, SEG_NONE, KEY_DATA64K, KEY_SEGMENTED, KEY_STEP, CpuState,
    u8, u32, i64)
from ringlet.translate.builder cimport *
from ringlet.translate.flow cimport emit_jump
from ringlet.translate.insn cimport *
from ringlet.translate.narrow.counts cimport give_cx, take_cx
from ringlet.translate.narrow.segments cimport in_segment, move, restore_r11, sum_in_64k
from ringlet.translate.shape cimport *

cdef CpuState* _null = NULL
cdef u32 SCRATCH = <u32><size_t>&_null.scratch[0]
cdef u32 STRING_OLD = <u32><size_t>&_null.string_old[0]
cdef u32 STRING_STEP = <u32><size_t>&_null.string_step
cdef u32 STRING_REST = <u32><size_t>&_null.string_rest

cdef enum:
    SEGMENT_SIZE = 0x10000
    CLD = 0xFC


cdef inline bint has_source(Insn* i) noexcept nogil:
    return (i.opcode & 0xFE) != 0xAA and (i.opcode & 0xFE) != 0xAE


cdef inline bint has_target(Insn* i) noexcept nogil:
    return (i.opcode & 0xFE) != 0xAC


cdef inline bint stores_target(Insn* i) noexcept nogil:
    return (i.opcode & 0xFE) == 0xA4 or (i.opcode & 0xFE) == 0xAA


cdef inline bint compares(Insn* i) noexcept nogil:
    return has_target(i) and not stores_target(i)


cdef inline u32 source_segment(Insn* i) noexcept nogil:
    return SEG_DS if i.seg == SEG_NONE else i.seg


cdef inline void negate_r9(Builder* b) noexcept nogil:
    """`not r9`, which changes no flag; the caller adds 1."""
    e8(b, 0x49); e8(b, 0xF7); e8(b, 0xD1)


cdef void to_flat(Builder* b, u32 reg, u32 slot) noexcept nogil:
    """`reg` := its host address in a flat segment; r9 is minus the window's base."""
    store_state(b, H9, SCRATCH + 8 * slot)
    lea_sum(b, reg, <u8>reg, WINDOW, 0)


cdef void to_segment(Builder* b, Insn* i, u32 reg, u32 slot, u32 seg, bint write) noexcept nogil:
    """`reg` := the host address of the element at it in a segment."""
    cdef Ref r
    restore_r11(b)
    if i.address == 2:
        movzx16(b, H9, reg)
    else:
        e8(b, 0x41); e8(b, 0x89); e8(b, 0xC1 | reg << 3)      # mov r9d, reg
    r = in_segment(b, seg, i.shape.mem_size, write)
    store_state(b, reg, STRING_OLD + 8 * slot)
    mov_rr(b, 11, reg)
    lea(b, reg, &r)
    mov_rr(b, H9, reg)
    negate_r9(b)
    lea_sum(b, H9, H9, 11, 1)
    store_state(b, H9, SCRATCH + 8 * slot)


cdef void to_guest(Builder* b, Insn* i, u32 reg, u32 slot) noexcept nogil:
    load_state(b, H9, SCRATCH + 8 * slot)
    if i.address == 4:
        sum32(b, reg, <u8>reg, H9, 0)
        return
    sum32(b, H9, <u8>reg, H9, 0)
    load_state(b, reg, STRING_OLD + 8 * slot)
    e8(b, 0x66); e8(b, 0x44); e8(b, 0x89); e8(b, 0xC8 | reg)  # mov reg16, r9w


cdef Ref element_at(Builder* b, Insn* i, u32 reg, u32 seg, bint flat, bint write) noexcept nogil:
    """The host operand of the element at ESI or EDI."""
    if flat:
        return ref_sum(WINDOW, <u8>reg, 0)
    if b.key & KEY_DATA64K:
        return sum_in_64k(b, seg, <u8>reg, NO_REG, 0, i.shape.mem_size)
    if i.address == 2:
        movzx16(b, H9, reg)
    else:
        e8(b, 0x41); e8(b, 0x89); e8(b, 0xC1 | reg << 3)      # mov r9d, reg
    return in_segment(b, seg, i.shape.mem_size, write)


cdef inline void access(Builder* b, u32 opcode, u32 reg, Ref* r, u32 size) noexcept nogil:
    """An instruction of `size` bytes whose opcode is odd for more than one."""
    move(b, opcode | (size > 1), reg, r, size)


cdef void load_element(Builder* b, u32 reg, Ref* r, u32 size) noexcept nogil:
    """`reg32` := the element, zero-extended."""
    e8(b, 0x40 | rex_of(0, reg, r))
    if size == 4:
        e8(b, 0x8B)
    else:
        e8(b, 0x0F); e8(b, 0xB6 | (size == 2))
    modrm_mem(b, reg, r)


cdef void advance(Builder* b, Insn* i, u32 reg) noexcept nogil:
    """Move ESI or EDI by one element; r8 is the direction."""
    cdef Ref r = ref_sum(<u8>reg, H8, 0)
    r.scale = i.shape.mem_size >> 1
    if i.address == 2:
        e8(b, 0x66)
    lea32(b, reg, &r)


cdef void emit_element(Builder* b, Insn* i, bint flat) noexcept nogil:
    """Emit one element: every access comes before a register changes."""
    cdef u32 size = i.shape.mem_size, held = RAX
    cdef bint fits = flat or b.key & KEY_DATA64K
    cdef Ref r
    if compares(i) and has_source(i):
        emit_own(b, i, flat, False)
        return
    if has_source(i):
        r = element_at(b, i, RSI, source_segment(i), flat, False)
        if not has_target(i) and size == 1:
            load_element(b, H9, &r, 1)
            e8(b, 0x44); e8(b, 0x88); e8(b, 0xC8)            # mov al, r9b
            if not i.prefixes & (PFX_REP | PFX_REPNE):
                b.al_in_r9 = i.offset + i.length
        elif not has_target(i):
            access(b, 0x8A, RAX, &r, size)
        else:
            held = 11
            load_element(b, 11 if fits else H8, &r, size)
            if not fits:
                store_state(b, H8, SCRATCH)
                restore_r11(b)
    if has_target(i):
        r = element_at(b, i, RDI, SEG_ES, flat, stores_target(i))
        if held == 11 and not fits:
            load_state(b, 11, SCRATCH)
        access(b, 0x88 if stores_target(i) else 0x3A, held, &r, size)
    state_op(b, 0, 0x8B, H8, STRING_STEP)                    # mov r8d, [string_step]
    if has_source(i):
        advance(b, i, RSI)
    if has_target(i):
        advance(b, i, RDI)
    if held == 11:
        restore_r11(b)


cdef void emit_own(Builder* b, Insn* i, bint flat, bint repeat) noexcept nogil:
    """Emit the host's own instruction, or its repetition, whose count is in ECX."""
    if flat:
        mov_rr(b, H9, WINDOW)
        negate_r9(b)
        lea_disp(b, H9, H9, 1)
    if has_source(i) and flat:
        to_flat(b, RSI, 0)
    elif has_source(i):
        to_segment(b, i, RSI, 0, source_segment(i), False)
    if has_target(i) and flat:
        to_flat(b, RDI, 1)
    elif has_target(i):
        to_segment(b, i, RDI, 1, SEG_ES, stores_target(i))
    map_here(b, i.offset)
    if i.shape.width == 2 and i.opcode & 1:
        e8(b, 0x66)
    if repeat:
        e8(b, 0xF3 if i.prefixes & PFX_REP else 0xF2)
    e8(b, i.opcode)
    if has_source(i):
        to_guest(b, i, RSI, 0)
    if has_target(i):
        to_guest(b, i, RDI, 1)
    if not flat:
        restore_r11(b)


cdef void at_most_room(Builder* b, Insn* i, u32 reg) noexcept nogil:
    """r11 := at most the number of elements from SI or DI to the end of the segment."""
    cdef u32 size = i.shape.mem_size
    movzx16(b, H9, reg)
    e8(b, 0x41); e8(b, 0xF7); e8(b, 0xD1)                    # not r9d
    sum32(b, H9, H9, NO_REG, SEGMENT_SIZE + 1)
    if size > 1:
        # An odd offset's lowest bits come to the top, and are dropped.
        rorx(b, H9, H9, size >> 1)
        movzx16(b, H9, H9)
    mov_rr(b, H8, H9)
    e8(b, 0x41); e8(b, 0xF7); e8(b, 0xD0)                    # not r8d
    lea_sum(b, H8, H8, 11, 0)                                # bit 32: r11 is more than r9
    rorx(b, H8, H8, 32)
    e8(b, 0x44); e8(b, 0x89); e8(b, 0xC1)                    # mov ecx, r8d
    e8(b, 0xE3); e8(b, 3)                                    # jrcxz over
    mov_rr(b, 11, H9)


cdef void emit_chunk(Builder* b, Insn* i) noexcept nogil:
    """Emit the part of a repetition that stays in the segments: CX is in rcx, ECX in r9.

    If there is no such part, the first element is performed alone.
    """
    cdef u32 single, joined
    store_state(b, H9, SCRATCH)
    mov_rr(b, 11, RCX)
    state_op(b, 0, 0x8B, H8, STRING_STEP)                    # mov r8d, [string_step]
    lea_disp(b, RCX, H8, -1)
    e8(b, 0xE3); e8(b, 6)                                    # jrcxz over
    e8(b, 0x41); e8(b, 0xBB); e32(b, 0)                      # mov r11d, 0: downwards, none
    if has_source(i):
        at_most_room(b, i, RSI)
    if has_target(i):
        at_most_room(b, i, RDI)
    mov_rr(b, RCX, 11)
    e8(b, 0xE3); e8(b, 5)                                    # jrcxz over
    e8(b, 0xE9)
    joined = b.n
    e32(b, 0)
    load_state(b, RCX, SCRATCH)
    restore_r11(b)
    emit_first(b, i, False)
    e8(b, 0xE9)
    single = b.n
    e32(b, 0)
    patch_rel32(b, joined, b.n)
    load_state(b, H9, SCRATCH)
    mov_rr(b, H8, 11)
    e8(b, 0x41); e8(b, 0xF7); e8(b, 0xD0)                    # not r8d
    sum32(b, H8, H8, H9, 1)
    store_state(b, H8, STRING_REST)
    emit_own(b, i, False, True)
    load_state(b, H9, STRING_REST)
    sum32(b, RCX, RCX, H9, 0)
    store_state_imm32(b, STRING_REST, 0)
    patch_rel32(b, single, b.n)


cdef void emit_first(Builder* b, Insn* i, bint flat) noexcept nogil:
    """Emit one element and its count."""
    emit_element(b, i, flat)
    if i.address == 2:
        e8(b, 0x66)
    e8(b, 0x8D); e8(b, 0x49); e8(b, 0xFF)                    # lea ecx or cx, [rcx - 1]


cdef void emit_repeated(Builder* b, Insn* i, bint flat) noexcept nogil:
    """Emit one or more repetitions of a string instruction, which is then entered again."""
    cdef u32 begins, ends = 0, over
    take_cx(b, i)
    e8(b, 0xE3); e8(b, 2)                                    # jrcxz to the end of the repetition
    e8(b, 0xEB)
    begins = b.n
    e8(b, 0)
    give_cx(b, i)
    emit_jump(b, <i64>i.offset + i.length)
    b.out[begins] = <u8>(b.n - begins - 1)
    if b.key & KEY_DATA64K and not b.key & KEY_STEP and not b.once:
        emit_chunk(b, i)
    else:
        give_cx(b, i)
        emit_first(b, i, flat)
    if compares(i):
        e8(b, 0x75 if i.prefixes & PFX_REP else 0x74)        # REPE ends at ZF = 0, REPNE at 1
        ends = b.n
        e8(b, 0)
    take_cx(b, i)
    e8(b, 0xE3)
    over = b.n
    e8(b, 0)
    give_cx(b, i)
    emit_jump(b, i.offset)
    b.out[over] = <u8>(b.n - over - 1)
    give_cx(b, i)
    if ends:
        b.out[ends] = <u8>(b.n - ends - 1)


cdef int emit_string(Builder* b, Insn* i) noexcept nogil:
    cdef bint flat = not b.key & KEY_SEGMENTED and (i.seg == SEG_NONE or not has_source(i)) \
        and i.address == 4
    if not flat and not b.key & KEY_SEGMENTED:
        return 0          # the limits of flat code's segments are not at hand
    if b.key & KEY_DATA64K and i.address != 2:
        return 0
    if not i.prefixes & (PFX_REP | PFX_REPNE):
        emit_element(b, i, flat)
    elif flat and not b.key & KEY_STEP and not b.once:
        emit_own(b, i, True, True)
    else:
        emit_repeated(b, i, flat)
    return 1


cdef void emit_direction(Builder* b, u32 opcode) noexcept nogil:
    e8(b, opcode)
    store_state_imm32(b, STRING_STEP, 1 if opcode == CLD else <u32>-1)
