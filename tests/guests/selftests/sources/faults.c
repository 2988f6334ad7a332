/* Exceptions as signals: the number, the code, the address and what the frame says of the
   processor's own words (trapno, err, cr2). */
#include "selftest.h"

static void read_from(u64 address)
{
    static void *code;
    code = CODE(MARK "movb (%rdi), %al");
    struct registers c = at(code);
    c.r[RDI] = address;
    run(&c);
}

TEST(faults, read_absent)
{
    u8 *p = page(PROT_READ);
    MUST(munmap(p, PAGE));
    void *code = CODE("nop;" MARK "mov 8(%rdi), %rax");
    struct registers c = at(code);
    c.r[RDI] = (u64)p;
    run(&c);
    check_pf("read", code_mark(code), PF_U, (u64)p + 8);
    SAME(caught.code, SEGV_MAPERR);
    SAME(caught.cs, USER_CS);
    SAME(caught.ss, USER_SS);
}

TEST(faults, write_absent_and_read_only)
{
    u8 *p = page(PROT_READ);
    void *code = CODE(MARK "movb $1, (%rdi)");
    struct registers c = at(code);
    c.r[RDI] = (u64)p;
    run(&c);
    check_pf("before it was read", code_mark(code), PF_U | PF_W, (u64)p);
    SAME(caught.code, SEGV_ACCERR);
    SAME(*(volatile u8 *)p, 0);
    run(&c);
    check_pf("read-only", code_mark(code), PF_P | PF_U | PF_W, (u64)p);
    SAME(caught.code, SEGV_ACCERR);
    MUST(munmap(p, PAGE));
    run(&c);
    check_pf("absent", code_mark(code), PF_U | PF_W, (u64)p);
    SAME(caught.code, SEGV_MAPERR);
}

TEST(faults, no_access)
{
    u8 *p = page(PROT_READ | PROT_WRITE);
    *p = 1;
    MUST(mprotect(p, PAGE, PROT_NONE));
    read_from((u64)p);
    SAME(caught.trapno, V_PF);
    SAME(caught.error, PF_U);
    SAME(caught.code, SEGV_ACCERR);
}

/* The kernel says of its own half that it is there, whatever is. */
TEST(faults, kernel_half)
{
    static const u64 places[] = { KERNEL_ADDRESS, 0xFFFF800000000000, 0xFFFFFFFF81000000,
                                  0xFFFFFFFFFFFFFFFF };
    for (size_t i = 0; i < COUNT(places); i++) {
        read_from(places[i]);
        SAME(caught.number, SIGSEGV);
        SAME(caught.trapno, V_PF);
        SAME(caught.error, PF_P | PF_U);
        SAME(caught.cr2, places[i]);
        SAME(caught.address, places[i]);
    }
}

TEST(faults, non_canonical)
{
    static const u64 places[] = { NON_CANONICAL, 0xFFFF7FFFFFFFFFFF, 0x8000000000000000,
                                  0x0100000000000000, 0x4142434445464748 };
    for (size_t i = 0; i < COUNT(places); i++) {
        read_from(places[i]);
        SAME(caught.number, SIGSEGV);
        SAME(caught.trapno, V_GP);
        SAME(caught.error, 0);
        SAME(caught.code, SI_KERNEL);
        SAME(caught.address, 0);
    }
}

TEST(faults, non_canonical_stack)
{
    void *codes[] = { CODE(MARK "push %rax"), CODE(MARK "pop %rax"), CODE(MARK "mov 8(%rsp), %rax"),
                      CODE(MARK "call 774f"), CODE(MARK "ret"), CODE(MARK "mov %rax, (%rbp)") };
    for (size_t i = 0; i < COUNT(codes); i++) {
        struct registers c = at(codes[i]);
        c.r[RSP] = c.r[RBP] = NON_CANONICAL + 64;
        run(&c);
        check_fault("stack", codes[i], SIGBUS, V_SS, 0);
        SAME(caught.code, SI_KERNEL);
        SAME(caught.c.r[RSP], NON_CANONICAL + 64);
    }
}

TEST(faults, general_protection)
{
    void *codes[] = {
        CODE(MARK "hlt"), CODE(MARK "mov %cr0, %rax"), CODE(MARK "mov %rax, %cr3"),
        CODE(MARK "mov %cr8, %rax"), CODE(MARK "mov %dr7, %rax"), CODE(MARK "mov %rax, %dr0"),
        CODE(MARK "rdmsr"), CODE(MARK "wrmsr"), CODE(MARK "lgdt (%rsp)"), CODE(MARK "lidt (%rsp)"),
        CODE(MARK "lldt %ax"), CODE(MARK "ltr %ax"), CODE(MARK "lmsw %ax"), CODE(MARK "clts"),
        CODE(MARK "invd"), CODE(MARK "wbinvd"), CODE(MARK "invlpg (%rsp)"), CODE(MARK "swapgs"),
        CODE(MARK "sysretq"), CODE(MARK "rdpmc"), CODE(MARK "xsetbv"),
    };
    for (size_t i = 0; i < COUNT(codes); i++) {
        run_code(codes[i]);
        check_fault("privileged", codes[i], SIGSEGV, V_GP, 0);
        SAME(caught.code, SI_KERNEL);
    }
}

