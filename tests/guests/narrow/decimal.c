/* AAA, AAS, DAA, DAS, AAM, AAD and SALC: results and defined flags for all inputs (SDM 2A, 2B). */
#include "narrow.h"

struct result {
    u32 ax, flags;
};

#define EXECUTE(instruction)                                                                  \
    static struct result instruction##_(u32 ax, u32 flags)                                   \
    {                                                                                         \
        struct result r;                                                                      \
        asm volatile("push %3\npopf\n" #instruction "\npushf\npop %1"                        \
                     : "=a"(r.ax), "=r"(r.flags) : "a"(ax), "r"(flags) : "cc");               \
        return r;                                                                             \
    }
EXECUTE(aaa)
EXECUTE(aas)
EXECUTE(daa)
EXECUTE(das)

static u32 result_flags(u32 al)
{
    u32 parity = al ^ al >> 4;
    parity ^= parity >> 2;
    parity ^= parity >> 1;
    return (al & 0x80 ? F_SF : 0) | (al & 0xFF ? 0 : F_ZF) | (parity & 1 ? 0 : F_PF);
}

/* DAA and DAS, as the SDM's operation sections have them. */
static struct result packed(u32 ax, u32 flags, int sign)
{
    u32 al = ax & 0xFF, old = al, cf = 0, af = 0;
    if ((al & 15) > 9 || flags & F_AF) {
        u32 sum = al + (u32)(6 * sign);
        cf = (flags & F_CF) || sum > 0xFF;
        af = F_AF;
        al = sum & 0xFF;
    }
    if (old > 0x99 || flags & F_CF) {
        al = (al + (u32)(0x60 * sign)) & 0xFF;
        cf = F_CF;
    } else if (sign > 0) {
        cf = 0;
    }
    return (struct result){(ax & 0xFF00) | al, result_flags(al) | af | (cf ? F_CF : 0)};
}

static struct result unpacked(u32 ax, u32 flags, int sign)
{
    u32 carry = 0;
    if ((ax & 15) > 9 || flags & F_AF) {
        ax += (u32)(0x106 * sign);
        carry = F_AF | F_CF;
    }
    return (struct result){ax & 0xFF0F, carry};
}

static void all(const char *what, struct result (*execute)(u32, u32),
                struct result (*model)(u32, u32, int), int sign, u32 defined, u32 step)
{
    u32 wrong = 0, first = 0;
    for (u32 i = 0; i < 4; i++)
        for (u32 ax = 0; ax < 0x10000; ax += step ? (ax & 0xFF) == 0xFF ? step : 1 : 1) {
            u32 flags = 2 | (i & 1 ? F_CF : 0) | (i & 2 ? F_AF : 0);
            struct result got = execute(ax, flags), want = model(ax, flags, sign);
            if (got.ax != want.ax || (got.flags ^ want.flags) & defined)
                if (!wrong++)
                    first = ax | flags << 16;
        }
    check(name("%s.wrong", what), wrong, 0);
    check(name("%s.first-wrong", what), first, 0);
}

#define BASE(text, base) asm volatile(text " $" #base "\npushf\npop %1" : "+a"(ax), "=r"(flags))

static void by_base(void)
{
    u32 wrong_m = 0, wrong_d = 0, ax, flags, defined = F_SF | F_ZF | F_PF;
    for (u32 v = 0; v < 0x100; v++) {
        ax = 0xAA00 | v;
        BASE("aam", 10);
        wrong_m += ax != ((v / 10) << 8 | v % 10) || (flags ^ result_flags(v % 10)) & defined;
        ax = 0xAA00 | v;
        BASE("aam", 255);
        wrong_m += ax != ((v / 255) << 8 | v % 255) || (flags ^ result_flags(v % 255)) & defined;
        ax = 0x5500 | v;
        BASE("aam", 1);
        wrong_m += ax != v << 8 || (flags ^ result_flags(0)) & defined;
        ax = 0x0700 | v;
        BASE("aad", 10);
        wrong_d += ax != ((v + 70) & 0xFF) || (flags ^ result_flags(v + 70)) & defined;
        ax = 0xF900 | v;
        BASE("aad", 255);
        wrong_d += ax != ((v + 0xF9 * 255) & 0xFF) ||
                   (flags ^ result_flags((v + 0xF9 * 255) & 0xFF)) & defined;
        ax = 0xF900 | v;
        BASE("aad", 0);
        wrong_d += ax != v || (flags ^ result_flags(v)) & defined;
    }
    check("aam.wrong", wrong_m, 0);
    check("aad.wrong", wrong_d, 0);
}

static void salc(void)
{
    for (u32 carry = 0; carry < 2; carry++) {
        u32 eax = 0x12345678, flags = 0x8D4 + carry, after;
        asm volatile("push %2\npopf\n.byte 0xD6\npushf\npop %1" : "+a"(eax), "=r"(after)
                     : "r"(flags));
        check(name("salc.carry%u", carry), eax, carry ? 0x123456FF : 0x12345600);
        check(name("salc.carry%u.flags", carry), after & 0x8D5, flags);
    }
}

void guest_main(void)
{
    all("daa", daa_, packed, 1, F_CF | F_AF | F_SF | F_ZF | F_PF, 0x5500);
    all("das", das_, packed, -1, F_CF | F_AF | F_SF | F_ZF | F_PF, 0x5500);
    all("aaa", aaa_, unpacked, 1, F_CF | F_AF, 0x1100);
    all("aas", aas_, unpacked, -1, F_CF | F_AF, 0x1100);
    by_base();
    salc();
    struct code by_zero = CODE32("mov $0x1234, %eax" MARK "aam $0");
    for (int cpl = 0; cpl <= 3; cpl += 3) {
        in_flat(cpl, by_zero);
        run();
        check_fault(name("aam.0.cpl%u", cpl), V_DE, 0);
        check(name("aam.0.eax.cpl%u", cpl), in.eax, 0x1234);
    }
}
