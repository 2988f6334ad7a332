"""Decoding of guest instructions in all modes: lengths and fields, by learned shapes.

This module decodes prefixes, ModRM, SIB, displacement and immediate (SDM 2A chapter 2).  The
meaning of an opcode comes from its `Shape`.
"""
from ringlet.core.prefixes cimport is_prefix
from ringlet.core.state cimport u8, u16, u32, u64, i32, i64, SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS
from ringlet.core.state cimport SEG_GS, SEG_NONE


cdef inline i64 signed_imm(const u8* p, u32 size) noexcept nogil:
    cdef u64 v = 0
    cdef u32 k
    for k in range(size):
        v |= <u64>p[k] << (8 * k)
    if size == 0 or size == 8:
        return <i64>v
    return (<i64>(v << (64 - 8 * size))) >> (64 - 8 * size)


cdef u32 shape_key(ShapeTable* t, Insn* i) noexcept nogil:
    """Return the 24-bit key of an instruction's shape (`ringlet.translate.key`)."""
    cdef u8 group = t.groups[i.enc][i.map][i.opcode]
    cdef u32 key = i.opcode | (<u32>i.map << 8) | (<u32>i.enc << 10)
    cdef u32 register_form = 0
    if i.enc == ENC_VEX:
        # pp takes the bits of 66, F2 and F3.
        key |= (<u32>(i.vex & 3) << 11) | (<u32>((i.vex >> 2) & 1) << 15)
    else:
        key |= <u32>(i.prefixes & PFX_66) << 11
        key |= <u32>((i.prefixes & PFX_REP) >> 3) << 12
        key |= <u32>((i.prefixes & PFX_REPNE) >> 4) << 13
        key |= <u32>((i.prefixes & PFX_LOCK) >> 2) << 15
    key |= <u32>((i.rex >> 3) & 1) << 14
    if group & GROUP_MODRM:
        if i.modrm >= 0xC0:
            register_form = 1
            key |= 1 << 16
        if group & GROUP_REG:
            key |= <u32>((i.modrm >> 3) & 7) << 17
        if (group & GROUP_RM) and register_form:
            key |= <u32>(i.modrm & 7) << 20
    # REX.B makes 90h another instruction: XCHG r8,rax instead of NOP.
    if i.enc == ENC_LEGACY and i.map == 0 and i.opcode == 0x90:
        key |= <u32>(i.rex & 1) << 17
    return key


cdef inline int refuse(ShapeTable* t, u32 length, Insn* i) noexcept nogil:
    """Decode an instruction of `length` bytes that raises #UD whatever its opcode is."""
    i.shape = &t.shapes[SHAPE_OF_NONE]
    i.length = <u8>length
    i.imm_at = <u8>length
    return DECODE_OK


