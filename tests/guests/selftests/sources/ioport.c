/* Ports and the interrupt flag in a program's hands: refused, then allowed by ioperm and iopl. */
#include "selftest.h"
#include <sys/io.h>

enum { POST = 0x80 };           /* the port that nothing minds */

static void check_refused(const char *name, void *code)
{
    static u8 buffer[16];
    struct registers c = at(code);
    c.r[RAX] = 0x55;
    c.r[RDX] = POST;
    c.r[RSI] = c.r[RDI] = (u64)buffer;
    c.r[RCX] = 2;
    run(&c);
    check_fault(name, code, SIGSEGV, V_GP, 0);
    same(name, (u64)caught.code, SI_KERNEL);
    same(name, caught.c.r[RAX], 0x55);
    same(name, caught.c.r[RCX], 2);
}

static void check_allowed(const char *name, void *code)
{
    struct registers c = at(code);
    c.r[RDX] = POST;
    run(&c);
    check_end(name, code);
}

static void need_root(void)
{
    if (geteuid())
        skip("not root");
    if (iopl(0) && errno == ENOSYS)
        skip("this kernel gives no ports");
}

static void refused_all(void)
{
    check_refused("in 8", CODE(MARK "in %dx, %al"));
    check_refused("in 16", CODE(MARK "in %dx, %ax"));
    check_refused("in 32", CODE(MARK "in %dx, %eax"));
    check_refused("in imm", CODE(MARK "in $0x80, %al"));
    check_refused("out 8", CODE(MARK "out %al, %dx"));
    check_refused("out imm", CODE(MARK "out %eax, $0x80"));
    check_refused("ins", CODE(MARK "insb"));
    check_refused("rep outs", CODE(MARK "rep outsw"));
}

TEST(ioport, refused)
{
    refused_all();
    check_refused("cli", CODE(MARK "cli"));
    check_refused("sti", CODE(MARK "sti"));
}

/* POPF cannot change IF or IOPL, and does not fault. */
TEST(ioport, flags_by_popf)
{
    void *code = CODE("pushq $0; popfq; pushfq; pop %rbx; pushq $0x3202; popfq; pushfq; pop %rcx\n"
                      "pushw $0x3000; popfw; pushfq; pop %rdx");
    run_code(code);
    check_end("popf", code);
    SAME(caught.c.r[RBX], F_1 | F_IF);
    SAME(caught.c.r[RCX], F_1 | F_IF);
    SAME(caught.c.r[RDX], F_1 | F_IF);
}

static void as_nobody(void)
{
    MUST(setuid(65534));
    SAME(ioperm(POST, 1, 1), -1);
    SAME(errno, EPERM);
    SAME(iopl(3), -1);
    SAME(errno, EPERM);
    refused_all();
}

TEST(ioport, not_for_everyone)
{
    need_root();
    SAME(in_child(as_nobody), 0);
}

static void in_the_child(void)
{
    check_allowed("inherited", CODE("out %al, %dx"));
    MUST(ioperm(POST, 1, 0));
    check_refused("given up", CODE(MARK "out %al, %dx"));
}

TEST(ioport, ioperm)
{
    need_root();
    MUST(ioperm(POST, 1, 1));
    check_allowed("out", CODE("out %al, %dx"));
    check_allowed("in", CODE("in %dx, %al"));
    check_allowed("imm", CODE("out %al, $0x80"));
    /* Every byte of an access must be allowed. */
    check_refused("out 16", CODE(MARK "out %ax, %dx"));
    check_refused("other port", CODE(MARK "in $0x81, %al"));
    check_refused("cli", CODE(MARK "cli"));
    SAME(in_child(in_the_child), 0);
    check_allowed("still", CODE("out %al, %dx"));
    MUST(ioperm(POST, 4, 1));
    check_allowed("out 32", CODE("out %eax, %dx"));
    MUST(ioperm(POST + 1, 2, 0));
    check_refused("hole", CODE(MARK "out %eax, %dx"));
    MUST(ioperm(POST, 4, 0));
    check_refused("none", CODE(MARK "out %al, %dx"));
    SAME(ioperm(0xFFFF, 2, 1), -1);
    SAME(errno, EINVAL);
}

/* Linux gives all ports, but neither the flag IOPL nor the interrupt flag: it takes the processor's
   fault at CLI and STI and goes on after them. */
TEST(ioport, iopl)
{
    need_root();
    MUST(iopl(3));
    check_allowed("out", CODE("out %al, %dx; in $0x81, %al; in %dx, %eax"));
    void *code = CODE("pushfq; pop %rax; cli; pushfq; pop %rbx; sti; pushfq; pop %rcx");
    run_code(code);
    check_end("cli", code);
    SAME(caught.c.r[RAX], F_1 | F_IF);
    SAME(caught.c.r[RBX], F_1 | F_IF);
    SAME(caught.c.r[RCX], F_1 | F_IF);
    check_refused("hlt", CODE(MARK "hlt"));
    MUST(iopl(0));
    check_refused("after", CODE(MARK "out %al, %dx"));
    check_refused("cli after", CODE(MARK "cli"));
}

/* The permission map follows the process, not the processor. */
TEST(ioport, switches)
{
    need_root();
    int ends[2], back[2];
    char c = 0;
    MUST(pipe(ends));
    MUST(pipe(back));
    pid_t child = (pid_t)MUST(fork());
    for (int i = 0; i < 20; i++) {
        if (child) {
            MUST(ioperm(POST, 1, i % 2 == 0));
            SAME(write(ends[1], "x", 1), 1);
            SAME(read(back[0], &c, 1), 1);
        } else {
            SAME(read(ends[0], &c, 1), 1);
        }
        void *code = CODE(MARK "out %al, %dx");
        if (child && i % 2 == 0)
            check_allowed("parent", code);
        else
            check_refused(child ? "parent" : "child", code);
        if (!child)
            SAME(write(back[1], "x", 1), 1);
    }
    if (!child)
        _exit(0);
    join(child);
}
