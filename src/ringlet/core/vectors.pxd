"""Transfer of the guest's x87, SSE and AVX state between an XSAVE image and the registers.

XSAVE and XRSTOR of all three take 200 ns together, mostly for x87 state that is not in use; a whole
exit to a Python device takes only twice that.  So if XGETBV tells which components are in use
(SDM 1 13.6), SSE and AVX registers are moved one by one, and x87 state only if it is in use.  As
after XSAVEOPT, an image's XSTATE_BV says which components are valid; `vectors_settle` fills in the
others.
"""
from ringlet.core.state cimport u8

cdef extern from * nogil:
    """
    #include <cpuid.h>
    #include <string.h>

    enum {
        RINGLET_MXCSR = 24, RINGLET_ST = 32, RINGLET_XMM = 160, RINGLET_XSTATE_BV = 512,
        RINGLET_YMM_HIGH = 576
    };
    enum { RINGLET_X87 = 1, RINGLET_SSE = 2, RINGLET_AVX = 4 };

    static inline unsigned ringlet_xgetbv(unsigned which)
    {
        unsigned low, high;
        __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(which));
        return low;
    }

    /* Whether AVX is enabled and XGETBV(1) is available (SDM 1 13.2). */
    static int ringlet_tells_use(void)
    {
        static int known = -1;
        unsigned a, b, c, d;
        if (known < 0) {
            known = __get_cpuid_count(1, 0, &a, &b, &c, &d) && c >> 27 & c >> 28 & 1
                && (ringlet_xgetbv(0) & 7) == 7
                && __get_cpuid_count(13, 1, &a, &b, &c, &d) && a >> 2 & 1;
        }
        return known;
    }

    #define RINGLET_EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) \\
        X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
    #define RINGLET_LOAD_XMM(n) "vmovups 160+16*" #n "(%0), %%xmm" #n "\\n\\t"
    #define RINGLET_LOAD_HIGH(n) \\
        "vinsertf128 $1, 576+16*" #n "(%0), %%ymm" #n ", %%ymm" #n "\\n\\t"
    #define RINGLET_SAVE_XMM(n) "vmovups %%xmm" #n ", 160+16*" #n "(%0)\\n\\t"
    #define RINGLET_SAVE_HIGH(n) "vextractf128 $1, %%ymm" #n ", 576+16*" #n "(%0)\\n\\t"

    static inline void vectors_load(unsigned char *image)
    {
        unsigned held = *(unsigned *)(image + RINGLET_XSTATE_BV);
        if (!ringlet_tells_use()) {
            __asm__ volatile("xrstor64 (%0)" : : "r"(image), "a"(7), "d"(0) : "memory");
            return;
        }
        /* What the host left in x87 registers must not be seen either. */
        if ((held | ringlet_xgetbv(1)) & RINGLET_X87)
            __asm__ volatile("xrstor64 (%0)" : : "r"(image), "a"(RINGLET_X87), "d"(0) : "memory");
        __asm__ volatile("ldmxcsr 24(%0)" : : "r"(image) : "memory");
        __asm__ volatile("vzeroupper\\n\\t" RINGLET_EACH(RINGLET_LOAD_XMM) : : "r"(image) : "memory");
        if (held & RINGLET_AVX)
            __asm__ volatile(RINGLET_EACH(RINGLET_LOAD_HIGH) : : "r"(image) : "memory");
    }

    static inline void vectors_save(unsigned char *image)
    {
        static const unsigned mxcsr = 0x1F80;
        unsigned used = 7;
        if (ringlet_tells_use()) {
            used = (ringlet_xgetbv(1) & 7) | RINGLET_SSE;
            __asm__ volatile("stmxcsr 24(%0)\\n\\t" RINGLET_EACH(RINGLET_SAVE_XMM)
                             : : "r"(image) : "memory");
            if (used & RINGLET_AVX)
                __asm__ volatile(RINGLET_EACH(RINGLET_SAVE_HIGH) "vzeroupper"
                                 : : "r"(image) : "memory");
            if (used & RINGLET_X87)
                __asm__ volatile("xsave64 (%0)" : : "r"(image), "a"(RINGLET_X87), "d"(0) : "memory");
            *(unsigned *)(image + RINGLET_XSTATE_BV) = used;
        } else {
            __asm__ volatile("xsave64 (%0)" : : "r"(image), "a"(7), "d"(0) : "memory");
        }
        if (used & RINGLET_X87)
            __asm__ volatile("fninit");
        __asm__ volatile("ldmxcsr %0" : : "m"(mxcsr));
    }

    /* Write the initial state of the components that an image lacks (SDM 1 13.6), and mark them. */
    static inline void vectors_settle(unsigned char *image)
    {
        unsigned held = *(unsigned *)(image + RINGLET_XSTATE_BV);
        if (!(held & RINGLET_X87)) {
            memset(image, 0, RINGLET_MXCSR);
            memset(image + RINGLET_ST, 0, RINGLET_XMM - RINGLET_ST);
            *(unsigned short *)image = 0x37F;
        }
        if (!(held & RINGLET_SSE))
            memset(image + RINGLET_XMM, 0, 256);
        if (!(held & RINGLET_AVX))
            memset(image + RINGLET_YMM_HIGH, 0, 256);
        *(unsigned *)(image + RINGLET_XSTATE_BV) = 7;
    }
    """
    void vectors_load(u8* image)
    void vectors_save(u8* image)
    void vectors_settle(u8* image)
