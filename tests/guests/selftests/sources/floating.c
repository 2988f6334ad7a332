/* Floating-point exceptions of the x87 and of SSE, and state that threads keep for themselves. */
#include "selftest.h"

static void check_exception(const char *name, const void *code, u64 trapno, int why)
{
    check_fault(name, code, SIGFPE, trapno, 0);
    if (caught.code != why)
        fail("%s: code %d for %d", name, caught.code, why);
    same(name, caught.address, code_mark(code));
}

/* MXCSR with one exception unmasked: in EBX. */
#define UNMASKED "mov %ebx, -8(%rsp); ldmxcsr -8(%rsp);"

static void check_sse(const char *name, void *code, u32 bit, double a, double b, int why)
{
    struct registers c = at(code);
    c.r[RBX] = 0x1F80 & ~(bit << 7);
    memcpy(&c.r[R8], &a, 8);
    memcpy(&c.r[R9], &b, 8);
    run(&c);
    check_exception(name, code, V_XM, why);
    same(name, *(u32 *)(caught.fp + 24) & bit, bit);
    /* The destination is as before. */
    same(name, *(u64 *)(caught.fp + 160), c.r[R8]);
    c.r[RBX] = 0x1F80;
    run(&c);
    check_end(name, code);
}

#define LOAD UNMASKED "movq %r8, %xmm0; movq %r9, %xmm1;"

TEST(floating, sse_exceptions)
{
    check_sse("divide by zero", CODE(LOAD MARK "divsd %xmm1, %xmm0"), 4, 1, 0, FPE_FLTDIV);
    check_sse("invalid", CODE(LOAD MARK "sqrtsd %xmm1, %xmm0"), 1, 1, -1, FPE_FLTINV);
    check_sse("overflow", CODE(LOAD MARK "mulsd %xmm1, %xmm0"), 8, 1e300, 1e300, FPE_FLTOVF);
    check_sse("underflow", CODE(LOAD MARK "mulsd %xmm1, %xmm0"), 16, 1e-300, 1e-300, FPE_FLTUND);
    check_sse("precision", CODE(LOAD MARK "divsd %xmm1, %xmm0"), 32, 1, 3, FPE_FLTRES);
    check_sse("denormal", CODE(LOAD MARK "addsd %xmm1, %xmm0"), 2, 1, 4.9e-324, FPE_FLTUND);
    check_sse("packed", CODE(LOAD MARK "divpd %xmm1, %xmm0"), 4, 1, 0, FPE_FLTDIV);
    check_sse("conversion", CODE(LOAD MARK "cvtsd2si %xmm1, %rax"), 1, 1, 1e300, FPE_FLTINV);
    check_sse("memory", CODE(LOAD "mov %r9, -16(%rsp);" MARK "divsd -16(%rsp), %xmm0"), 4, 1, 0,
              FPE_FLTDIV);
}

TEST(floating, avx_exceptions)
{
    if (!has_avx())
        skip("no AVX");
    check_sse("vdivsd", CODE(LOAD MARK "vdivsd %xmm1, %xmm0, %xmm0"), 4, 1, 0, FPE_FLTDIV);
    check_sse("vdivpd", CODE(LOAD "vinsertf128 $1, %xmm1, %ymm1, %ymm1;"
                             MARK "vdivpd %ymm1, %ymm0, %ymm0"), 4, 1, 0, FPE_FLTDIV);
    check_sse("vsqrtsd", CODE(LOAD MARK "vsqrtsd %xmm1, %xmm0, %xmm0"), 1, 1, -1, FPE_FLTINV);
}

/* The x87 control word with one exception unmasked, in EBX; the exception is told by the next. */
#define X87 "fninit; mov %ebx, -8(%rsp); fldcw -8(%rsp);"

static void check_x87(const char *name, void *code, u32 bit, double a, double b, int why)
{
    struct registers c = at(code);
    double *stack = (double *)WORK_RSP;
    c.r[RBX] = 0x037F & ~bit;
    stack[0] = a;
    stack[1] = b;
    run(&c);
    check_exception(name, code, V_MF, why);
    same(name, *(u16 *)(caught.fp + 2) & (bit | 0x80), bit | 0x80);
    c.r[RBX] = 0x037F;
    run(&c);
    check_end(name, code);
}

