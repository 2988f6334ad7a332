/* Divisions: what they give just inside the limits, and SIGFPE beyond. */
#include "selftest.h"

struct division {
    const char *name;
    void *code;
    u64 rdx, rax, rcx;
};

static void check_all(const struct division *cases, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct registers c = at(cases[i].code);
        c.r[RDX] = cases[i].rdx;
        c.r[RAX] = cases[i].rax;
        c.r[RCX] = cases[i].rcx;
        c.r[R9] = cases[i].rcx;
        c.r[RBX] = 0xBB;
        run(&c);
        check_fault(cases[i].name, cases[i].code, SIGFPE, V_DE, 0);
        same(cases[i].name, (u64)caught.code, FPE_INTDIV);
        same(cases[i].name, caught.address, code_mark(cases[i].code));
        same(cases[i].name, caught.c.r[RAX], cases[i].rax);
        same(cases[i].name, caught.c.r[RDX], cases[i].rdx);
        same(cases[i].name, caught.c.r[RBX], 0xBB);
    }
}

TEST(divide, by_zero)
{
    const struct division cases[] = {
        { "div8", CODE(MARK "div %cl"), 1, 0x1234, 0 },
        { "div-ah", CODE(MARK "div %ch"), 1, 0x1234, 0xFF },
        { "div16", CODE(MARK "div %cx"), 0, 5, 0xFFFF0000 },
        { "div32", CODE(MARK "div %ecx"), 0, 5, 0xFFFFFFFF00000000 },
        { "div64", CODE(MARK "div %rcx"), 0, 5, 0 },
        { "idiv8", CODE(MARK "idiv %cl"), 0, 5, 0 },
        { "idiv32", CODE(MARK "idiv %r9d"), 0, 5, 0 },
        { "idiv64", CODE("nop; nop;" MARK "idiv %r9"), 0, 5, 0 },
        { "memory", CODE("movq $0, (%rsp);" MARK "divq (%rsp)"), 0, 5, 0 },
    };
    check_all(cases, COUNT(cases));
}

TEST(divide, quotient_too_large)
{
    const struct division cases[] = {
        { "div8", CODE(MARK "div %cl"), 0, 0x100, 1 },
        { "div16", CODE(MARK "div %cx"), 1, 0, 1 },
        { "div32", CODE(MARK "div %ecx"), 7, 0, 7 },
        { "div64", CODE(MARK "div %rcx"), 7, 0, 7 },
        { "idiv8", CODE(MARK "idiv %cl"), 0, 0x80, 1 },
        { "idiv8 by -1", CODE(MARK "idiv %cl"), 0, 0xFF80, 0xFF },
        { "idiv16 by -1", CODE(MARK "idiv %cx"), 0xFFFF, 0x8000, 0xFFFF },
        { "idiv32 by -1", CODE(MARK "idiv %ecx"), 0xFFFFFFFF, 0x80000000, 0xFFFFFFFF },
        { "idiv64 by -1", CODE(MARK "idiv %rcx"), ~0ul, 1ul << 63, ~0ul },
        { "idiv64", CODE(MARK "idiv %r9"), 1ul << 62, 0, 2 },
    };
    check_all(cases, COUNT(cases));
}

TEST(divide, just_inside)
{
    static const struct { u64 rdx, rax, rcx, quotient, remainder; } cases[] = {
        { 6, ~0ul, 7, 0xFFFFFFFFFFFFFFFF, 6 },
        { 0, 100, 7, 14, 2 },
        { 0x7FFFFFFFFFFFFFFF, ~0ul, 1ul << 63, ~0ul, 0x7FFFFFFFFFFFFFFF },
    };
    void *code = CODE("div %rcx");
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct registers c = at(code);
        c.r[RDX] = cases[i].rdx;
        c.r[RAX] = cases[i].rax;
        c.r[RCX] = cases[i].rcx;
        run(&c);
        check_end("div", code);
        SAME(caught.c.r[RAX], cases[i].quotient);
        SAME(caught.c.r[RDX], cases[i].remainder);
    }
    void *negative = CODE("idiv %rcx");
    struct registers c = at(negative);
    c.r[RAX] = 1ul << 63;
    c.r[RDX] = ~0ul;
    c.r[RCX] = 1;
    run(&c);
    check_end("idiv", negative);
    SAME(caught.c.r[RAX], 1ul << 63);
    SAME(caught.c.r[RDX], 0);
}

static int by_one(struct caught *c, ucontext_t *frame)
{
    if (c->number != SIGFPE)
        return 0;
    frame->uc_mcontext.gregs[REG_RCX] = 1;
    return 1;
}

TEST(divide, repaired)
{
    on_signal = by_one;
    void *code = CODE("1: xor %ecx, %ecx; xor %edx, %edx; mov %r8, %rax; div %rcx; add %rax, %rbx\n"
                      "dec %r8d; jnz 1b");
    struct registers c = at(code);
    c.r[R8] = 1000;
    run(&c);
    check_end("loop", code);
    SAME(caught.c.r[RBX], 1000 * 1001 / 2);
    SAME(caught.count, 1001);
}

static volatile int zero;

static void divide_by_it(void)
{
    volatile int one = 1;
    one /= zero;
}

TEST(divide, kills_without_a_handler)
{
    SAME(in_child(divide_by_it) & 0x7F, SIGFPE);
}
