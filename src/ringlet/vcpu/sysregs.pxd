"""Bits of the system registers (SDM 3A ch. 2) and predicates on the processor's mode."""
from ringlet.core.state cimport (
    CpuState, OpInfo, u8, u16, u32, u64, i64,
    SEG_CS, SEG_SS, SEG_FS, SEG_GS, AR_L, AR_DB, AR_UNUSABLE, FLAG_TF,
    BLOCK_SLOTS_K, BLOCK_SLOTS_U)

cdef enum:
    CR0_PE = 0x1
    CR0_MP = 0x2
    CR0_EM = 0x4
    CR0_TS = 0x8
    CR0_ET = 0x10
    CR0_NE = 0x20
    CR0_WP = 0x10000
    CR0_AM = 0x40000
    CR0_NW = 0x20000000
    CR0_CD = 0x40000000
    CR0_PG = 0x80000000

cdef enum:
    CR4_VME = 1 << 0
    CR4_PVI = 1 << 1
    CR4_TSD = 1 << 2
    CR4_DE = 1 << 3
    CR4_PSE = 1 << 4
    CR4_PAE = 1 << 5
    CR4_MCE = 1 << 6
    CR4_PGE = 1 << 7
    CR4_PCE = 1 << 8
    CR4_OSFXSR = 1 << 9
    CR4_OSXMMEXCPT = 1 << 10
    CR4_FSGSBASE = 1 << 16
    CR4_OSXSAVE = 1 << 18

cdef enum:
    EFER_SCE = 1 << 0
    EFER_LME = 1 << 8
    EFER_LMA = 1 << 10
    EFER_NXE = 1 << 11

cdef enum:
    XCR0_X87 = 1
    XCR0_SSE = 2
    XCR0_AVX = 4

cdef enum:
    DR6_BD = 1 << 13
    DR6_BS = 1 << 14
    DR7_ENABLES = 0xFF
    DR7_GD = 1 << 13

# Type bits of a segment's access rights (SDM 3A table 3-1).
cdef enum:
    AR_ACCESSED = 1
    AR_WRITABLE = 2       # data
    AR_READABLE = 2       # code
    AR_EXPAND_DOWN = 4    # data
    AR_CONFORMING = 4     # code
    AR_CODE = 8

cdef inline bint long_mode(CpuState* c) noexcept nogil:
    """IA-32e mode: IA32_EFER.LMA."""
    return (c.efer & EFER_LMA) != 0

cdef inline bint mode64(CpuState* c) noexcept nogil:
    """64-bit mode: IA-32e mode and CS.L."""
    return long_mode(c) and (c.seg[SEG_CS].ar & AR_L) != 0

cdef inline u64 next_rip(CpuState* c, OpInfo* op) noexcept nogil:
    cdef u64 rip = op.rip + op.length
    return rip if mode64(c) else rip & <u64>0xFFFFFFFF

cdef inline void advance(CpuState* c, OpInfo* op) noexcept nogil:
    c.rip = next_rip(c, op)

cdef inline u32 dpl_of(u32 ar) noexcept nogil:
    return (ar >> 5) & 3

cdef inline u32 iopl(CpuState* c) noexcept nogil:
    return <u32>(c.rflags >> 12) & 3

cdef inline void write_gpr(CpuState* c, u32 reg, u64 value, u32 size) noexcept nogil:
    """Writes a general register as an instruction of that operand size does: 32 bits zero-extend."""
    if size == 8:
        c.gpr[reg] = value
    elif size == 4:
        c.gpr[reg] = value & <u64>0xFFFFFFFF
    elif size == 2:
        c.gpr[reg] = (c.gpr[reg] & ~<u64>0xFFFF) | (value & 0xFFFF)
    else:
        c.gpr[reg] = (c.gpr[reg] & ~<u64>0xFF) | (value & 0xFF)
