"""The bytes of an instruction with other registers or another memory operand.

Opcode and immediate do not change; prefixes, REX or VEX, ModRM, SIB and displacement are new.
"""
from ringlet.core.state cimport KEY_MODE64, u8, u32, u64
from ringlet.translate.builder cimport *
from ringlet.translate.insn cimport *
from ringlet.translate.operands cimport bind_rsp, load_guest
from ringlet.translate.shape cimport *


cdef inline void ignore_register_bit(Builder* b, Insn* i) noexcept nogil:
    """Clear bit 7 of the immediate just emitted, if it names a register (VBLENDV, SDM 2A 2.3.7).

    Outside 64-bit code, which has eight registers, processors ignore the bit.
    """
    if not b.key & KEY_MODE64 and i.enc == ENC_VEX and i.map == 3 and 0x4A <= i.opcode <= 0x4C:
        b.out[b.n - 1] &= 0x7F


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
    ignore_register_bit(b, i)


cdef void copy_imm(Builder* b, Insn* i) noexcept nogil:
    cdef const u8* p = b.code + i.offset + i.imm_at
    cdef u32 k
    if i.shape.imm == 4 and is_far(i.imm):
        free_field(b, i, FREE_IMM)
    for k in range(i.shape.imm):
        b.out[b.n + k] = p[k]
    b.n += i.shape.imm
    ignore_register_bit(b, i)


cdef inline void legacy_opcode(Builder* b, Insn* i, u32 opcode, u32 rex) noexcept nogil:
    """Emit the prefixes of `i`, REX with the bits of `rex`, and the opcode in its map."""
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
    """Emit `i` with other registers and memory operand `mem`, or register `rm` if it is NULL."""
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


cdef void encode_state(Builder* b, Insn* i, u32 opcode, u32 reg, u32 spilled) noexcept nogil:
    """Emit `i` with the r/m operand [state + spilled * 8]."""
    legacy_opcode(b, i, opcode, (i.rex & 8) | ((reg >> 3) << 2))
    e8(b, ((reg & 7) << 3) | 4)
    e8(b, 0x25)
    reloc(b, RELOC_STATE, spilled * 8)
    e32(b, <u32>(b.block + spilled * 8))
    copy_imm(b, i)


cdef void load_away(Builder* b, u32 reg, u32 scratch, u32 role) noexcept nogil:
    """Load a register that is away into `scratch`, unless it is only overwritten."""
    cdef u32 host
    if (role & ROLE_READ) or (role & 7) <= ROLE_16:
        host = load_guest(b, reg, scratch)
        if host != scratch:
            mov_rr(b, scratch, host)


cdef void store_away(Builder* b, u32 reg, u32 scratch, u32 role) noexcept nogil:
    """Store `scratch` in a register that is away, if the instruction wrote it."""
    if role & ROLE_WRITE:
        if reg == RSP:
            bind_rsp(b, scratch)
        else:
            store_state(b, scratch, reg * 8)
