"""String instructions of 16- and 32-bit code.

They run on host addresses in RSI and RDI.  What takes these back to the guest's values is in
`scratch`, with which the fault handler reverts them.  The processor repeats them in flat segments
alone: in others each element is checked.
"""
from ringlet.core.state cimport (
    RDI, RSI, SEG_DS, SEG_ES, SEG_NONE, KEY_DATA64K, KEY_SEGMENTED, KEY_STEP, CpuState, u8,
    u32, i64)
from ringlet.translate.builder cimport *
from ringlet.translate.flow cimport emit_jump
from ringlet.translate.insn cimport *
from ringlet.translate.narrow.counts cimport give_cx, take_cx
from ringlet.translate.narrow.segments cimport in_segment, restore_r11
from ringlet.translate.shape cimport *

cdef CpuState* _null = NULL
cdef u32 SCRATCH = <u32><size_t>&_null.scratch[0]
cdef u32 STRING_OLD = <u32><size_t>&_null.string_old[0]


cdef inline void negate_r9(Builder* b) noexcept nogil:
    """`not r9`, which changes no flag; the caller adds 1."""
    e8(b, 0x49); e8(b, 0xF7); e8(b, 0xD1)


cdef inline void sum32(Builder* b, u32 dst, u32 reg) noexcept nogil:
    """`lea dst32, [reg + r9]`, which wraps around."""
    cdef Ref r = ref_sum(<u8>reg, H9, 0)
    e8(b, 0x40 | rex_of(0, dst, &r)); e8(b, 0x8D)
    modrm_mem(b, dst, &r)


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
        sum32(b, reg, reg)
        return
    sum32(b, H9, reg)
    load_state(b, reg, STRING_OLD + 8 * slot)
    e8(b, 0x66); e8(b, 0x44); e8(b, 0x89); e8(b, 0xC8 | reg)  # mov reg16, r9w


cdef void emit_element(Builder* b, Insn* i, bint flat, bint repeat) noexcept nogil:
    cdef u32 op = i.opcode & 0xFE
    cdef bint source = op == 0xA4 or op == 0xA6 or op == 0xAC
    cdef bint target = op != 0xAC
    if flat:
        mov_rr(b, H9, WINDOW)
        negate_r9(b)
        lea_disp(b, H9, H9, 1)
        if source:
            to_flat(b, RSI, 0)
        if target:
            to_flat(b, RDI, 1)
    else:
        if source:
            to_segment(b, i, RSI, 0, SEG_DS if i.seg == SEG_NONE else i.seg, False)
        if target:
            to_segment(b, i, RDI, 1, SEG_ES, op == 0xA4 or op == 0xAA)
    map_here(b, i.offset)
    if i.shape.width == 2 and i.opcode & 1:
        e8(b, 0x66)
    if repeat and i.prefixes & PFX_REP:
        e8(b, 0xF3)
    elif repeat and i.prefixes & PFX_REPNE:
        e8(b, 0xF2)
    e8(b, i.opcode)
    if source:
        to_guest(b, i, RSI, 0)
    if target:
        to_guest(b, i, RDI, 1)
    if not flat:
        restore_r11(b)


cdef void emit_once(Builder* b, Insn* i, bint flat) noexcept nogil:
    """Emit one repetition of a string instruction, which is then entered again."""
    cdef bint compares = (i.opcode & 0xFE) == 0xA6 or (i.opcode & 0xFE) == 0xAE
    cdef u32 begins, ends, over
    take_cx(b, i)
    e8(b, 0xE3); e8(b, 2)                                    # jrcxz to the end of the repetition
    e8(b, 0xEB)
    begins = b.n
    e8(b, 0)
    give_cx(b, i)
    emit_jump(b, <i64>i.offset + i.length)
    b.out[begins] = <u8>(b.n - begins - 1)
    give_cx(b, i)
    emit_element(b, i, flat, False)
    if i.address == 2:
        e8(b, 0x66)
    e8(b, 0x8D); e8(b, 0x49); e8(b, 0xFF)                    # lea ecx or cx, [rcx - 1]
    ends = 0
    if compares:
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
    if compares:
        b.out[ends] = <u8>(b.n - ends - 1)


cdef int emit_string(Builder* b, Insn* i) noexcept nogil:
    cdef bint source = (i.opcode & 0xFE) != 0xAA and (i.opcode & 0xFE) != 0xAE
    cdef bint flat = not b.key & KEY_SEGMENTED and (i.seg == SEG_NONE or not source) \
        and i.address == 4
    if not flat and not b.key & KEY_SEGMENTED:
        return 0          # the limits of flat code's segments are not at hand
    if b.key & KEY_DATA64K and i.address != 2:
        return 0
    if i.prefixes & (PFX_REP | PFX_REPNE) and (not flat or b.key & KEY_STEP or b.once):
        emit_once(b, i, flat)
    else:
        emit_element(b, i, flat, True)
    return 1
