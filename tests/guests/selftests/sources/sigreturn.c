/* Returns from handlers with frames that a program has made strange. Selectors that would enter
   32-bit code are left out: Ringlet does not run any yet. */
#include "selftest.h"
#include <asm/ucontext.h>

static struct {
    u64 flags_clear, flags_set;
    u64 rip, rsp;
    int cs, ss;         /* -1: as they are */
    int loose;          /* without UC_STRICT_RESTORE_SS */
    int no_state;       /* a null pointer for the vector state */
    u32 mxcsr;
} wish;

static int make_strange(struct caught *c, ucontext_t *frame)
{
    greg_t *g = frame->uc_mcontext.gregs;
    if (c->count > 1)
        return 0;
    u64 selectors = (u64)g[REG_CSGSFS];
    if (wish.cs >= 0)
        selectors = (selectors & ~0xFFFFul) | (u64)wish.cs;
    if (wish.ss >= 0)
        selectors = (selectors & ~(0xFFFFul << 48)) | (u64)wish.ss << 48;
    g[REG_CSGSFS] = (greg_t)selectors;
    if (wish.rip)
        g[REG_RIP] = (greg_t)wish.rip;
    if (wish.rsp)
        g[REG_RSP] = (greg_t)wish.rsp;
    g[REG_EFL] = (greg_t)(((u64)g[REG_EFL] & ~wish.flags_clear) | wish.flags_set);
    if (wish.loose)
        frame->uc_flags &= ~(u64)UC_STRICT_RESTORE_SS;
    if (wish.mxcsr)
        frame->uc_mcontext.fpregs->mxcsr = wish.mxcsr;
    if (wish.no_state)
        frame->uc_mcontext.fpregs = NULL;
    return 1;
}

static void start(void)
{
    memset(&wish, 0, sizeof wish);
    wish.cs = wish.ss = -1;
    on_signal = make_strange;
}

static void *snippet(void)
{
    return CODE("int3; nop" AFTER "nop");
}

TEST(sigreturn, selectors_that_fit)
{
    void *code = snippet();
    static const int cs[] = { 0x33, 0x30, 0x31 }, ss[] = { 0x2B, 0x28, 0x2A };
    for (int i = 0; i < 3; i++) {
        start();
        wish.cs = cs[i];
        wish.ss = ss[i];
        run_code(code);
        check_end("return", code);
        SAME(caught.cs, USER_CS);
        SAME(caught.ss, USER_SS);
    }
}

static void check_refused(const char *name, int number, u64 trapno, u64 error)
{
    void *code = snippet();
    run_code(code);
    check_fault_at(name, (u64)code + 1, number, trapno, error);
    same(name, caught.count, 2);
}

TEST(sigreturn, code_selectors)
{
    static const int wrong[] = { 0x00, 0x10, 0x28, 0x2B, 0x40, 0x7B, 0xF8, 0xFFF8 };
    for (size_t i = 0; i < COUNT(wrong); i++) {
        start();
        wish.cs = wrong[i];
        check_refused("cs", SIGSEGV, V_GP, (u64)wrong[i] & 0xFFFC);
    }
}

TEST(sigreturn, stack_selectors)
{
    static const int wrong[] = { 0x00, 0x10, 0x33, 0x40, 0xF8, 0xFFF8 };
    for (size_t i = 0; i < COUNT(wrong); i++) {
        start();
        wish.ss = wrong[i];
        check_refused("ss", SIGSEGV, V_GP, (u64)wrong[i] & 0xFFFC);
    }
}

/* Without UC_STRICT_RESTORE_SS the kernel mends a stack selector that cannot be. */
TEST(sigreturn, stack_selectors_mended)
{
    static const int wrong[] = { 0x00, 0x10, 0x33, 0xFFF8 };
    void *code = snippet();
    for (size_t i = 0; i < COUNT(wrong); i++) {
        start();
        wish.ss = wrong[i];
        wish.loose = 1;
        run_code(code);
        check_end("ss", code);
        SAME(caught.ss, USER_SS);
    }
}

