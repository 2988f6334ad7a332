"""Bits of debug registers and segment rights (SDM 3A), and predicates on the processor's mode."""
from ringlet.core.state cimport (
    CpuState, OpInfo, u8, u16, u32, u64, i64,
    SEG_CS, SEG_SS, SEG_FS, SEG_GS, AR_L, AR_DB, AR_UNUSABLE, FLAG_TF, FLAG_VM,
    BLOCK_SLOTS_K, BLOCK_SLOTS_U)
# The bits of control registers, for importers that also need the predicates below.
from ringlet.core.control_bits cimport (
    CR0_PE, CR0_MP, CR0_EM, CR0_TS, CR0_ET, CR0_NE, CR0_WP, CR0_AM, CR0_NW, CR0_CD, CR0_PG,
    CR4_VME, CR4_PVI, CR4_TSD, CR4_DE, CR4_PSE, CR4_PAE, CR4_MCE, CR4_PGE, CR4_PCE, CR4_OSFXSR,
    CR4_OSXMMEXCPT, CR4_FSGSBASE, CR4_OSXSAVE, EFER_SCE, EFER_LME, EFER_LMA, EFER_NXE,
    XCR0_X87, XCR0_SSE, XCR0_AVX)

cdef enum:
    DR6_BD = 1 << 13
    DR6_BS = 1 << 14
    DR6_BT = 1 << 15
    DR7_ENABLES = 0xFF
    DR7_LOCAL = 0x155      # L0 to L3 and LE, which a task switch clears (SDM 3B 17.2.4)
    DR7_GD = 1 << 13

cdef enum:
    SYS_32_BIT = 8         # type bit of a TSS or a gate: of 32 bits (or 64), not 16
    TSS_IO_MAP_BASE = 102  # offset of the I/O permission map's offset in a TSS that is not 16-bit

# Type bits of a segment's access rights (SDM 3A table 3-1).
cdef enum:
    AR_ACCESSED = 1
    AR_WRITABLE = 2       # data
    AR_READABLE = 2       # code
    AR_EXPAND_DOWN = 4    # data
    AR_CONFORMING = 4     # code
    AR_CODE = 8

cdef inline bint long_mode(CpuState* c) noexcept nogil:
    """Whether the processor is in IA-32e mode: IA32_EFER.LMA."""
    return (c.arch.efer & EFER_LMA) != 0

cdef inline bint mode64(CpuState* c) noexcept nogil:
    """Whether the processor is in 64-bit mode: IA-32e mode and CS.L."""
    return long_mode(c) and (c.arch.seg[SEG_CS].ar & AR_L) != 0

cdef inline bint real_mode(CpuState* c) noexcept nogil:
    """Whether the processor is in real-address mode: CR0.PE is 0."""
    return (c.arch.cr0 & CR0_PE) == 0

cdef inline bint virtual_8086(CpuState* c) noexcept nogil:
    """Whether the processor is in virtual-8086 mode: RFLAGS.VM, in protected mode."""
    return (c.arch.rflags & FLAG_VM) != 0 and (c.arch.cr0 & CR0_PE) != 0

cdef inline bint paragraphs(CpuState* c) noexcept nogil:
    """Whether selectors are paragraph numbers, not descriptors: real and virtual-8086 mode."""
    return (c.arch.cr0 & CR0_PE) == 0 or (c.arch.rflags & FLAG_VM) != 0

cdef inline bint code64(CpuState* c, u32 ar) noexcept nogil:
    """Whether code with these rights runs in 64-bit mode; outside IA-32e mode L is ignored."""
    return long_mode(c) and (ar & AR_L) != 0

cdef inline u64 next_rip(CpuState* c, OpInfo* op) noexcept nogil:
    cdef u64 rip = op.rip + op.length
    return rip if mode64(c) else rip & <u64>0xFFFFFFFF

cdef inline void advance(CpuState* c, OpInfo* op) noexcept nogil:
    c.arch.rip = next_rip(c, op)

cdef inline u32 dpl_of(u32 ar) noexcept nogil:
    return (ar >> 5) & 3

cdef inline u32 iopl(CpuState* c) noexcept nogil:
    return <u32>(c.arch.rflags >> 12) & 3

cdef inline void write_gpr(CpuState* c, u32 reg, u64 value, u32 size) noexcept nogil:
    """Write a general register as an instruction of that operand size does: 32 bits zero-extend."""
    if size == 8:
        c.arch.gpr[reg] = value
    elif size == 4:
        c.arch.gpr[reg] = value & <u64>0xFFFFFFFF
    elif size == 2:
        c.arch.gpr[reg] = (c.arch.gpr[reg] & ~<u64>0xFFFF) | (value & 0xFFFF)
    else:
        c.arch.gpr[reg] = (c.arch.gpr[reg] & ~<u64>0xFF) | (value & 0xFF)