TEST(faults, software_interrupts)
{
    void *codes[] = { CODE(MARK "int $0"), CODE(MARK "int $13"), CODE(MARK "int $14"),
                      CODE(MARK "int $0x20"), CODE(MARK "int $0x81"), CODE(MARK "int $0xFF") };
    static const u8 vectors[] = { 0, 13, 14, 0x20, 0x81, 0xFF };
    for (size_t i = 0; i < COUNT(codes); i++) {
        run_code(codes[i]);
        check_fault("int n", codes[i], SIGSEGV, V_GP, vectors[i] * 8u + 2);
    }
    void *overflow = CODE("int $4" AFTER "nop");
    run_code(overflow);
    check_fault_at("int 4", code_after(overflow), SIGSEGV, V_OF, 0);
}

TEST(faults, breakpoint)
{
    void *codes[] = { CODE("int3" AFTER "nop"), CODE(".byte 0xCD, 3" AFTER "nop") };
    for (size_t i = 0; i < COUNT(codes); i++) {
        run_code(codes[i]);
        check_fault_at("int3", code_after(codes[i]), SIGTRAP, V_BP, 0);
        SAME(caught.code, SI_KERNEL);
    }
}

TEST(faults, icebp)
{
    void *code = CODE(".byte 0xF1" AFTER "nop");
    run_code(code);
    check_fault_at("int1", code_after(code), SIGTRAP, V_DB, 0);
    SAME(caught.code, TRAP_BRKPT);
}

/* Every register, and flags that the next instruction reads, as they were at the instruction. */
TEST(faults, registers_in_the_frame)
{
    void *code = CODE("add %r14, %r15; add $0x7F, %al;" MARK "mov %rcx, (%rbx); pushfq; pop %rax");
    struct registers c = at(code);
    for (int i = 0; i < 16; i++)
        if (i != RSP)
            c.r[i] = 0x1111111111111111ul * (u64)i + 0x80;
    c.r[RBX] = 0x1000;
    c.rflags |= F_DF | F_CF;
    run(&c);
    check_pf("write", code_mark(code), PF_U | PF_W, 0x1000);
    c.r[R15] += c.r[R14];
    c.r[RAX] = (c.r[RAX] & ~0xFFul) | 0xFF;
    for (int i = 0; i < 16; i++)
        same("a register", caught.c.r[i], c.r[i]);
    SAME(caught.c.rflags & (F_ARITH | F_DF), F_DF | F_SF | F_PF);
}

static int fill(struct caught *c, ucontext_t *frame)
{
    (void)frame;
    if (c->number != SIGSEGV)
        return 0;
    u64 base = c->cr2 & ~(PAGE - 1);
    if (mmap((void *)base, PAGE, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
        fail("mmap at %#lx", base);
    return 1;
}

/* A handler that makes what was missing; 2000 faults, one after the other. */
TEST(faults, repaired)
{
    enum { PAGES = 2000 };
    u8 *p = pages(PAGES, PROT_NONE);
    on_signal = fill;
    void *code = CODE("1: lock addq %rcx, 16(%rdi); add $4096, %rdi; dec %rcx; jnz 1b");
    struct registers c = at(code);
    c.r[RDI] = (u64)p;
    c.r[RCX] = PAGES;
    run(&c);
    check_end("loop", code);
    SAME(caught.count, PAGES + 1);
    for (u64 i = 0; i < PAGES; i++)
        same("a page", *(u64 *)(p + i * PAGE + 16), PAGES - i);
}

static int next_instruction(struct caught *c, ucontext_t *frame)
{
    if (c->number != SIGSEGV)
        return 0;
    frame->uc_mcontext.gregs[REG_RIP] += 3;
    frame->uc_mcontext.gregs[REG_RAX]++;
    return 1;
}

TEST(faults, skipped_again_and_again)
{
    on_signal = next_instruction;
    void *code = CODE("1: mov %rdx, (%rbx); dec %rcx; jnz 1b");
    struct registers c = at(code);
    c.r[RCX] = 5000;
    run(&c);
    check_end("loop", code);
    SAME(caught.c.r[RAX], 5000);
}

static void segfault(void)
{
    *(volatile int *)8 = 1;
}

static void blocked_segfault(void)
{
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    signal(SIGSEGV, SIG_IGN);
    segfault();
}

static void illegal(void)
{
    asm volatile("ud2");
}

TEST(faults, kill_without_a_handler)
{
    SAME(in_child(segfault) & 0x7F, SIGSEGV);
    SAME(in_child(blocked_segfault) & 0x7F, SIGSEGV);
    SAME(in_child(illegal) & 0x7F, SIGILL);
}

/* A call of nothing: the instruction pointer itself is at fault. */
TEST(faults, jump_to_nothing)
{
    u8 *p = page(PROT_READ);
    MUST(munmap(p, PAGE));
    void *code = CODE("call *%rdi" AFTER "nop");
    struct registers c = at(code);
    c.r[RDI] = (u64)p + 5;
    run(&c);
    check_pf("call", (u64)p + 5, PF_U | PF_I, (u64)p + 5);
    SAME(caught.c.r[RSP], WORK_RSP - 8);
    SAME(*(u64 *)caught.c.r[RSP], code_after(code));
    c.r[RDI] = KERNEL_ADDRESS;
    run(&c);
    check_pf("call of the kernel's half", KERNEL_ADDRESS, PF_P | PF_U | PF_I, KERNEL_ADDRESS);
}
