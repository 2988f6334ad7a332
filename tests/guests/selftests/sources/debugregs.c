/* Breakpoints and watchpoints by the debug registers, set for a traced process. */
#include "tracee.h"
#include <sys/syscall.h>

enum { EXECUTE = 0, WRITE = 1, ACCESS = 3 };
enum { BYTE = 0, WORD = 1, QUAD = 2, DWORD = 3 };    /* the lengths 1, 2, 8, 4 */

static u8 watched[PAGE] ALIGNED(4096);

static long poke(pid_t child, int number, u64 value)
{
    return ptrace(PTRACE_POKEUSER, child, offsetof(struct user, u_debugreg[number]), value);
}

static u64 status(pid_t child)
{
    errno = 0;
    u64 value = (u64)ptrace(PTRACE_PEEKUSER, child, offsetof(struct user, u_debugreg[6]), 0);
    SAME(errno, 0);
    return value;
}

static u64 control(int number, int kind, int length)
{
    return 1ul << (2 * number) | (u64)kind << (16 + 4 * number) | (u64)length << (18 + 4 * number);
}

static void set(pid_t child, int number, u64 address, int kind, int length)
{
    MUST(poke(child, number, address));
    MUST(poke(child, 7, control(number, kind, length)));
}

static void check_hit(const char *name, pid_t child, u64 rip, u64 hits)
{
    check_stop(name, child, resume(child, PTRACE_CONT, 0), SIGTRAP, rip);
    same(name, (u64)info_of(child).si_code, TRAP_HWBKPT);
    same(name, status(child) & 15, hits);
    MUST(poke(child, 6, 0));
}

TEST(debugregs, breakpoint)
{
    void *code = CODE("1: inc %rax;" MARK "add $2, %rbx; dec %rcx; jnz 1b");
    struct registers c = at(code);
    c.r[RCX] = 50;
    pid_t child = trace(&c);
    set(child, 0, code_mark(code), EXECUTE, BYTE);
    for (u64 i = 1; i <= 50; i++) {
        check_hit("breakpoint", child, code_mark(code), 1);
        regs_t r = regs_of(child);
        SAME(r.rax, i);
        SAME(r.rbx, 2 * (i - 1));
    }
    finish(child, code);
    SAME(regs_of(child).rbx, 100);
    drop(child);
}

extern const u64 stop_places[];

TEST(debugregs, four_breakpoints)
{
    void *code = CODE(STEPS(stop_places, "10f, 11f, 12f, 13f")
                      "nop; 10: call 11f; 12: cpuid; xor %ecx, %ecx; jmp 13f; 11: ret\n"
                      "13: rep stosb");
    pid_t child = trace_code(code);
    u64 all = 0;
    for (int i = 0; i < 4; i++) {
        MUST(poke(child, i, stop_places[i]));
        all |= control(i, EXECUTE, BYTE);
    }
    MUST(poke(child, 7, all));
    for (int i = 0; i < 4; i++)
        check_hit("breakpoint", child, stop_places[i], 1u << i);
    finish(child, code);
    drop(child);
}

/* A breakpoint comes before the instruction's own fault, and before a page fault of its fetch. */
TEST(debugregs, breakpoint_at_a_fault)
{
    void *codes[] = { CODE("nop;" MARK "mov (%rdi), %rax"), CODE("nop;" MARK "ud2"),
                      CODE("nop;" MARK "hlt") };
    static const int numbers[] = { SIGSEGV, SIGILL, SIGSEGV };
    for (size_t i = 0; i < COUNT(codes); i++) {
        pid_t child = trace_code(codes[i]);
        set(child, 2, code_mark(codes[i]), EXECUTE, BYTE);
        check_hit("breakpoint", child, code_mark(codes[i]), 4);
        check_stop("fault", child, resume(child, PTRACE_CONT, 0), numbers[i], code_mark(codes[i]));
        drop(child);
    }
}

TEST(debugregs, off_again)
{
    void *code = CODE("1: inc %rax;" MARK "dec %rcx; jnz 1b");
    struct registers c = at(code);
    c.r[RCX] = 10;
    pid_t child = trace(&c);
    set(child, 1, code_mark(code), EXECUTE, BYTE);
    for (int i = 0; i < 5; i++)
        check_hit("breakpoint", child, code_mark(code), 2);
    MUST(poke(child, 7, 0));
    finish(child, code);
    SAME(regs_of(child).rax, 10);
    drop(child);
}

