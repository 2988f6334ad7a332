"""Bits of CR0, CR4, IA32_EFER and XCR0 (SDM 3A 2.2.1, 2.5, 2.6), for compiled code and Python."""

# The enumerations have names, because in an unnamed one Cython makes bit 31 negative in Python.
cpdef enum Cr0:
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

cpdef enum Cr4:
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

cpdef enum Efer:
    EFER_SCE = 1 << 0
    EFER_LME = 1 << 8
    EFER_LMA = 1 << 10
    EFER_NXE = 1 << 11

cpdef enum Xcr0:
    XCR0_X87 = 1
    XCR0_SSE = 2
    XCR0_AVX = 4
