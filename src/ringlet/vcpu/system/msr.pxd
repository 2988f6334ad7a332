"""Model-specific registers of the virtual processor (SDM vol. 4), and the time-stamp counter."""
from ringlet.core.state cimport CpuState, OpInfo, u8, u16, u32, u64

cpdef enum Msr:
    MSR_TSC = 0x10
    MSR_PLATFORM_ID = 0x17
    MSR_APIC_BASE = 0x1B
    MSR_FEATURE_CONTROL = 0x3A
    MSR_TSC_ADJUST = 0x3B
    MSR_SPEC_CTRL = 0x48
    MSR_PRED_CMD = 0x49
    MSR_BIOS_UPDT_TRIG = 0x79
    MSR_BIOS_SIGN_ID = 0x8B
    MSR_PLATFORM_INFO = 0xCE
    MSR_MTRRCAP = 0xFE
    MSR_ARCH_CAPABILITIES = 0x10A
    MSR_FLUSH_CMD = 0x10B
    MSR_SYSENTER_CS = 0x174
    MSR_SYSENTER_ESP = 0x175
    MSR_SYSENTER_EIP = 0x176
    MSR_MCG_CAP = 0x179
    MSR_MCG_STATUS = 0x17A
    MSR_MISC_ENABLE = 0x1A0
    MSR_DEBUGCTL = 0x1D9
    MSR_MTRR_PHYSBASE0 = 0x200
    MSR_MTRR_FIX64K_00000 = 0x250
    MSR_MTRR_FIX16K_80000 = 0x258
    MSR_MTRR_FIX16K_A0000 = 0x259
    MSR_MTRR_FIX4K_C0000 = 0x268
    MSR_MTRR_FIX4K_F8000 = 0x26F
    MSR_PAT = 0x277
    MSR_MTRR_DEF_TYPE = 0x2FF
    MSR_TSC_DEADLINE = 0x6E0
    MSR_X2APIC_FIRST = 0x800
    MSR_X2APIC_LAST = 0x8FF
    MSR_XSS = 0xDA0
    MSR_EFER = 0xC0000080
    MSR_STAR = 0xC0000081
    MSR_LSTAR = 0xC0000082
    MSR_CSTAR = 0xC0000083
    MSR_SFMASK = 0xC0000084
    MSR_FS_BASE = 0xC0000100
    MSR_GS_BASE = 0xC0000101
    MSR_KERNEL_GS_BASE = 0xC0000102
    MSR_TSC_AUX = 0xC0000103

cdef u64 read_tsc(CpuState* c) noexcept nogil
cdef void reset_msrs(CpuState* c) noexcept nogil
cdef int read_msr(CpuState* c, u32 index, u64* value) noexcept nogil
cdef int write_msr(CpuState* c, u32 index, u64 value) noexcept nogil

cdef int op_rdmsr(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_wrmsr(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_rdtsc(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_rdtscp(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_rdpmc(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_rdpid(CpuState* c, OpInfo* op) noexcept nogil
