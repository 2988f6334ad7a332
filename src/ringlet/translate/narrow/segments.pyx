"""Operands in segments, and the stack, of 16- and 32-bit code.

In segments that are not flat an access is checked without a branch and without changing a flag.
`segment_read` and `segment_write` hold minus the size of the segment, so that the sum of that, the
offset and the operand's last byte is negative exactly if the access is within the limit.  Its sign
bit is added to the offset; the segment's base has the inverted bit, so that the address is right,
or not canonical.  Then the access faults, and the emulator decides (docs/adr/0028).

In segments of 64 KiB a byte at a 16-bit offset needs no check.  For up to 8 bytes the offset of the
last one, cut to 16 bits, is less than the number of bytes before it exactly if the access passes
the limit: then the difference, of 32 bits, is just below 4 GiB, and the access ends in the guard of
the window.  More bytes might be stored in parts.  For these, the sum of the offset and the number
of bytes before the last one has bit 16 set exactly if the access passes the limit; PDEP moves that
bit to bit 62.
"""
from ringlet.core.state cimport (
    RSP, SEG_CS, SEG_FS, SEG_GS, SEG_SS, KEY_DATA64K, KEY_LIMITED, KEY_SEGMENTED, KEY_STACK16,
    CpuState, u8, u32, i32)
from ringlet.translate.builder cimport *
from ringlet.translate.insn cimport *
from ringlet.translate.narrow.operands cimport (
    host_operand, next_operand, offset_operand, segment_of, sum_to_r9)

cdef CpuState* _null = NULL
cdef u32 SEGMENT_AT = <u32><size_t>&_null.segment_at[0]
cdef u32 SEGMENT_READ = <u32><size_t>&_null.segment_read[0]
cdef u32 SEGMENT_WRITE = <u32><size_t>&_null.segment_write[0]


cdef u32 PARAGRAPH_AT = <u32><size_t>&_null.paragraph_at[0]
cdef u32 DEPOSIT = <u32><size_t>&_null.deposit


cdef enum:
    SIZE_64K = 0x10000
    AT_ONCE = 8           # bytes that an access stores all or none of


cdef Ref in_64k(Builder* b, u32 seg, u32 size) noexcept nogil:
    cdef Ref r = ref_mem(H9, <i32>size - 1)
    if size > 1:
        lea32(b, H9, &r)
        e8(b, 0xC4); e8(b, 0x62); e8(b, 0xB3); e8(b, 0xF5)    # pdep r9, r9, [deposit]
        e8(b, 0x0C); e8(b, 0x25)
        reloc(b, RELOC_STATE, DEPOSIT)
        e32(b, <u32>(b.block + DEPOSIT))
    load_state(b, H8, PARAGRAPH_AT + 8 * seg)
    return ref_sum(H8, H9, 1 - <i32>size)


cdef Ref sum_in_64k(Builder* b, u32 seg, u8 base, u8 index, i32 disp, u32 size) noexcept nogil:
    """Return the host operand of `size` bytes at a 16-bit sum; r8 and r9 are lost."""
    cdef i32 last = <i32>size - 1, more = last if size <= AT_ONCE else 0
    cdef bint absolute = base == NO_REG and index == NO_REG
    cdef Ref r
    if absolute and (disp & 0xFFFF) + last < SIZE_64K:
        load_state(b, H8, PARAGRAPH_AT + 8 * seg)
        return ref_mem(H8, disp & 0xFFFF)
    if absolute:
        e8(b, 0x41); e8(b, 0xB9); e32(b, <u32>(disp + more) & 0xFFFF)    # mov r9d, imm32
    elif index == NO_REG and not (disp + more) & 0xFFFF:
        movzx16(b, H9, base)
    else:
        r = ref_sum(base, index, disp + more)
        lea32(b, H9, &r)
        movzx16(b, H9, H9)
    if not more:
        return in_64k(b, seg, size)
    r = ref_mem(H9, -more)
    lea32(b, H9, &r)
    load_state(b, H8, PARAGRAPH_AT + 8 * seg)
    return ref_sum(H8, H9, 0)


