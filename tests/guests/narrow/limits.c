/* Limits of code segments: straight lines and branches that reach the end, found translated with
   another limit before (SDM 3A 5.3; 2A 2.3.7: an instruction beyond the limit is not begun). */
#include "narrow.h"

enum { CODE = FREE };

static void at_limit(const char *what, struct code code, u32 bytes, u32 access, u32 limit,
                     u32 eax, u32 eip)
{
    set_segment(CODE, code.start, bytes ? limit : 0xFFFFF, access | RING3 | XR);
    in_flat(3, code);
    in.cs = CODE | 3;
    in.eip = 0;
    run();
    check(what, vector << 16 | error, bytes ? V_GP << 16 : V_END << 16);
    check(name("%s.eax", what), in.eax, eax);
    check(name("%s.eip", what), in.eip, eip);
}

/* One byte for each INC: the number of them that run tells where the line has ended. */
static void lines(void)
{
    static const u32 counts[] = { 0, 10, 40, 5, 199, 64, 0, 63, 65, 1, 128, 0, 200 };
    struct code line32 = CODE32(".rept 200\ninc %eax\n.endr");
    struct code line16 = CODE16(".rept 200\ninc %ax\n.endr");
    for (u32 pass = 0; pass < 2; pass++)
        for (u32 i = 0; i < COUNT(counts); i++) {
            u32 n = counts[i];
            const char *what = name("line.%u.%u", pass ? 16 : 32, i);
            at_limit(what, pass ? line16 : line32, n, pass ? 0 : BIG, n - 1, n ? n : 200,
                     n ? n : 202);
        }
}

/* An instruction of five bytes whose end is beyond the limit is not begun. */
static void crossings(void)
{
    struct code code = CODE32("inc %eax\nmov $0x12345678, %eax\ninc %eax");
    for (u32 limit = 0; limit < 8; limit++)
        at_limit(name("crossing.%u", limit), code, 1, BIG, limit,
                 limit < 5 ? 1 : limit < 6 ? 0x12345678 : 0x12345679,
                 limit < 5 ? 1 : limit < 6 ? 6 : 7);
    at_limit("crossing.whole", code, 0, BIG, 0, 0x12345679, 9);
}

/* A loop within the limit, left by a branch beyond it. */
static void branches(void)
{
    struct code code = CODE32("1: inc %eax\ncmp $3, %eax\njb 1b\njmp 2f\n"
                              ".fill 20, 1, 0x90\n2: nop");
    struct code taken = CODE32("inc %eax\nstc\njc 2f\n.fill 20, 1, 0x90\n2: nop");
    struct code not_taken = CODE32("inc %eax\nclc\njc 2f\ninc %eax\n.fill 20, 1, 0x90\n2: nop");
    for (u32 i = 0; i < 2; i++) {
        at_limit(name("branch.jmp.%u", i), code, 1, BIG, 20, 3, 6);
        at_limit(name("branch.jmp.whole.%u", i), code, 0, BIG, 0, 3, 31);
        at_limit(name("branch.jc.%u", i), taken, 1, BIG, 20, 1, 2);
        at_limit(name("branch.jc.whole.%u", i), taken, 0, BIG, 0, 1, 27);
        at_limit(name("branch.not-taken.%u", i), not_taken, 1, BIG, 10, 2, 11);
    }
}

/* Code that is written before each run, with a limit that changes, too: its page becomes hot. */
static void rewritten(void)
{
    struct code code = CODE32("mov $0, %eax\n.rept 30\ninc %eax\n.endr\n.fill 10, 1, 0x90");
    u32 wrong = 0;
    for (u32 i = 0; i < 300; i++) {
        u32 limit = i % 7 == 0 ? 100 : i * 11 % 40;     /* 0 to 3: not even the MOV is within */
        u32 incs = limit < 4 ? 0 : limit - 4 < 30 ? limit - 4 : 30;
        DATA32(code.start + 1) = i * 0x01010101;
        set_segment(CODE, code.start, limit, XR | BIG | RING3);
        in_flat(3, code);
        in.cs = CODE | 3;
        in.eip = 0;
        in.eax = 0x5A;
        run();
        wrong += in.eax != (limit < 4 ? 0x5A : i * 0x01010101 + incs);
        wrong += (vector << 16 | error) != (limit >= 46 ? V_END << 16 : V_GP << 16);
        wrong += in.eip != (limit >= 46 ? 47 : limit < 4 ? 0 : limit + 1);
    }
    check("rewritten.wrong", wrong, 0);
}

/* The end of 64 KiB, where the line begins at FFF0h. */
static void end_of_64k(void)
{
    struct code code = CODE16(".balign 16\n77:78: .rept 24\ninc %ax\n.endr");
    struct code cross = CODE16(".balign 16\n77:78: .rept 14\ninc %ax\n.endr\n"
                               "mov $0x1234, %ax\ninc %ax");
    struct code codes[] = { code, cross };
    for (u32 i = 0; i < 2; i++)
        for (u32 mode = 0; mode < 3; mode++) {
            const char *what = name("64k.%s.%u", i ? "crossing" : "line", mode);
            u32 start = codes[i].start, ran = i ? 14 : 16;
            if (mode == 2) {
                in_v86(3, codes[i]);
                in.cs = (start - SNIPPETS + LOW - 0xFFF0) / 16;
            } else {
                set_segment(CODE, start - 0xFFF0, 0xFFFF, XR | RING3 | (mode ? BIG : 0));
                in_16(3, codes[i]);
                in.cs = CODE | 3;
            }
            if (mode == 1)
                ran = i ? 14 : 16;      /* as 32-bit code: INC EAX, and MOV EAX of five bytes */
            in.eip = 0xFFF0;
            run();
            check(what, vector << 16 | error, V_GP << 16);
            check(name("%s.eax", what), in.eax, ran);
            check(name("%s.eip", what), in.eip, i ? 0xFFFE : 0x10000);
        }

    struct code call = CODE16(".balign 16\n77:78: .fill 13, 1, 0x90\ncall .+3+0x4000");
    in_v86(3, call);
    in.cs = (call.start - SNIPPETS + LOW - 0xFFF0) / 16;
    in.eip = 0xFFF0;
    DATA16(in.cs * 16 + 0x4000) = 0x81CD;       /* IP wraps: the call is from FFFDh to 4000h */
    run();
    check_end("64k.call-wraps");
    check("64k.call-wraps.ip", in.eip, 0x4002);
    check("64k.call-wraps.pushed", DATA16(DATA_V86 + STACK - 2), 0);
}

void guest_main(void)
{
    lines();
    crossings();
    branches();
    rewritten();
    end_of_64k();
}
