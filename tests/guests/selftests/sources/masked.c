/* Vector accesses of which some elements are masked off: these touch nothing. */
#include "selftest.h"

static u8 *two;         /* a page, and one that is absent */

static void prepare(void)
{
    if (!has_avx() || !(cpuid(7, 0).ebx >> 5 & 1))
        skip("no AVX2");
    two = pages(2, PROT_READ | PROT_WRITE);
    for (u32 i = 0; i < PAGE / 4; i++)
        ((u32 *)two)[i] = i;
    MUST(mprotect(two + PAGE, PAGE, PROT_NONE));
}

static u8 image[FP_SIZE] ALIGNED(64);

/* The mask is in ymm1: `count` elements of 32 bits from number `first` on. */
static struct registers with_mask(const void *code, int first, int count)
{
    struct registers c = at(code);
    fill_fp(image, 9);
    for (int i = 0; i < 8; i++) {
        u32 on = i >= first && i < first + count ? 0x80000000 : 0;
        memcpy(image + (i < 4 ? 176 + 4 * i : 576 + 16 + 4 * (i - 4)), &on, 4);
    }
    c.r[RDI] = (u64)image;
    c.r[RAX] = fp_mask();
    return c;
}

TEST(masked, loads)
{
    prepare();
    void *code = CODE(FP_RESTORE MARK "vmaskmovps (%rsi), %ymm1, %ymm2; vmovd %xmm2, %ebx");
    for (int inside = 1; inside < 8; inside++) {
        struct registers c = with_mask(code, 0, inside);
        c.r[RSI] = (u64)two + PAGE - 4ul * (u64)inside;
        run(&c);
        check_end("only elements that are there", code);
        SAME(caught.c.r[RBX], PAGE / 4 - (u64)inside);
        c = with_mask(code, 0, inside + 1);
        c.r[RSI] = (u64)two + PAGE - 4ul * (u64)inside;
        run(&c);
        check_pf("one more", code_mark(code), PF_U, (u64)two + PAGE);
    }
    struct registers c = with_mask(code, 0, 0);
    c.r[RSI] = (u64)two + PAGE;
    run(&c);
    check_end("none", code);
    SAME(caught.c.r[RBX], 0);
}

TEST(masked, stores)
{
    prepare();
    void *code = CODE(FP_RESTORE MARK "vmaskmovps %ymm3, %ymm1, (%rsi)");
    for (int inside = 1; inside < 8; inside++) {
        u32 *last = (u32 *)(two + PAGE) - inside;
        struct registers c = with_mask(code, 1, inside - 1);
        c.r[RSI] = (u64)last;
        *last = 0x77;
        run(&c);
        check_end("only elements that are there", code);
        SAME(*last, 0x77);
        if (inside > 1)
            SAME(memcmp(last + 1, image + 160 + 48 + 4, 4), 0);
        c = with_mask(code, inside, 1);
        c.r[RSI] = (u64)last;
        run(&c);
        check_pf("one more", code_mark(code), PF_U | PF_W, (u64)two + PAGE);
    }
}

/* A gather that faults has done the elements before, and says so in its mask. */
TEST(masked, gather)
{
    prepare();
    static u32 indices[8] ALIGNED(32);
    void *code = CODE("vmovdqa (%rdx), %ymm2; vpcmpeqd %ymm1, %ymm1, %ymm1\n"
                      "vpxor %ymm0, %ymm0, %ymm0;" MARK "vpgatherdd %ymm1, (%rsi,%ymm2,4), %ymm0");
    for (int bad = 0; bad < 8; bad++) {
        for (int i = 0; i < 8; i++)
            indices[i] = i == bad ? PAGE / 4 : 10 * (u32)i;
        struct registers c = at(code);
        c.r[RDX] = (u64)indices;
        c.r[RSI] = (u64)two;
        run(&c);
        check_pf("gather", code_mark(code), PF_U, (u64)two + PAGE);
        for (int i = 0; i < 8; i++) {
            u32 done, mask;
            memcpy(&done, caught.fp + (i < 4 ? 160 + 4 * i : 576 + 4 * (i - 4)), 4);
            memcpy(&mask, caught.fp + (i < 4 ? 176 + 4 * i : 576 + 16 + 4 * (i - 4)), 4);
            if (i < bad)
                same("an element that was done", mask, 0);
            if (!mask)
                same("an element", done, 10 * (u64)i);
        }
    }
}

static int allow(struct caught *c, ucontext_t *frame)
{
    (void)frame;
    if (c->number != SIGSEGV)
        return 0;
    MUST(mprotect(two + PAGE, PAGE, PROT_READ));
    return 1;
}

/* It goes on where it was. */
TEST(masked, gather_repaired)
{
    prepare();
    static u32 indices[8] ALIGNED(32) = { 5, 6, 1024, 7, 1025, 8, 9, 1026 };
    void *code = CODE("vmovdqa (%rdx), %ymm2; vpcmpeqd %ymm1, %ymm1, %ymm1\n"
                      "vpgatherdd %ymm1, (%rsi,%ymm2,4), %ymm0; vmovdqu %ymm0, (%rdi)");
    u32 got[8];
    struct registers c = at(code);
    c.r[RDX] = (u64)indices;
    c.r[RSI] = (u64)two;
    c.r[RDI] = (u64)got;
    on_signal = allow;
    run(&c);
    check_end("gather", code);
    SAME(caught.count, 2);
    for (int i = 0; i < 8; i++)
        SAME(got[i], indices[i] < 1024 ? indices[i] : 0);
}

/* What names an address without accessing it, or only hints at it, faults nowhere. */
TEST(masked, hints)
{
    static const u64 places[] = { 0, 0x10, KERNEL_ADDRESS, NON_CANONICAL };
    void *code = CODE("prefetcht0 (%rdi); prefetchnta (%rdi); prefetchw (%rdi); nopl (%rdi)\n"
                      "lea (%rdi), %rax; nopw 8(%rdi,%rax,2)");
    for (size_t i = 0; i < COUNT(places); i++) {
        struct registers c = at(code);
        c.r[RDI] = places[i];
        run(&c);
        check_end("hints", code);
    }
    void *flush = CODE(MARK "clflush (%rdi)");
    struct registers c = at(flush);
    c.r[RDI] = 0x10;
    run(&c);
    check_pf("clflush", code_mark(flush), PF_U, 0x10);
}

/* A comparison that fails writes all the same: what it was. */
TEST(masked, compare_and_exchange)
{
    prepare();
    MUST(mprotect(two, PAGE, PROT_READ));
    void *codes[] = { CODE(MARK "cmpxchg %ecx, (%rdi)"), CODE(MARK "lock cmpxchg %ecx, (%rdi)"),
                      CODE(MARK "lock cmpxchg8b (%rdi)"), CODE(MARK "lock cmpxchg16b (%rdi)") };
    for (size_t i = 0; i < COUNT(codes); i++) {
        struct registers c = at(codes[i]);
        c.r[RDI] = (u64)two + 64;
        c.r[RAX] = 0x12345;
        run(&c);
        check_pf("read-only", code_mark(codes[i]), PF_P | PF_U | PF_W, (u64)two + 64);
        SAME(caught.c.r[RAX], 0x12345);
    }
}
