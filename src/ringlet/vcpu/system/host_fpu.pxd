"""The x87 and vector state in the host's registers, and the buffer that it passes through.

It is the guest's while one of its instructions is performed.
"""
from ringlet.core.state cimport CpuState, u8, u16, u32, u64

cdef extern from * nogil:
    """
    static inline void fp_fxsave(void *area) {
        __asm__ volatile("fxsave64 (%0)" :: "r"(area) : "memory");
    }
    static inline void fp_fxrstor(const void *area) {
        __asm__ volatile("fxrstor64 (%0)" :: "r"(area) : "memory");
    }
    static inline void fp_xsave(void *area, unsigned mask) {
        __asm__ volatile("xsave64 (%0)" :: "r"(area), "a"(mask), "d"(0) : "memory");
    }
    static inline void fp_xrstor(const void *area, unsigned mask) {
        __asm__ volatile("xrstor64 (%0)" :: "r"(area), "a"(mask), "d"(0) : "memory");
    }
    static inline void fp_fnstenv(void *area) {
        __asm__ volatile("fnstenv (%0)" :: "r"(area) : "memory");
    }
    static inline void fp_fldenv(const void *area) {
        __asm__ volatile("fldenv (%0)" :: "r"(area) : "memory");
    }
    static inline void fp_fnsave(void *area) {
        __asm__ volatile("fnsave (%0)" :: "r"(area) : "memory");
    }
    static inline void fp_fldenv_16(const void *area) {
        __asm__ volatile("fldenvs (%0)" :: "r"(area) : "memory");
    }
    static inline void fp_frstor(const void *area) {
        __asm__ volatile("frstor (%0)" :: "r"(area) : "memory");
    }
    static inline void fp_frstor_16(const void *area) {
        __asm__ volatile("frstors (%0)" :: "r"(area) : "memory");
    }
    static inline unsigned fp_mxcsr(void) {
        unsigned value;
        __asm__ volatile("stmxcsr %0" : "=m"(value));
        return value;
    }
    static inline unsigned short fp_status(void) {
        unsigned short value;
        __asm__ volatile("fnstsw %0" : "=a"(value));
        return value;
    }
    """
    void fp_fxsave(void* area) noexcept nogil
    void fp_fxrstor(const void* area) noexcept nogil
    void fp_xsave(void* area, u32 mask) noexcept nogil
    void fp_xrstor(const void* area, u32 mask) noexcept nogil
    void fp_fnstenv(void* area) noexcept nogil
    void fp_fldenv(const void* area) noexcept nogil
    void fp_fnsave(void* area) noexcept nogil
    void fp_fldenv_16(const void* area) noexcept nogil
    void fp_frstor(const void* area) noexcept nogil
    void fp_frstor_16(const void* area) noexcept nogil
    u32 fp_mxcsr() noexcept nogil
    u16 fp_status() noexcept nogil

cdef enum:
    # Offsets in a save area (SDM 1 tables 10-2 and 13-1).
    AREA_FSW = 2
    AREA_FOP = 6
    AREA_FIP = 8
    AREA_FDP = 16
    AREA_MXCSR = 24
    AREA_MXCSR_MASK = 28
    AREA_ST = 32
    AREA_XMM = 160
    AREA_XMM8 = 288
    AREA_RESERVED = 416
    AREA_HEADER = 512
    AREA_AVX = 576
    AREA_END = 832
    FXSAVE_SIZE = 512
    MXCSR_KNOWN = 0xFFFF
    MXCSR_RESET = 0x1F80
    FSW_ES = 0x80


cdef inline u8* save_area(CpuState* c) noexcept nogil:
    """64-byte aligned, behind the image that the run loop keeps at the start of c.xsave."""
    return <u8*>((<u64>&c.xsave[2048]) & ~<u64>63)
