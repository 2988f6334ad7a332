"""`Shape`: the properties of an instruction's opcode, learned once from iced-x86.

A shape is (mode, encoding, map, opcode, 66h, F2h/F3h, REX.W, VEX.L, LOCK, mod == 3, and ModRM.reg
or ModRM.rm where they extend the opcode).  `ringlet.translate.learn` makes the rows;
`ringlet.translate.key` defines a shape's key.
"""
from ringlet.core.state cimport u8, u16, u32

cpdef enum ShapeKind:
    SHAPE_UNKNOWN = 0
    SHAPE_PLAIN = 1      # innocuous: copied with other registers and memory operand
    SHAPE_OP = 2         # sensitive or refused: leaves for `op`; OP_NONE: a NOP, no code at all
    SHAPE_JMP = 3        # direct, relative
    SHAPE_JCC = 4
    SHAPE_CALL = 5
    SHAPE_JMP_IND = 6
    SHAPE_CALL_IND = 7
    SHAPE_RET = 8
    SHAPE_LOOP = 9       # LOOP, LOOPE, LOOPNE, JRCXZ
    SHAPE_STRING = 10    # MOVS STOS LODS SCAS CMPS, with or without REP
    SHAPE_LEAVE = 11
    SHAPE_ADDRESS = 12   # LEA
    SHAPE_XLAT = 13
    SHAPE_MASKMOV = 14   # MASKMOVQ, MASKMOVDQU: [rDI]
    SHAPE_GATHER = 15    # VSIB; #UD without a SIB byte
    SHAPE_BITS = 16      # BT BTS BTR BTC with a register offset and a memory operand
    SHAPE_PUSH_MEM = 17  # PUSH r/m64 with a memory operand
    SHAPE_POP_MEM = 18
    SHAPE_INVALID = 19   # undefined: #UD

# Role of a general register field: the size in the low 3 bits, and its use.
cpdef enum RegRole:
    ROLE_NONE = 0        # not a general register, or no field
    ROLE_8 = 1           # AH-DH without REX
    ROLE_16 = 2
    ROLE_32 = 3
    ROLE_64 = 4
    ROLE_READ = 8
    ROLE_WRITE = 16      # a 32-bit write zeroes the upper half; CMOV counts as read and write
    ROLE_MAYBE = 32      # BSF, BSR, CMPXCHG: a write that may not change any of the 64 bits

cpdef enum MemUse:
    MEM_NONE = 0
    MEM_READ = 1
    MEM_WRITE = 2
    MEM_HINT = 4         # named but not accessed: multi-byte NOP, PREFETCH, LEA
    MEM_MAYBE = 8        # the instruction may end without the access (masked moves, x87)
    MEM_LANES = 16       # a mask selects the lanes that are accessed

cpdef enum UnitUse:
    UNIT_NONE = 0
    UNIT_X87 = 1         # also MMX
    UNIT_SSE = 2
    UNIT_AVX = 3
    UNIT_WAIT = 4        # FWAIT: CR0.MP and TS

cpdef enum StackUse:
    STACK_NONE = 0
    STACK_PUSH = 1       # PUSH reg/imm: stores at RSP - size
    STACK_POP = 2        # loads at RSP, then RSP += size

cdef struct Shape:
    u8 kind
    u8 op            # Op, for SHAPE_OP
    u8 modrm         # 1: has ModRM
    u8 imm           # bytes of immediate (moffs 8 included; branch displacement included)
    u8 reg           # role of ModRM.reg
    u8 rm            # role of ModRM.rm as a register (mod == 3)
    u8 vvvv          # role of VEX.vvvv
    u8 opreg         # role of the register in the opcode's low three bits
    u8 mem           # MemUse of the ModRM memory operand (mod != 3), not of an implicit one
    u8 mem_size      # bytes, also of a string element or masked move; 0 if unknown or over 255
    u8 unit
    u8 stack
    u16 implicit_read    # general registers read but not named, one bit each
    u16 implicit_write
    u16 flags_read       # RFLAGS bits 0-11: tested
    u16 flags_kill       # overwritten by every complete execution; excludes undefined flags
    u16 flags_write      # may change: includes flags_kill, and a shift's flags for counts not 0
    u8 size              # operand size in bytes, for the virtual processor
    u8 width             # operand size in bytes, if 66h selects it; 0: 66h has another meaning
    u8 traps             # 1: may fault (DIV, x87, SSE; VEX: #UD), 0: only its memory operand may
    u8 pad
    u8 code16[2]         # iced-x86 Code, little endian: for explain and errors