TEST(debugregs, watched_writes)
{
    struct { const char *name; void *code; u64 offset; int length, hit; } cases[] = {
        { "byte", CODE("nop; movb $1, (%rdi)" AFTER "nop"), 0, BYTE, 1 },
        { "byte beside", CODE("nop; movb $1, 1(%rdi)" AFTER "nop"), 0, BYTE, 0 },
        { "word in quad", CODE("nop; movw $1, 6(%rdi)" AFTER "nop"), 0, QUAD, 1 },
        { "before quad", CODE("nop; movq $1, -8(%rdi)" AFTER "nop"), 0, QUAD, 0 },
        { "over its start", CODE("nop; movq $1, -7(%rdi)" AFTER "nop"), 0, QUAD, 1 },
        { "over its end", CODE("nop; mov %eax, 3(%rdi)" AFTER "nop"), 0, DWORD, 1 },
        { "after it", CODE("nop; mov %eax, 4(%rdi)" AFTER "nop"), 0, DWORD, 0 },
        { "read", CODE("nop; mov (%rdi), %rax" AFTER "nop"), 0, QUAD, 0 },
        { "add", CODE("nop; addl $1, (%rdi)" AFTER "nop"), 0, WORD, 1 },
        { "locked", CODE("nop; lock xadd %rax, (%rdi)" AFTER "nop"), 0, BYTE, 1 },
        { "vector", CODE("nop; movups %xmm0, -15(%rdi)" AFTER "nop"), 0, BYTE, 1 },
        { "push", CODE("lea 8(%rdi), %rsp; push %rax" AFTER "nop"), 0, QUAD, 1 },
        { "call", CODE("lea 8(%rdi), %rsp; call 1f; nop; 1:" AFTER "nop"), 0, QUAD, 1 },
        { "string", CODE("nop; stosq" AFTER "nop"), 0, QUAD, 1 },
        { "last byte of a page", CODE("nop; movb $1, (%rdi)" AFTER "nop"), PAGE - 1, BYTE, 1 },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct registers c = at(cases[i].code);
        u64 place = (u64)watched + (cases[i].offset ? cases[i].offset : 512);
        c.r[RDI] = place;
        pid_t child = trace(&c);
        set(child, 0, place, WRITE, cases[i].length);
        if (cases[i].hit)
            check_hit(cases[i].name, child, code_after(cases[i].code), 1);
        check_stop(cases[i].name, child, resume(child, PTRACE_CONT, 0), SIGTRAP,
                   code_end(cases[i].code) + 1);
        drop(child);
    }
}

TEST(debugregs, watched_reads)
{
    struct { const char *name; void *code; int hit; } cases[] = {
        { "load", CODE("nop; mov (%rdi), %al" AFTER "nop"), 1 },
        { "store", CODE("nop; mov %al, (%rdi)" AFTER "nop"), 1 },
        { "cmp", CODE("nop; cmpq $1, -4(%rdi)" AFTER "nop"), 1 },
        { "pop", CODE("mov %rdi, %rsp; pop %rax" AFTER "nop"), 1 },
        { "lods", CODE("mov %rdi, %rsi; lodsb" AFTER "nop"), 1 },
        { "beside", CODE("nop; mov 4(%rdi), %eax" AFTER "nop"), 0 },
        { "lea", CODE("nop; lea (%rdi), %rax" AFTER "nop"), 0 },
        { "nop", CODE("nop; nopl (%rdi)" AFTER "nop"), 0 },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct registers c = at(cases[i].code);
        c.r[RDI] = (u64)watched + 256;
        pid_t child = trace(&c);
        set(child, 3, c.r[RDI], ACCESS, DWORD);
        if (cases[i].hit)
            check_hit(cases[i].name, child, code_after(cases[i].code), 8);
        check_stop(cases[i].name, child, resume(child, PTRACE_CONT, 0), SIGTRAP,
                   code_end(cases[i].code) + 1);
        drop(child);
    }
}

/* A loop that stores into a table; the watched slot is hit once in each round. */
TEST(debugregs, watched_loop)
{
    void *code = CODE("2: mov $64, %ecx; 1: mov %rcx, -8(%rdi,%rcx,8)" AFTER "dec %ecx; jnz 1b\n"
                      "dec %edx; jnz 2b");
    struct registers c = at(code);
    c.r[RDI] = (u64)watched;
    c.r[RDX] = 20;
    pid_t child = trace(&c);
    set(child, 0, (u64)watched + 8 * 30, WRITE, QUAD);
    for (u64 i = 20; i > 0; i--) {
        check_hit("slot", child, code_after(code), 1);
        regs_t r = regs_of(child);
        SAME(r.rcx, 31);
        SAME(r.rdx, i);
    }
    finish(child, code);
    drop(child);
}