cdef int decode(ShapeTable* t, const u8* code, u32 avail, Insn* i) noexcept nogil:
    """Decode the instruction at `code`, of which `avail` bytes may be read, into `i`."""
    cdef u32 at = 0, size
    cdef u8 b = 0, group, mod
    cdef bint refused = False
    cdef u32 limit = avail if avail < 15 else 15
    cdef u32 mode = t.mode
    cdef u16 found
    i.prefixes = 0
    i.rex = 0
    i.seg = SEG_NONE
    i.enc = ENC_LEGACY
    i.map = 0
    i.has_sib = 0
    i.disp = 0
    i.disp_size = 0
    i.modrm = 0
    i.sib = 0
    i.rip_relative = 0
    i.free = 0
    i.vvvv = 0
    i.vex = 0
    i.imm = 0
    while True:
        if at >= limit:
            return DECODE_LONG if limit == 15 else DECODE_MORE
        b = code[at]
        if b == 0x66:
            i.prefixes |= PFX_66
        elif b == 0x67:
            i.prefixes |= PFX_67
        elif b == 0xF0:
            i.prefixes |= PFX_LOCK
        elif b == 0xF3:
            i.prefixes = (i.prefixes & ~<u8>PFX_REPNE) | PFX_REP
        elif b == 0xF2:
            i.prefixes = (i.prefixes & ~<u8>PFX_REP) | PFX_REPNE
        elif b == 0x64:
            i.seg = SEG_FS
        elif b == 0x65:
            i.seg = SEG_GS
        elif b == 0x2E or b == 0x36 or b == 0x3E or b == 0x26:
            # 64-bit mode ignores CS, SS, DS and ES overrides; they do not cancel FS or GS.
            if mode != 64:
                i.seg = (b >> 3) & 3
        elif mode == 64 and (b & 0xF0) == 0x40:
            # REX has an effect only immediately before the opcode.
            if at + 1 >= limit:
                return DECODE_LONG if limit == 15 else DECODE_MORE
            at += 1
            if is_prefix(code[at]):
                continue
            i.rex = b & 15
            i.prefixes |= PFX_REX
            b = code[at]
            break
        else:
            break
        at += 1
    at += 1
    if mode == 64:
        i.address = 4 if i.prefixes & PFX_67 else 8
    else:
        i.address = 4 if (mode == 32) != (i.prefixes & PFX_67 != 0) else 2
    if b == 0xC4 or b == 0xC5:
        if mode != 64 and at >= limit:
            return DECODE_LONG if limit == 15 else DECODE_MORE
    # Outside 64-bit mode C4 and C5 are LES and LDS with a memory operand.
    if (b == 0xC4 or b == 0xC5) and (mode == 64 or code[at] >= 0xC0):
        i.enc = ENC_VEX
        if b == 0xC4 and at < limit and not 1 <= (code[at] & 0x1F) <= 3:
            # This map has no instructions, whatever follows.
            return refuse(t, at + 1, i)
        size = 2 if b == 0xC5 else 3
        if at + size > limit:
            return DECODE_LONG if limit == 15 else DECODE_MORE
        if b == 0xC5:
            i.rex = ((~code[at]) >> 5) & 4
            i.vvvv = ((~code[at]) >> 3) & 15
            i.vex = code[at] & 7
            i.map = 1
        else:
            i.rex = (((~code[at]) >> 5) & 7) | ((code[at + 1] >> 4) & 8)
            i.vvvv = ((~code[at + 1]) >> 3) & 15
            i.vex = code[at + 1] & 7
            i.map = code[at] & 3
        if mode != 64:
            # There are eight registers; VEX.B and the upper bit of vvvv are ignored.
            i.rex &= 8
            i.vvvv &= 7
        i.opcode = code[at + size - 1]
        at += size
        # These prefixes are not allowed before VEX.  Decode the length anyway, because #GP for more
        # than 15 bytes has priority over #UD.
        refused = i.prefixes & (PFX_66 | PFX_REP | PFX_REPNE | PFX_LOCK | PFX_REX) != 0
    else:
        if b == 0x0F:
            if at >= limit:
                return DECODE_LONG if limit == 15 else DECODE_MORE
            b = code[at]
            at += 1
            i.map = 1
            if b == 0x38 or b == 0x3A:
                i.map = 2 if b == 0x38 else 3
                if at >= limit:
                    return DECODE_LONG if limit == 15 else DECODE_MORE
                b = code[at]
                at += 1
        i.opcode = b
    group = t.groups[i.enc][i.map][i.opcode]
    if group & GROUP_MODRM:
        if at >= limit:
            return DECODE_LONG if limit == 15 else DECODE_MORE
        i.modrm = code[at]
        at += 1
        if group & GROUP_REGISTER:
            i.modrm |= 0xC0
        mod = i.modrm >> 6
        if mod != 3:
            if (i.modrm & 7) == 4 and i.address != 2:
                if at >= limit:
                    return DECODE_LONG if limit == 15 else DECODE_MORE
                i.has_sib = 1
                i.sib = code[at]
                at += 1
            if mod == 1:
                i.disp_size = 1
            elif i.address == 2:
                i.disp_size = 2 if mod == 2 or (i.modrm & 7) == 6 else 0
            elif mod == 2:
                i.disp_size = 4
            elif i.has_sib:
                i.disp_size = 4 if (i.sib & 7) == 5 else 0
            elif (i.modrm & 7) == 5:
                i.disp_size = 4
                i.rip_relative = mode == 64
            if at + i.disp_size > limit:
                return DECODE_LONG if limit == 15 else DECODE_MORE
            i.disp = <i32>signed_imm(code + at, i.disp_size)
            at += i.disp_size
    found = t.index[shape_key(t, i)]
    if found == 0:
        return DECODE_LEARN
    t.met[found] = 1
    i.shape = &t.shapes[found]
    i.imm_at = <u8>at
    if is_moffs(i) and i.address != 8:
        # The offset of MOV moffs has the size of an address.
        if at + i.address > limit:
            return DECODE_LONG if limit == 15 else DECODE_MORE
        i.imm = signed_imm(code + at, i.address) & (0xFFFF if i.address == 2 else <i64>0xFFFFFFFF)
        i.length = <u8>(at + i.address)
        return DECODE_OK
    if at + i.shape.imm > limit:
        return DECODE_LONG if limit == 15 else DECODE_MORE
    i.imm = signed_imm(code + at, i.shape.imm)
    i.length = <u8>(at + i.shape.imm)
    if refused:
        return refuse(t, i.length, i)
    return DECODE_OK
