"""Lengths of instructions, and which of them are sensitive, for screening.

Only what tells where an instruction ends is decoded.

Sources: SDM 2A 2 (formats), 2B-2D (opcodes), 3A 5.9 and AMD APM 3 3 (privileges).
"""
from ringlet.core.prefixes cimport is_prefix
from ringlet.core.state cimport u8, u32

cdef enum:
    # What follows an opcode.
    MODRM = 1
    IMM8 = 2
    IMM16 = 4
    IMM32 = 8                # 16 bits with an operand-size prefix
    OFFSET = 16              # of MOV from and to an address
    NEVER = 32               # no instruction in 64-bit mode

cdef u8[2][256] FOLLOWS      # by opcode, of one byte and after 0F


cdef _fill():
    """Write down what follows each opcode (SDM 2D appendix A, tables A-2 and A-3)."""
    cdef u32 table, value, opcode, first, last
    rows = {
        (0, MODRM): "00-03 08-0b 10-13 18-1b 20-23 28-2b 30-33 38-3b 63 84-8f d0-d3 d8-df fe ff",
        (0, IMM8): "04 0c 14 1c 24 2c 34 3c 6a 70-7f a8 b0-b7 cd e0-e7 eb",
        (0, IMM32): "05 0d 15 1d 25 2d 35 3d 68 a9 b8-bf e8 e9",
        (0, MODRM | IMM8): "6b 80 83 c0 c1 c6 f6",
        (0, MODRM | IMM32): "69 81 c7 f7",
        (0, IMM16): "c2 ca",
        (0, IMM16 | IMM8): "c8",
        (0, OFFSET): "a0-a3",
        (0, NEVER): "06 07 0e 16 17 1e 1f 27 2f 37 3f 60 61 82 9a ce d4-d6 ea",
        (1, MODRM): "00-03 0d 10-1f 28-2f 40-6f 74-76 78 79 7c-7f 90-9f a3 a5 ab ad-b9 bb-c1 c3 c7 "
                    "d0-ff",
        (1, MODRM | IMM8): "0f 70-73 a4 ac ba c2 c4-c6",
        (1, IMM32): "80-8f",
        (1, IMM8): "20-23",          # ModRM always names registers
        (1, NEVER): "04 0a 0c 24-27 36 39 3b-3f 7a 7b a6 a7",
    }
    for (table, value), text in rows.items():
        for part in text.split():
            low, _, high = part.partition("-")
            first = int(low, 16)
            last = int(high or low, 16)
            for opcode in range(first, last + 1):
                FOLLOWS[table][opcode] = value


_fill()


cdef inline u32 group_7(u8 modrm) noexcept nogil:
    """Classify 0F 01."""
    cdef u8 reg = modrm >> 3 & 7
    if reg == 4:
        return IN_SEQUENCE                       # SMSW
    if modrm < 0xC0:
        return IN_SEQUENCE if reg <= 1 else PLAIN    # SGDT, SIDT
    # VMCALL, XGETBV, VMFUNC, ENCLU, VMMCALL, RDPKRU, WRPKRU, RDTSCP, MONITORX, MWAITX, RDPRU
    if (modrm == 0xC1 or modrm == 0xD0 or modrm == 0xD4 or modrm == 0xD7 or modrm == 0xD9
            or modrm == 0xEE or modrm == 0xEF or modrm == 0xF9 or modrm == 0xFA or modrm == 0xFB
            or modrm == 0xFD):
        return ANYWHERE
    return PLAIN


cdef u32 classify(u8 opcode, u8 modrm, bint repeated, bint cpuid) noexcept nogil:
    cdef u8 reg = modrm >> 3 & 7
    if opcode == 0x00:
        # SLDT, STR, VERR, VERW; LLDT and LTR trap.
        return IN_SEQUENCE if reg == 0 or reg == 1 or reg == 4 or reg == 5 else PLAIN
    if opcode == 0x01:
        return group_7(modrm)
    if opcode == 0x02 or opcode == 0x03 or opcode == 0x34:
        return IN_SEQUENCE                       # LAR, LSL, SYSENTER
    if opcode == 0xA2:
        return ANYWHERE if cpuid else PLAIN
    if opcode == 0xAE:
        # XSAVE, XRSTOR, XSAVEOPT
        return ANYWHERE if modrm < 0xC0 and 4 <= reg <= 6 else PLAIN
    if opcode == 0xC7:
        # XSAVEC and RDPID; XSAVES and XRSTORS trap.
        if modrm < 0xC0:
            return ANYWHERE if reg == 4 else PLAIN
        return ANYWHERE if reg == 7 and repeated else PLAIN
    return PLAIN


