/* Images of the vector and x87 state. */
#include "selftest.h"

enum { FCW = 0, FTW = 4, MXCSR = 24, ST = 32, XMM = 160, HEADER = 512, YMM = 576 };

u64 fp_mask(void)
{
    return has_avx() ? 7 : 3;
}

void fill_fp(u8 *image, u8 seed)
{
    memset(image, 0, FP_SIZE);
    *(u16 *)(image + FCW) = 0x0A7F;         /* double precision, rounding up */
    image[FTW] = 0xFF;
    *(u32 *)(image + MXCSR) = 0x5FA0;       /* rounding up, precision flag */
    for (int i = 0; i < 8; i++) {
        for (int k = 0; k < 8; k++)
            image[ST + 16 * i + k] = (u8)(seed + 11 * i + k);
        image[ST + 16 * i + 7] |= 0x80;
        *(u16 *)(image + ST + 16 * i + 8) = (u16)(0x3FFF + i);
    }
    for (int i = 0; i < 256; i++) {
        image[XMM + i] = (u8)(seed + 5 * i + (i >> 4));
        image[YMM + i] = (u8)(seed + 3 * i + 0x80 + (i >> 4));
    }
    *(u64 *)(image + HEADER) = fp_mask();
}

void check_fp(const char *name, const u8 *got, const u8 *want)
{
    same(name, *(const u16 *)(got + FCW), *(const u16 *)(want + FCW));
    same(name, got[FTW], want[FTW]);
    same(name, *(const u32 *)(got + MXCSR), *(const u32 *)(want + MXCSR));
    for (int i = 0; i < 8; i++)
        if (memcmp(got + ST + 16 * i, want + ST + 16 * i, 10))
            fail("%s: st%d", name, i);
    for (int i = 0; i < 16; i++) {
        if (memcmp(got + XMM + 16 * i, want + XMM + 16 * i, 16))
            fail("%s: xmm%d", name, i);
        if (has_avx() && memcmp(got + YMM + 16 * i, want + YMM + 16 * i, 16))
            fail("%s: the upper half of ymm%d", name, i);
    }
}

void clobber_fp(void)
{
    static u8 image[FP_SIZE] ALIGNED(64);
    fill_fp(image, 0x77);
    *(u16 *)(image + FCW) = 0x037F;
    *(u32 *)(image + MXCSR) = 0x1F80;
    asm volatile("xrstor (%0)" :: "r"(image), "a"((u32)fp_mask()), "d"(0) : "memory");
}
