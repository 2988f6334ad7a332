/* Accesses and instructions that lie across two pages, of which one is absent or read-only. */
#include "selftest.h"

static u8 *two;     /* two pages */

static void both(int first, int second)
{
    if (!two)
        two = pages(3, PROT_READ | PROT_WRITE);
    MUST(mprotect(two, PAGE, PROT_READ | PROT_WRITE));
    MUST(mprotect(two + PAGE, PAGE, PROT_READ | PROT_WRITE));
    memset(two, 0x11, PAGE);
    memset(two + PAGE, 0x22, PAGE);
    MUST(mprotect(two, PAGE, first));
    MUST(mprotect(two + PAGE, PAGE, second));
}

/* What an access of `size` bytes that begins `before` bytes before the second page meets. */
struct access {
    const char *name;
    void *code;
    u64 size;
    int writes;
    int probes;         /* reads first: a fault may say so */
};

static struct registers registers_for(const struct access *a, u64 address)
{
    static u8 fp[FP_SIZE] ALIGNED(64);
    struct registers c = at(a->code);
    fill_fp(fp, 1);
    for (int i = 0; i < 16; i++)
        if (i != RSP)
            c.r[i] = 0x0707070707070707;
    c.r[RDI] = address;
    c.r[RSI] = (u64)fp + 160;
    return c;
}

/* The address must be the first byte that cannot be had. */
static void check_denied(const struct access *a, u64 address, u64 where, u64 error)
{
    struct registers c = registers_for(a, address);
    run(&c);
    if (a->probes && caught.number == SIGSEGV && caught.error == (error & ~(u64)PF_W))
        error = caught.error;
    check_pf(a->name, code_mark(a->code), error, where);
    for (int i = 0; i < 16; i++)
        same(a->name, caught.c.r[i], c.r[i]);
}

static void check_access(const struct access *a)
{
    u64 write = a->writes ? PF_W : 0;
    for (u64 before = 1; before < a->size; before++) {
        both(PROT_READ | PROT_WRITE, PROT_NONE);
        u64 second = (u64)two + PAGE, address = second - before;
        check_denied(a, address, second, PF_U | write);
        for (u64 i = 0; a->writes && i < before; i++)
            same("a byte of the first page", two[PAGE - 1 - i], 0x11);
        both(PROT_NONE, PROT_READ | PROT_WRITE);
        check_denied(a, address, address, PF_U | write);
        for (u64 i = 0; a->writes && i < 64; i++)
            same("a byte of the second page", two[PAGE + i], 0x22);
        if (a->writes) {
            both(PROT_READ | PROT_WRITE, PROT_READ);
            check_denied(a, address, second, PF_P | PF_U | PF_W);
            both(PROT_READ, PROT_READ | PROT_WRITE);
            check_denied(a, address, address, PF_P | PF_U | PF_W);
        }
        both(PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE);
        struct registers c = registers_for(a, address);
        run(&c);
        check_end(a->name, a->code);
    }
}

static void check_accesses(const struct access *accesses, size_t count)
{
    for (size_t i = 0; i < count; i++)
        check_access(&accesses[i]);
}

TEST(crossing, loads)
{
    const struct access accesses[] = {
        { "mov 2", CODE(MARK "mov (%rdi), %ax"), 2, 0, 0 },
        { "mov 4", CODE(MARK "mov (%rdi), %eax"), 4, 0, 0 },
        { "mov 8", CODE(MARK "mov (%rdi), %rax"), 8, 0, 0 },
        { "add 8", CODE(MARK "add (%rdi), %rax"), 8, 0, 0 },
        { "cmp 4", CODE(MARK "cmpl $5, (%rdi)"), 4, 0, 0 },
        { "movzx", CODE(MARK "movzwl (%rdi), %r9d"), 2, 0, 0 },
        { "bt", CODE(MARK "btq $3, (%rdi)"), 8, 0, 0 },
        { "movups", CODE(MARK "movups (%rdi), %xmm1"), 16, 0, 0 },
        { "movsd", CODE(MARK "movsd (%rdi), %xmm1"), 8, 0, 0 },
        { "fldl", CODE(MARK "fldl (%rdi); fstp %st(0)"), 8, 0, 0 },
    };
    check_accesses(accesses, COUNT(accesses));
}

TEST(crossing, stores)
{
    const struct access accesses[] = {
        { "mov 2", CODE(MARK "mov %ax, (%rdi)"), 2, 1, 0 },
        { "mov 4", CODE(MARK "mov %eax, (%rdi)"), 4, 1, 0 },
        { "mov 8", CODE(MARK "mov %rax, (%rdi)"), 8, 1, 0 },
        { "mov imm", CODE(MARK "movq $7, (%rdi)"), 8, 1, 0 },
        { "movups", CODE(MARK "movups %xmm1, (%rdi)"), 16, 1, 0 },
        { "fstpl", CODE("fld1;" MARK "fstpl (%rdi)"), 8, 1, 0 },
        { "movnti", CODE(MARK "movnti %rax, (%rdi)"), 8, 1, 0 },
    };
    check_accesses(accesses, COUNT(accesses));
}