TEST(floating, x87_exceptions)
{
    check_x87("divide by zero", CODE(X87 "fldl (%rsp); fdivl 8(%rsp); mov $1, %eax;" MARK "fwait"),
              4, 1, 0, FPE_FLTDIV);
    check_x87("next", CODE(X87 "fldl (%rsp); fdivl 8(%rsp); nop;" MARK "fld1"), 4, 1, 0, FPE_FLTDIV);
    check_x87("invalid", CODE(X87 "fldl 8(%rsp); fsqrt;" MARK "fwait"), 1, 1, -1, FPE_FLTINV);
    check_x87("overflow", CODE(X87 "fldl (%rsp); fmull 8(%rsp); fstpl 16(%rsp);" MARK "fwait"), 8,
              1e300, 1e300, FPE_FLTOVF);
    check_x87("underflow", CODE(X87 "fldl (%rsp); fmull 8(%rsp); fstpl 16(%rsp);" MARK "fwait"), 16,
              1e-300, 1e-300, FPE_FLTUND);
    check_x87("precision", CODE(X87 "fldl (%rsp); fdivl 8(%rsp);" MARK "fwait"), 32, 1, 3,
              FPE_FLTRES);
    check_x87("denormal", CODE(X87 "fldl 8(%rsp);" MARK "fwait"), 2, 1, 4.9e-324, FPE_FLTUND);
    check_x87("empty stack", CODE(X87 "fstpl 16(%rsp);" MARK "fwait"), 1, 0, 0, FPE_FLTINV);
}

static int mask_and_go_on(struct caught *c, ucontext_t *frame)
{
    if (c->number != SIGFPE)
        return 0;
    frame->uc_mcontext.fpregs->mxcsr = 0x1F80;
    frame->uc_mcontext.fpregs->cwd = 0x037F;
    frame->uc_mcontext.fpregs->swd &= (u16)~0x80FF;
    return 1;
}

TEST(floating, masked_by_the_handler)
{
    on_signal = mask_and_go_on;
    void *code = CODE(LOAD "divsd %xmm1, %xmm0; movq %xmm0, %rax");
    struct registers c = at(code);
    double one = 1;
    memcpy(&c.r[R8], &one, 8);
    c.r[RBX] = 0x1D80;
    run(&c);
    check_end("sse", code);
    SAME(caught.c.r[RAX], 0x7FF0000000000000);
    void *x87 = CODE(X87 "fldl (%rsp); fdivl 8(%rsp); fwait; fstpl 16(%rsp)");
    double *stack = (double *)WORK_RSP;
    c = at(x87);
    c.r[RBX] = 0x037B;
    stack[0] = 1;
    stack[1] = 0;
    run(&c);
    check_end("x87", x87);
    /* The division was not done, and is not done again. */
    CHECK(stack[2] == 1);
}

/* Processes that compute with rounding modes and registers of their own, interrupted by the timer. */
TEST(floating, kept_over_preemption)
{
    static u8 image[FP_SIZE] ALIGNED(64), after[FP_SIZE] ALIGNED(64);
    pid_t children[3];
    for (int i = 0; i < 3; i++) {
        children[i] = (pid_t)MUST(fork());
        if (children[i])
            continue;
        fill_fp(image, (u8)(0x31 * (i + 1)));
        *(u32 *)(image + 24) = 0x1F80 | (u32)i << 13 | (i == 2 ? 0x8040 : 0);
        *(u16 *)image = (u16)(0x007F | i << 10);
        for (int turn = 0; turn < 8; turn++) {
            memset(after, 0, sizeof after);
            fp_hold(image, after, 30000000, fp_mask());
            check_fp("after", after, image);
        }
        _exit(0);
    }
    for (int i = 0; i < 3; i++)
        join(children[i]);
}

TEST(floating, rounding)
{
    static const u64 roots[] = { 0x3FF6A09E667F3BCD, 0x3FF6A09E667F3BCC, 0x3FF6A09E667F3BCD,
                                 0x3FF6A09E667F3BCC };
    void *code = CODE(UNMASKED "mov $2, %eax; cvtsi2sd %eax, %xmm0; sqrtsd %xmm0, %xmm0\n"
                      "movq %xmm0, %rax");
    for (u64 mode = 0; mode < 4; mode++) {
        struct registers c = at(code);
        c.r[RBX] = 0x1F80 | mode << 13;
        run(&c);
        check_end("root", code);
        SAME(caught.c.r[RAX], roots[mode]);
    }
}
