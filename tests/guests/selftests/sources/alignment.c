/* Alignment checks, which a program asks for by RFLAGS.AC. */
#include "selftest.h"
#include <sys/syscall.h>

static u8 area[4096] ALIGNED(64);

static void check_unaligned(const char *name, void *code, u64 offset)
{
    struct registers c = at(code);
    c.rflags |= F_AC;
    c.r[RDI] = (u64)area + offset;
    c.r[RSI] = (u64)area + 512;
    c.r[RCX] = 2;
    run(&c);
    check_fault(name, code, SIGBUS, V_AC, 0);
    same(name, (u64)caught.code, BUS_ADRALN);
    same(name, caught.c.rflags & F_AC, F_AC);
    c.rflags &= ~(u64)F_AC;
    run(&c);
    check_end(name, code);
}

TEST(alignment, unaligned_accesses)
{
    check_unaligned("load 2", CODE(MARK "mov (%rdi), %ax"), 1);
    check_unaligned("load 4", CODE(MARK "mov (%rdi), %eax"), 2);
    check_unaligned("load 8", CODE(MARK "mov (%rdi), %rax"), 4);
    check_unaligned("store 2", CODE(MARK "movw $1, (%rdi)"), 63);
    check_unaligned("store 4", CODE(MARK "mov %eax, (%rdi)"), 3);
    check_unaligned("store 8", CODE(MARK "mov %rax, (%rdi)"), 1);
    check_unaligned("add", CODE(MARK "addq $1, (%rdi)"), 4);
    check_unaligned("lock add", CODE(MARK "lock addl $1, (%rdi)"), 2);
    check_unaligned("push", CODE("lea 128(%rdi), %rsp;" MARK "push %rax"), 1);
    check_unaligned("movs", CODE(MARK "movsq"), 2);
    check_unaligned("movsd", CODE(MARK "movsd (%rdi), %xmm0"), 4);
    check_unaligned("fld", CODE(MARK "fldl (%rdi); fstp %st(0)"), 4);
    check_unaligned("fnstenv", CODE(MARK "fnstenv (%rdi)"), 2);
    check_unaligned("fnsave", CODE(MARK "fnsave (%rdi)"), 6);
}

/* An address that is not canonical is so before it is unaligned. */
TEST(alignment, not_canonical)
{
    void *codes[] = { CODE(MARK "mov (%rdi), %eax"), CODE(MARK "mov (%rdi), %fs"),
                      CODE(MARK "verr (%rdi)"), CODE(MARK "fldcw (%rdi)") };
    for (size_t i = 0; i < COUNT(codes); i++) {
        struct registers c = at(codes[i]);
        c.rflags |= F_AC;
        c.r[RDI] = NON_CANONICAL + 1;
        run(&c);
        check_fault("load", codes[i], SIGSEGV, V_GP, 0);
    }
}

/* Fetches are not checked, wherever the code lies, and however often it has been written. */
TEST(alignment, code_that_is_written)
{
    static const u8 bytes[] = { 0xC0, 0xE8, 0x04, 0x83, 0xC0, 0x07, 0xFF, 0xC9, 0xCC };
    u8 *p = page(PROT_READ | PROT_WRITE | PROT_EXEC);
    for (u64 i = 0; i < 400; i++) {
        u8 *code = p + i * 7;
        memcpy(code, bytes, sizeof bytes);
        struct registers c = at(code);
        c.rflags |= F_AC;
        c.r[RAX] = 0x35;
        run(&c);
        SAME(caught.number, SIGTRAP);
        SAME(caught.c.rip, (u64)code + sizeof bytes);
        SAME(caught.c.r[RAX], 10);
        SAME(caught.c.rflags & F_AC, F_AC);
    }
}

TEST(alignment, aligned_accesses)
{
    void *code = CODE("mov (%rdi), %rax; mov 4(%rdi), %eax; mov 2(%rdi), %ax; mov 1(%rdi), %al\n"
                      "movups 16(%rdi), %xmm0; addq $1, 8(%rdi); lock incl 12(%rdi); push %rax\n"
                      "pop %rax; lea 3(%rdi), %rbx; prefetcht0 3(%rdi); pushfq; pop %rdx");
    struct registers c = at(code);
    c.rflags |= F_AC;
    c.r[RDI] = (u64)area;
    run(&c);
    check_end("aligned", code);
    SAME(caught.c.rflags & F_AC, F_AC);
    SAME(caught.c.r[RDX] & F_AC, F_AC);
}

/* The kernel copies at odd addresses whatever a program's AC says. */
TEST(alignment, system_calls)
{
    void *code = CODE("syscall");
    struct registers c = at(code);
    c.rflags |= F_AC;
    c.r[RAX] = SYS_uname;
    c.r[RDI] = (u64)area + 1;
    for (int i = 0; i < 100; i++) {
        run(&c);
        check_end("uname", code);
        SAME(caught.c.r[RAX], 0);
        SAME(caught.c.rflags & F_AC, F_AC);
    }
    SAME(strcmp((char *)area + 1, "Linux"), 0);
}