TEST(crossing, reads_and_writes)
{
    const struct access accesses[] = {
        { "add", CODE(MARK "add %rax, (%rdi)"), 8, 1, 1 },
        { "inc", CODE(MARK "incl (%rdi)"), 4, 1, 1 },
        { "lock xadd", CODE("mov %rax, %r8;" MARK "lock xadd %r8, (%rdi)"), 8, 1, 1 },
        { "bts", CODE(MARK "btsl $3, (%rdi)"), 4, 1, 1 },
        { "shl", CODE(MARK "shlw $3, (%rdi)"), 2, 1, 1 },
    };
    struct access a;
    for (size_t i = 0; i < COUNT(accesses); i++)
        if (i != 2)
            check_access(&accesses[i]);
    /* XADD's register is written with the sum's first operand: look at the memory alone. */
    a = accesses[2];
    for (u64 before = 1; before < a.size; before++) {
        both(PROT_READ | PROT_WRITE, PROT_NONE);
        struct registers c = registers_for(&a, (u64)two + PAGE - before);
        run(&c);
        SAME(caught.number, SIGSEGV);
        SAME(caught.c.r[R8], c.r[RAX]);
        SAME(two[PAGE - 1], 0x11);
    }
}

TEST(crossing, vectors)
{
    if (!has_avx())
        skip("no AVX");
    const struct access accesses[] = {
        { "vmovups load", CODE(MARK "vmovups (%rdi), %ymm1"), 32, 0, 0 },
        { "vmovups store", CODE(MARK "vmovups %ymm1, (%rdi)"), 32, 1, 0 },
        { "vaddps", CODE(MARK "vaddps (%rdi), %ymm0, %ymm1"), 32, 0, 0 },
    };
    check_accesses(accesses, COUNT(accesses));
}

/* PUSH, CALL and POP leave RSP as it was. */
TEST(crossing, stack)
{
    void *codes[] = { CODE(MARK "push %rax"), CODE(MARK "call 774f"), CODE(MARK "pushfq"),
                      CODE(MARK "pop %rax"), CODE(MARK "ret"), CODE(MARK "popfq") };
    for (size_t i = 0; i < COUNT(codes); i++)
        for (u64 before = 1; before < 8; before++) {
            both(PROT_READ | PROT_WRITE, PROT_NONE);
            struct registers c = at(codes[i]);
            c.r[RSP] = (u64)two + PAGE - before + (i < 3 ? 8 : 0);
            run(&c);
            check_pf("second", code_mark(codes[i]), PF_U | (i < 3 ? PF_W : 0), (u64)two + PAGE);
            SAME(caught.c.r[RSP], c.r[RSP]);
            SAME(caught.c.r[RAX], 0);
            both(PROT_NONE, PROT_READ | PROT_WRITE);
            run(&c);
            check_pf("first", code_mark(codes[i]), PF_U | (i < 3 ? PF_W : 0),
                     (u64)two + PAGE - before);
            SAME(caught.c.r[RSP], c.r[RSP]);
        }
}

/* Repeated string instructions stop where they cannot go on, with the registers of that step. */
TEST(crossing, strings)
{
    static u8 source[64];
    void *movs = CODE(MARK "rep movsb"), *stos = CODE(MARK "rep stosq"), *lods = CODE(MARK "rep lodsb"),
         *back = CODE("std;" MARK "rep movsb");
    both(PROT_READ | PROT_WRITE, PROT_NONE);
    u64 second = (u64)two + PAGE;
    struct registers c = at(movs);
    c.r[RSI] = (u64)source;
    c.r[RDI] = second - 10;
    c.r[RCX] = 30;
    run(&c);
    check_pf("movs", code_mark(movs), PF_U | PF_W, second);
    SAME(caught.c.r[RCX], 20);
    SAME(caught.c.r[RDI], second);
    SAME(caught.c.r[RSI], (u64)source + 10);
    c = at(movs);
    c.r[RSI] = second - 10;
    c.r[RDI] = (u64)source;
    c.r[RCX] = 30;
    run(&c);
    check_pf("movs", code_mark(movs), PF_U, second);
    SAME(caught.c.r[RCX], 20);
    SAME(caught.c.r[RSI], second);
    both(PROT_READ | PROT_WRITE, PROT_NONE);
    c = at(stos);
    c.r[RDI] = second - 28;
    c.r[RCX] = 5;
    run(&c);
    check_pf("stos", code_mark(stos), PF_U | PF_W, second);
    SAME(caught.c.r[RCX], 2);
    SAME(caught.c.r[RDI], second - 4);
    SAME(two[PAGE - 4], 0x11);
    c = at(lods);
    c.r[RSI] = second - 3;
    c.r[RCX] = 9;
    run(&c);
    check_pf("lods", code_mark(lods), PF_U, second);
    SAME(caught.c.r[RCX], 6);
    both(PROT_NONE, PROT_READ | PROT_WRITE);
    c = at(back);
    c.r[RSI] = (u64)source + 40;
    c.r[RDI] = second + 4;
    c.r[RCX] = 20;
    run(&c);
    check_pf("backwards", code_mark(back), PF_U | PF_W, second - 1);
    SAME(caught.c.r[RCX], 15);
    SAME(caught.c.r[RDI], second - 1);
    SAME(caught.c.r[RSI], (u64)source + 35);
}