cdef Ref operand_64k(Builder* b, Insn* i, u32 size) noexcept nogil:
    if is_moffs(i):
        return sum_in_64k(b, segment_of(i), NO_REG, NO_REG, <i32>i.imm, size)
    return sum_in_64k(b, segment_of(i), insn_base(i), insn_index(i), i.disp, size)


cdef inline void sign_bit(Builder* b) noexcept nogil:
    """r8 := its bit 63 alone."""
    e8(b, 0xC4); e8(b, 0x42); e8(b, 0xA3); e8(b, 0xF7); e8(b, 0xC0)    # shrx r8, r8, r11
    e8(b, 0xC4); e8(b, 0x42); e8(b, 0xA1); e8(b, 0xF7); e8(b, 0xC0)    # shlx r8, r8, r11


cdef Ref in_segment(Builder* b, u32 seg, u32 size, bint write) noexcept nogil:
    if b.key & KEY_DATA64K:
        return in_64k(b, seg, size)
    load_state(b, H8, (SEGMENT_WRITE if write else SEGMENT_READ) + 8 * seg)
    lea_sum(b, H8, H8, H9, <i32>size - 1)
    sign_bit(b)
    lea_sum(b, H9, H9, H8, 0)
    load_state(b, H8, SEGMENT_AT + 8 * seg)
    return ref_sum(H8, H9, 0)


cdef bint is_checked(Builder* b, u32 seg) noexcept nogil:
    """Whether accesses in the segment are checked."""
    return b.key & KEY_SEGMENTED or (b.key & KEY_LIMITED and (seg == SEG_FS or seg == SEG_GS))


cdef bint allows(Builder* b, Insn* i, bint write) noexcept nogil:
    """CS's rights are part of no key: flat code does not access it, and it is never written."""
    if b.key & KEY_DATA64K:
        return i.address == 2 and not (write and i.seg == SEG_CS)
    return i.seg != SEG_CS or b.key & KEY_SEGMENTED != 0


cdef Ref operand(Builder* b, Insn* i, u32 size, bint write, i32 moved) noexcept nogil:
    if not is_checked(b, i.seg):
        return host_operand(b, i, moved)
    if b.key & KEY_DATA64K:
        return operand_64k(b, i, size)
    if moved and not is_moffs(i):
        sum_to_r9(b, i, moved)
    else:
        offset_operand(b, i)
    return in_segment(b, segment_of(i), size, write)


cdef Ref operand_of_next(Builder* b, Insn* i, u32 size, bint write) noexcept nogil:
    if not is_checked(b, i.seg):
        return next_operand(b, i)
    return operand(b, i, size, write, 0)


cdef Ref stack_operand(Builder* b, i32 disp, u32 size, bint write) noexcept nogil:
    cdef Ref r
    if not b.key & (KEY_SEGMENTED | KEY_STACK16):
        return ref_sum(RSP, WINDOW, disp)
    if b.key & KEY_DATA64K and b.key & KEY_STACK16:
        return sum_in_64k(b, SEG_SS, RSP, NO_REG, disp, size)
    r = ref_mem(RSP, disp)
    lea32(b, H9, &r)
    if b.key & KEY_STACK16:
        movzx16(b, H9, H9)
    return in_segment(b, SEG_SS, size, write)


cdef void move_sp(Builder* b, i32 by) noexcept nogil:
    cdef Ref r = ref_mem(RSP, by)
    if b.key & KEY_STACK16:
        e8(b, 0x66)                                           # SP alone
    e8(b, 0x8D)
    modrm_mem(b, RSP, &r)


cdef void move(Builder* b, u32 opcode, u32 reg, Ref* mem, u32 size) noexcept nogil:
    cdef u32 rex = rex_of(0, reg, mem)
    if size == 2:
        e8(b, 0x66)
    if rex:
        e8(b, 0x40 | rex)
    e8(b, opcode)
    modrm_mem(b, reg, mem)