/* A repeated store stops after the step that hit, or some steps later, and goes on from there. */
TEST(debugregs, watched_string)
{
    void *code = CODE("nop;" MARK "rep stosb" AFTER "nop");
    struct registers c = at(code);
    c.r[RDI] = (u64)watched + 1000;
    c.r[RCX] = 200;
    c.r[RAX] = 0x66;
    pid_t child = trace(&c);
    set(child, 0, (u64)watched + 1100, WRITE, BYTE);
    SAME(resume(child, PTRACE_CONT, 0), SIGTRAP);
    regs_t r = regs_of(child);
    SAME(status(child) & 15, 1);
    CHECK(r.rip == code_mark(code) || r.rip == code_after(code));
    CHECK(r.rcx <= 99);
    SAME(r.rdi - ((u64)watched + 1000), 200 - r.rcx);
    finish(child, code);
    SAME(regs_of(child).rcx, 0);
    drop(child);
}

/* The kernel writes there on the program's behalf: the program is none the worse. */
TEST(debugregs, watched_system_call)
{
    void *code = CODE("syscall; mov %rax, %rbx; movb $1, (%rsi)" AFTER "nop");
    int ends[2];
    MUST(pipe(ends));
    SAME(write(ends[1], "0123456789", 10), 10);
    struct registers c = at(code);
    c.r[RAX] = SYS_read;
    c.r[RDI] = (u64)ends[0];
    c.r[RSI] = (u64)watched + 64;
    c.r[RDX] = 10;
    pid_t child = trace(&c);
    set(child, 0, (u64)watched + 64, WRITE, QUAD);
    int number = resume(child, PTRACE_CONT, 0);
    if (regs_of(child).rip != code_after(code))
        number = resume(child, PTRACE_CONT, 0);
    check_stop("store", child, number, SIGTRAP, code_after(code));
    SAME(regs_of(child).rbx, 10);
    finish(child, code);
    drop(child);
}

/* Steps and a watchpoint at once. */
TEST(debugregs, stepped_onto_a_watchpoint)
{
    void *code = CODE("nop; movb $1, (%rdi)" AFTER "nop; nop");
    struct registers c = at(code);
    c.r[RDI] = (u64)watched;
    pid_t child = trace(&c);
    set(child, 0, (u64)watched, WRITE, BYTE);
    SAME(resume(child, PTRACE_SINGLESTEP, 0), SIGTRAP);
    SAME(status(child) & 0x400F, 0x4000);
    check_stop("store", child, resume(child, PTRACE_SINGLESTEP, 0), SIGTRAP, code_after(code));
    SAME(status(child) & 0x400F, 0x4001);
    drop(child);
}

/* Two processes that run the same code: the breakpoint is of one of them. */
TEST(debugregs, of_one_process)
{
    void *code = CODE("1: inc %rax;" MARK "nop; dec %rcx; jnz 1b");
    struct registers c = at(code);
    c.r[RCX] = 20;
    pid_t stopped = trace(&c), free_running = trace(&c);
    set(stopped, 0, code_mark(code), EXECUTE, BYTE);
    for (int i = 0; i < 20; i++) {
        check_hit("breakpoint", stopped, code_mark(code), 1);
        if (i == 10)
            finish(free_running, code);
    }
    SAME(regs_of(free_running).rax, 20);
    finish(stopped, code);
    drop(free_running);
    drop(stopped);
    run(&c);
    check_end("here", code);
}

TEST(debugregs, refused)
{
    pid_t child = trace_code(CODE("nop"));
    CHECK(poke(child, 0, KERNEL_ADDRESS) == -1 && errno == EINVAL);
    CHECK(poke(child, 0, NON_CANONICAL) == -1 && errno == EINVAL);
    MUST(poke(child, 0, (u64)watched + 1));
    CHECK(poke(child, 7, control(0, WRITE, DWORD)) == -1 && errno == EINVAL);
    CHECK(poke(child, 4, 1) == -1 && errno == EIO);
    MUST(poke(child, 7, control(0, WRITE, BYTE)));
    drop(child);
}
