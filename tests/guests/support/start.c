/* The known state in which every program's guest_main() starts. */
#include "guest.h"

void guest_start(void);
void guest_done(void) __attribute__((noreturn));
void paging_start(void);
void descriptors_start(void);

int is_intel(void)
{
    return cpuid(0, 0).ebx == 0x756E6547; /* "Genu" */
}

int under_tcg(void)
{
    return cpuid(1, 0).ecx >> 31 && cpuid(0x40000000, 0).ebx == 0x54474354; /* "TCGT" */
}

/* So that IF = 1 lets nothing in until a program asks for it: firmware leaves a timer running. */
static void mask_pics(void)
{
    out8(0x21, 0xFF);
    out8(0xA1, 0xFF);
}

void guest_start(void)
{
    write_msr(MSR_EFER, read_msr(MSR_EFER) | EFER_SCE | EFER_NXE);
    write_cr0(CR0_PG | CR0_WP | CR0_NE | CR0_ET | CR0_MP | CR0_PE);
    u64 cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
    if (cpuid(1, 0).ecx & 1 << 26)
        cr4 |= CR4_OSXSAVE;
    write_cr4(cr4);
    if (cr4 & CR4_OSXSAVE)
        asm volatile("xsetbv" :: "c"(0), "a"(cpuid(1, 0).ecx & 1 << 28 ? 7 : 3), "d"(0));
    asm volatile("fninit");
    mask_pics();
    descriptors_start();
    paging_start();
    guest_main();
    guest_done();
}

void *memset(void *to, int value, u64 count)
{
    u8 *p = to;
    for (u64 i = 0; i < count; i++)
        p[i] = (u8)value;
    return to;
}

void *memcpy(void *to, const void *from, u64 count)
{
    u8 *p = to;
    const u8 *q = from;
    for (u64 i = 0; i < count; i++)
        p[i] = q[i];
    return to;
}

int memcmp(const void *a, const void *b, u64 count)
{
    const u8 *p = a, *q = b;
    for (u64 i = 0; i < count; i++)
        if (p[i] != q[i])
            return p[i] - q[i];
    return 0;
}
