from enum import IntEnum

class Cr0(IntEnum):
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

class Cr4(IntEnum):
    CR4_VME = 0x1
    CR4_PVI = 0x2
    CR4_TSD = 0x4
    CR4_DE = 0x8
    CR4_PSE = 0x10
    CR4_PAE = 0x20
    CR4_MCE = 0x40
    CR4_PGE = 0x80
    CR4_PCE = 0x100
    CR4_OSFXSR = 0x200
    CR4_OSXMMEXCPT = 0x400
    CR4_FSGSBASE = 0x10000
    CR4_OSXSAVE = 0x40000

class Efer(IntEnum):
    EFER_SCE = 0x1
    EFER_LME = 0x100
    EFER_LMA = 0x400
    EFER_NXE = 0x800

class Xcr0(IntEnum):
    XCR0_X87 = 1
    XCR0_SSE = 2
    XCR0_AVX = 4
