"""Decoding: bytes of guest code to `Insn`, with opcodes looked up as learned `Shape`s."""
from ringlet.core.state cimport CpuState, KEY_MODE32, KEY_MODE64, u8, u16, u32, u64, i32, i64
from ringlet.translate.shape cimport Shape

cdef enum:
    ENC_LEGACY = 0
    ENC_VEX = 1

cdef enum:
    PFX_66 = 1
    PFX_67 = 2
    PFX_LOCK = 4
    PFX_REP = 8      # F3 is the last of F2/F3
    PFX_REPNE = 16   # F2 is the last of F2/F3
    PFX_REX = 32

cdef enum:
    FREE_DISP = 1    # the displacement
    FREE_IMM = 2     # the immediate
    FREE_RIP = 4     # a displacement from RIP, whatever its value
    FREE_NONE = 8    # no field, whatever the other bits are

# Results of decoding an instruction.
cdef enum:
    DECODE_OK = 0
    DECODE_MORE = 1      # it continues past the given bytes
    DECODE_LEARN = 2     # its shape is not known yet
    DECODE_LONG = 3      # longer than 15 bytes: #GP

cdef enum:
    GROUP_MODRM = 1      # the opcode has a ModRM byte
    GROUP_REG = 2        # ModRM.reg extends the opcode
    GROUP_RM = 4         # ModRM.rm extends it where mod == 3
    GROUP_OPREG = 8      # the opcode's low three bits name a register
    GROUP_REGISTER = 16  # mod is ignored: always a register form (MOV CRn, MOV DRn)

cdef enum:
    SHAPE_OF_NONE = 1    # number of a shape that belongs to no instruction

# Learned shapes.  `index` maps a shape key to a number (0: unknown), which is the index in `shapes`
# and `met`.
cdef struct ShapeTable:
    u32 mode         # 16, 32 or 64: the code that it is for
    u16* index
    Shape* shapes
    u8* met          # whether this run has decoded an instruction of that shape
    u32 count
    u32 capacity
    u8 groups[2][4][256]

cdef struct Insn:
    Shape* shape
    i64 imm          # sign-extended
    i32 disp
    u16 offset       # offset of its first byte in the fragment
    u16 live         # status flags live before it
    u16 host         # offset of its translation
    u8 length
    u8 prefixes      # PFX_*
    u8 rex           # low four bits WRXB (from VEX as well)
    u8 enc
    u8 map
    u8 opcode
    u8 modrm
    u8 sib
    u8 seg           # segment override or SEG_NONE
    u8 vvvv
    u8 vex           # L << 2 | pp
    u8 has_sib
    u8 disp_size     # 0, 1, 2 or 4
    u8 imm_at        # offset of the immediate in the instruction
    u8 rip_relative
    u8 free          # FREE_*: fields whose value the translation only copies
    u8 device        # it leaves for an access to a device (ringlet.translate.device)
    u8 address       # bytes of an address: 2, 4 or 8

# The shapes of the code that a key is for.
cdef inline ShapeTable* shapes_of(CpuState* c, u32 key) noexcept nogil:
    return <ShapeTable*>c.shapes[0 if key & KEY_MODE64 else 1 if key & KEY_MODE32 else 2]

cdef int decode(ShapeTable* t, const u8* code, u32 avail, Insn* i) noexcept nogil
cdef u32 shape_key(ShapeTable* t, Insn* i) noexcept nogil

cdef inline u8 insn_mod(Insn* i) noexcept nogil:
    return i.modrm >> 6

cdef inline bint loops_by_prefix(Insn* i) noexcept nogil:
    """Whether F2 or F3 precedes LOOPE or LOOPNE, which some processors take for the condition."""
    return i.prefixes & (PFX_REP | PFX_REPNE) != 0 and (i.opcode == 0xE0 or i.opcode == 0xE1)

cdef inline u8 insn_reg(Insn* i) noexcept nogil:
    return ((i.modrm >> 3) & 7) | ((i.rex & 4) << 1)

cdef inline u8 insn_rm(Insn* i) noexcept nogil:
    return (i.modrm & 7) | ((i.rex & 1) << 3)

cdef inline u8 insn_opreg(Insn* i) noexcept nogil:
    return (i.opcode & 7) | ((i.rex & 1) << 3)

# MOV between rAX and an absolute address, which is the immediate.
cdef inline bint is_moffs(Insn* i) noexcept nogil:
    return i.enc == ENC_LEGACY and i.map == 0 and (i.opcode & 0xFC) == 0xA0

# 32-bit fields below this value, sign-extended, are addresses in the upper half.  Translations for
# all such values differ only in the value itself.
cdef enum:
    FAR = 1 << 28

# A displacement from here on is the address of a static object, and the base is an index: Linux
# links programs at 4 MiB, and no structure is as large.
cdef enum:
    NEAR = 1 << 22

# Whether base and operand are likely in one slot.
cdef inline bint is_near(i64 disp) noexcept nogil:
    return -FAR <= disp < NEAR

cdef inline bint is_far(i64 v) noexcept nogil:
    return v < -FAR

cdef enum:
    NO_REG = 0xFF

cdef inline u8 base16(Insn* i) noexcept nogil:
    """Return the base of a 16-bit address (SDM 2A table 2-1), or NO_REG."""
    cdef u8 rm = i.modrm & 7
    if rm == 6 and i.modrm < 0x40:
        return NO_REG
    if rm == 4 or rm == 5:
        return rm + 2                     # SI, DI
    return 5 if rm == 2 or rm == 3 or rm == 6 else 3    # BP or BX

# Base and index of the memory operand, or NO_REG.
cdef inline u8 insn_base(Insn* i) noexcept nogil:
    if i.address == 2:
        return base16(i)
    if (i.modrm & 0xC7) == 5:
        return NO_REG                     # a displacement alone, from RIP in 64-bit code
    if i.has_sib:
        if (i.sib & 7) == 5 and i.modrm < 0x40:
            return NO_REG
        return (i.sib & 7) | ((i.rex & 1) << 3)
    return (i.modrm & 7) | ((i.rex & 1) << 3)

cdef inline u8 insn_index(Insn* i) noexcept nogil:
    cdef u8 r
    if i.address == 2 and i.modrm & 4 == 0:
        return 7 if i.modrm & 1 else 6    # SI or DI
    if not i.has_sib:
        return NO_REG
    r = ((i.sib >> 3) & 7) | ((i.rex & 2) << 2)
    return NO_REG if r == 4 else r