cdef bint repeats(const u8* page, u32 at) noexcept nogil:
    while at:
        at -= 1
        if page[at] == 0xF3:
            return True
        if not is_prefix(page[at]):
            return False
    return True


cdef inline bint is_data(u8 opcode, u8 modrm) noexcept nogil:
    """Tell whether an opcode of one byte has a ModRM byte that processors refuse, or is ADD [RAX],
    AL: zeros are data, and would be valid in any number."""
    cdef u8 reg = modrm >> 3 & 7
    if opcode == 0x00:
        return modrm == 0
    if opcode == 0xFE:
        return reg > 1
    if opcode == 0xFF:
        return reg == 7
    return reg and (opcode == 0x8F or (opcode & 0xFE == 0xC6 and modrm != 0xF8))


cdef u32 operand_bytes(const u8* p, u32 room) noexcept nogil:
    """Return the bytes of ModRM, SIB and displacement."""
    cdef u8 mod = p[0] >> 6
    cdef u8 rm = p[0] & 7
    cdef u32 size = 1
    if mod == 3:
        return 1
    if rm == 4:
        size = 2
        if mod == 0 and room > 1 and p[1] & 7 == 5:
            size = 6
    elif rm == 5 and mod == 0:
        size = 5
    return size + (1 if mod == 1 else 4 if mod == 2 else 0)


cdef u32 instruction(const u8* page, u32 at, u32 size, bint cpuid, u32* kind) noexcept nogil:
    cdef u32 i = at
    cdef u32 table = 0
    cdef u8 follows, opcode, last = 0
    cdef bint short = False, narrow = False, repeated = False, repne = False, wide, near = False
    kind[0] = PLAIN
    while i < size and is_prefix(page[i]):
        last = page[i]
        short |= last == 0x66
        narrow |= last == 0x67
        repeated |= last == 0xF3
        repne |= last == 0xF2
        i += 1
    wide = last & 0xF8 == 0x48
    if i + 1 >= size or i - at > 14:
        return size
    opcode = page[i]
    i += 1
    if opcode == 0xC5 or opcode == 0xC4 or opcode == 0x62:
        # VEX with two or three bytes, EVEX with four; the maps 2 and 3 have no opcode of their own
        # kind, all of map 3 an immediate.
        if opcode == 0xC5:
            table = 1
        else:
            table = page[i] & (0x1F if opcode == 0xC4 else 7)
        i += 1 if opcode == 0xC5 else 2 if opcode == 0xC4 else 3
        if i >= size:
            return size
        if not 1 <= table <= 6 or table == 4:
            kind[0] = NOTHING
            return 1
        opcode = page[i]
        i += 1
        if table == 1:
            follows = FOLLOWS[1][opcode] & (MODRM | IMM8)
            if opcode != 0x77:
                follows |= MODRM
        else:
            follows = MODRM | (IMM8 if table == 3 else 0)
    elif opcode == 0x0F:
        opcode = page[i]
        i += 1
        if opcode == 0x38 or opcode == 0x3A:
            follows = MODRM if opcode == 0x38 else MODRM | IMM8
            i += 1
        else:
            follows = FOLLOWS[1][opcode]
            near = follows == IMM32
            if opcode == 0x78 and (short or repne):
                follows |= IMM16                 # the two bytes of EXTRQ and INSERTQ
            if i < size or is_whole(opcode):
                kind[0] = classify(opcode, page[i] if i < size else 0, repeated, cpuid)
            if opcode == 0xAE and short:
                kind[0] = PLAIN                  # CLWB; the others trap
    else:
        follows = NEVER if is_data(opcode, page[i]) else FOLLOWS[0][opcode]
        near = opcode & 0xFE == 0xE8
        if opcode & 0xFE == 0xF6 and i < size and page[i] >> 3 & 7 > 1:
            follows = MODRM                      # only TEST has an immediate
        if opcode >= 0xB8 and opcode <= 0xBF and wide:
            i += 4
    if follows & NEVER:
        kind[0] = NOTHING
        return 1
    if follows & MODRM:
        if i >= size:
            return size
        i += operand_bytes(page + i, size - i)
    if follows & OFFSET:
        i += 4 if narrow else 8
    if follows & IMM8:
        i += 1
    if follows & IMM16:
        i += 2
    if follows & IMM32:
        if near and short and not wide:
            # Intel's processors ignore this prefix of a branch, AMD's do not.
            kind[0] = NOTHING
            return 1
        i += 2 if short and not wide else 4
    return i - at


def length(code: bytes) -> int:
    """Return the length of the instruction at the beginning of `code`, or 1 if there is none."""
    cdef bytes page = code[:PAGE].ljust(PAGE, b"\x90")
    cdef u32 kind = PLAIN
    return instruction(page, 0, PAGE, False, &kind)