TEST(sigreturn, rip_not_canonical)
{
    static const u64 wrong[] = { NON_CANONICAL, 0x8000000000000000, 0xFFFF7FFFFFFFFFFF };
    for (size_t i = 0; i < COUNT(wrong); i++) {
        start();
        wish.rip = wrong[i];
        run_code(snippet());
        check_fault_at("rip", wrong[i], SIGSEGV, V_GP, 0);
    }
    start();
    wish.rip = KERNEL_ADDRESS;
    run_code(snippet());
    check_pf("rip", KERNEL_ADDRESS, PF_P | PF_U | PF_I, KERNEL_ADDRESS);
    start();
    wish.rip = 0x7FFFFFFFF000;
    run_code(snippet());
    check_fault_at("rip", 0x7FFFFFFFF000, SIGSEGV, V_PF, PF_P | PF_U | PF_I);
}

TEST(sigreturn, rsp_not_canonical)
{
    void *code = CODE("int3; mov %rsp, %rax;" MARK "push %rax");
    static const u64 wrong[] = { NON_CANONICAL + 64, 0x8000000000000000,
                                 KERNEL_ADDRESS - (1ul << 60) };
    for (size_t i = 0; i < COUNT(wrong); i++) {
        start();
        wish.rsp = wrong[i];
        run_code(code);
        check_fault("push", code, SIGBUS, V_SS, 0);
        SAME(caught.c.r[RAX], wrong[i]);
        SAME(caught.c.r[RSP], wrong[i]);
    }
}

TEST(sigreturn, trap_flag)
{
    start();
    wish.flags_set = F_TF;
    void *code = snippet();
    run_code(code);
    check_fault_at("trap", code_after(code), SIGTRAP, V_DB, 0);
    SAME(caught.code, TRAP_TRACE);
    SAME(caught.c.rflags & F_TF, F_TF);
}

TEST(sigreturn, flags)
{
    void *code = CODE("int3; pushfq; pop %rax");
    start();
    wish.flags_set = F_DF | F_AC | F_CF | F_OF | F_RF;
    run_code(code);
    check_end("set", code);
    SAME(caught.c.r[RAX], F_1 | F_IF | F_DF | F_AC | F_CF | F_OF);
    /* The kernel keeps these whatever the frame says. */
    start();
    wish.flags_set = F_IOPL | F_NT | F_ID | 0x180000 | 0xFFFFFF8000000028ul;
    wish.flags_clear = F_IF | F_1;
    run_code(code);
    check_end("kept", code);
    SAME(caught.c.r[RAX], F_1 | F_IF);
}

/* IRET with NT set would be a task switch; the kernel must not be caught by a program's NT. */
TEST(sigreturn, nested_task_flag)
{
    void *code = CODE("mov $39, %eax; syscall; mov %eax, %ebx; pushfq; pop %rcx; int3; nop;"
                      MARK "mov %rax, (%rdx)");
    start();
    struct registers c = at(code);
    c.rflags |= F_NT;
    run(&c);
    check_fault("fault", code, SIGSEGV, V_PF, PF_U | PF_W);
    SAME(caught.c.r[RBX], getpid());
    SAME(caught.c.r[RCX] & F_NT, F_NT);
    SAME(caught.c.rflags & F_NT, F_NT);
    SAME(caught.handler_flags & F_NT, F_NT);
}

TEST(sigreturn, without_vector_state)
{
    static u8 image[FP_SIZE] ALIGNED(64), fresh[FP_SIZE] ALIGNED(64);
    void *code = CODE(FP_RESTORE "int3; nop");
    fill_fp(image, 0x44);
    *(u16 *)fresh = 0x037F;
    *(u32 *)(fresh + 24) = 0x1F80;
    struct registers c = at(code);
    c.r[RDI] = (u64)image;
    c.r[RAX] = fp_mask();
    start();
    wish.no_state = 1;
    run(&c);
    check_end("return", code);
    check_fp("state", caught.fp, fresh);
}

TEST(sigreturn, reserved_bits_of_mxcsr)
{
    start();
    wish.mxcsr = 0x80001F80;
    run_code(snippet());
    CHECK(caught.number == SIGSEGV || caught.number == SIGTRAP);
    SAME(*(u32 *)(caught.fp + 24), 0x1F80);
}

/* A frame where there is none. */
TEST(sigreturn, no_frame)
{
    void *code = CODE("mov $15, %eax; mov $0x1000, %esp;" AFTER "syscall; ud2");
    run_code(code);
    SAME(caught.number, SIGSEGV);
    SAME(caught.code, SI_KERNEL);
    void *zeros = CODE("mov $15, %eax; syscall");
    struct registers c = at(zeros);
    c.r[RSP] = (u64)pages(4, PROT_READ | PROT_WRITE);
    run(&c);
    SAME(caught.number, SIGSEGV);
    SAME(caught.c.rip, 0);
}