static int allow(struct caught *c, ucontext_t *frame)
{
    (void)frame;
    if (c->number != SIGSEGV)
        return 0;
    MUST(mprotect((void *)(c->cr2 & ~(PAGE - 1)), PAGE, PROT_READ | PROT_WRITE));
    return 1;
}

/* The same, with a handler that lets it go on. */
TEST(crossing, repaired)
{
    void *code = CODE("mov $0x5A, %eax; rep stosb; addq $1, (%rsi)");
    on_signal = allow;
    for (int i = 0; i < 50; i++) {
        both(PROT_NONE, PROT_NONE);
        struct registers c = at(code);
        c.r[RDI] = (u64)two + 100;
        c.r[RCX] = 2 * PAGE - 200;
        c.r[RSI] = (u64)two + PAGE - 5;
        run(&c);
        check_end("stos", code);
        SAME(caught.count, 3);
        SAME(two[99], 0x11);
        SAME(two[2 * PAGE - 101], 0x5A);
        SAME(two[2 * PAGE - 100], 0x22);
        SAME(*(u64 *)(two + PAGE - 5), 0x5A5A5A5A5A5A5A5B);
    }
}

TEST(crossing, instructions)
{
    static const struct { u8 bytes[16]; u64 length; } codes[] = {
        { { 0x48, 0xB8, 1, 2, 3, 4, 5, 6, 7, 8 }, 10 },             /* mov $..., %rax */
        { { 0xE8, 0, 0, 0, 0 }, 5 },                                /* call next */
        { { 0xE9, 0, 0, 0, 0 }, 5 },                                /* jmp next */
        { { 0x0F, 0x84, 0, 0, 0, 0 }, 6 },                          /* jz next */
        { { 0x0F, 0xA2 }, 2 },                                      /* cpuid */
        { { 0x9C, 0x48, 0x83, 0xC4, 0x08 }, 5 },                    /* pushfq; add $8, %rsp */
        { { 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x0F, 0x1F, 0x84, 0, 0, 0, 0, 0, 0x90 }, 14 },
    };
    u8 *p = pages(2, PROT_READ | PROT_WRITE | PROT_EXEC);
    for (size_t i = 0; i < COUNT(codes); i++)
        for (u64 before = 1; before < codes[i].length; before++) {
            u8 *start = p + PAGE - before;
            memcpy(start, codes[i].bytes, codes[i].length);
            start[codes[i].length] = 0xCC;
            MUST(mprotect(p + PAGE, PAGE, PROT_NONE));
            run_bytes(start);
            SAME(caught.number, SIGSEGV);
            SAME(caught.cr2, (u64)p + PAGE);
            SAME(caught.error, PF_U | PF_I);
            CHECK(caught.c.rip >= (u64)start && caught.c.rip <= (u64)p + PAGE);
            MUST(mprotect(p + PAGE, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC));
            run_bytes(start);
            SAME(caught.number, SIGTRAP);
            SAME(caught.c.rip, (u64)start + codes[i].length + 1);
            /* And away again. */
            MUST(mprotect(p + PAGE, PAGE, PROT_NONE));
            run_bytes(start);
            SAME(caught.number, SIGSEGV);
            SAME(caught.cr2, (u64)p + PAGE);
            MUST(mprotect(p + PAGE, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC));
        }
}

/* A plain run from one page to the next, which comes and goes. */
TEST(crossing, falling_through)
{
    u8 *p = pages(2, PROT_READ | PROT_WRITE | PROT_EXEC);
    memset(p, 0x90, 2 * PAGE);
    p[PAGE + 8] = 0xCC;
    for (int i = 0; i < 100; i++) {
        run_bytes(p + PAGE - 8);
        SAME(caught.c.rip, (u64)p + PAGE + 9);
        MUST(mprotect(p + PAGE, PAGE, PROT_NONE));
        run_bytes(p + PAGE - 8);
        check_pf("next page", (u64)p + PAGE, PF_U | PF_I, (u64)p + PAGE);
        MUST(mprotect(p + PAGE, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC));
    }
}
