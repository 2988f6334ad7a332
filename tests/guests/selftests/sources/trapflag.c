/* Single steps that a program takes by itself, by RFLAGS.TF. */
#include "selftest.h"
#include <sys/syscall.h>

enum { MOST = 64 };
static u64 seen[MOST];
static int steps;

static int step(struct caught *c, ucontext_t *frame)
{
    (void)frame;
    if (c->number != SIGTRAP || c->trapno != V_DB)
        return 0;
    same("si_code", (u64)c->code, TRAP_TRACE);
    same("TF in the handler", c->handler_flags & F_TF, 0);
    same("si_addr", c->address, c->c.rip);
    if (steps < MOST)
        seen[steps] = c->c.rip;
    steps++;
    return 1;
}

/* `wanted` are the places of the traps, up to the instruction that clears TF; a last one follows. */
static void check_steps(const char *name, const void *code, const u64 *wanted)
{
    on_signal = step;
    steps = 0;
    run_code(code);
    int i;
    for (i = 0; wanted[i]; i++)
        if (i >= steps || seen[i] != wanted[i])
            fail("%s: trap %d of %d at start+%#lx for start+%#lx", name, i, steps,
                 i < steps ? seen[i] - (u64)code : 0, wanted[i] - (u64)code);
    if (steps != i)
        fail("%s: %d traps for %d", name, steps, i);
    check_end(name, code);
}

#define SET "pushfq; orl $0x100, (%rsp); popfq; nop\n"
#define CLEAR "pushfq; andl $~0x100, (%rsp); popfq\n"
/* Where the traps in and after CLEAR are, if it is preceded by the label 90. */
#define CLEARING "90f, 91f, 92f, 93f"
#define CLEAR_STEPS "90: pushfq; 91: andl $~0x100, (%rsp); 92: popfq; 93: nop\n"

extern const u64 places_plain[], places_flow[], places_rep[], places_sensitive[],
    places_shadow[], places_syscall[];

TEST(trapflag, plain)
{
    check_steps("plain",
        CODE(STEPS(places_plain, "10f, 11f, 12f, 13f, 14f, 15f, 16f, 17f, " CLEARING)
             SET "10: mov $5, %eax; 11: add %rax, %rcx; 12: push %rax; 13: pop %rdx\n"
             "14: lea (%rax,%rcx,4), %rsi; 15: mov %rsi, -8(%rsp); 16: imul %rsi, %rdx\n"
             "17: cmovz %rax, %rdx;" CLEAR_STEPS), places_plain);
    SAME(caught.c.r[RDX], 5 * (5 + 5 * 4));
}

/* In a page of its own, beside no code that a direct process may not execute. */
TEST(trapflag, set_before_a_long_instruction)
{
    static const u8 code[] = {
        0x9C, 0x81, 0x0C, 0x24, 0, 1, 0, 0, 0x9D,               /* pushfq; orl $0x100, (%rsp); popfq */
        0x48, 0xB8, 1, 2, 3, 4, 5, 6, 7, 8,                     /* movabs $..., %rax */
        0x90,
        0x9C, 0x81, 0x24, 0x24, 0xFF, 0xFE, 0xFF, 0xFF, 0x9D,   /* pushfq; andl $~0x100...; popfq */
        0x90, 0xCC,
    };
    static const u64 wanted[] = { 19, 20, 21, 28, 29 };
    u8 *p = page(PROT_READ | PROT_WRITE | PROT_EXEC);
    memcpy(p, code, sizeof code);
    for (int round = 0; round < 2; round++) {
        on_signal = step;
        steps = 0;
        run_bytes(p);
        SAME(caught.c.r[RAX], 0x0807060504030201);
        SAME(caught.c.rip, (u64)p + sizeof code);
        SAME(steps, 5);
        for (int i = 0; i < 5; i++)
            SAME(seen[i] - (u64)p, wanted[i]);
    }
}

TEST(trapflag, branches)
{
    check_steps("branches",
        CODE(STEPS(places_flow, "10f, 11f, 20f, 12f, 11f, 20f, 12f, 13f, 14f, 15f, 16f, "
                                  "17f, 21f, 19f, " CLEARING)
             SET "10: mov $2, %ecx\n"
             "11: call 20f\n"
             "12: loop 11b\n"
             "13: jmp 14f; ud2; 14: xor %eax, %eax; 15: jnz 30f; 16: jz 17f; ud2\n"
             "20: ret\n"
             "17: lea 90f(%rip), %rax; 21: jmp 19f; 19: jmp *%rax; ud2\n"
             CLEAR_STEPS "jmp 30f; 30:"), places_flow);
}

TEST(trapflag, repeated_strings)
{
    static u8 from[16] = "0123456789abcdef", to[16];
    void *code = CODE(STEPS(places_rep, "10f, 11f, 11f, 11f, 12f, 13f, " CLEARING)
                      "mov %r8, %rsi; mov %r9, %rdi; mov $3, %ecx;"
                      SET "10: nop; 11: rep movsb; 12: xor %ecx, %ecx; 13: repe cmpsb;" CLEAR_STEPS);
    on_signal = step;
    struct registers c = at(code);
    c.r[R8] = (u64)from;
    c.r[R9] = (u64)to;
    run(&c);
    for (int i = 0; i < 6; i++)
        same("a step's place", seen[i], places_rep[i]);
    SAME(steps, 10);
    SAME(memcmp(to, "012", 4), 0);
}

/* Instructions that a hypervisor has to perform itself are one step each. */
TEST(trapflag, sensitive_instructions)
{
    check_steps("sensitive",
        CODE(STEPS(places_sensitive, "10f, 11f, 12f, 13f, 14f, 15f, 16f, 17f, 18f, " CLEARING)
             "mov $0x33, %ecx; xor %eax, %eax;"
             SET "10: cpuid; 11: rdtsc; 12: lar %ecx, %edx; 13: mov %cs, %ecx; 14: lsl %ecx, %eax\n"
             "15: verr %cx; 16: pushfq; 17: mov %ecx, %r8d; 18: add $8, %rsp;" CLEAR_STEPS),
        places_sensitive);
}

/* MOV SS holds the trap back until the next instruction is done. */
TEST(trapflag, mov_ss_shadow)
{
    check_steps("mov ss",
        CODE(STEPS(places_shadow, "10f, 11f, 13f, " CLEARING)
             SET "10: mov %ss, %eax; 11: mov %eax, %ss; 12: nop; 13: nop;" CLEAR_STEPS),
        places_shadow);
}

/* The kernel returns from a system call with TF set: the instruction after it is done, then. */
TEST(trapflag, system_call)
{
    check_steps("system call",
        CODE(STEPS(places_syscall, "10f, 11f, 13f, " CLEARING)
             SET "10: mov $39, %eax; 11: syscall; 12: mov %eax, %ebx; 13: nop;" CLEAR_STEPS),
        places_syscall);
    SAME(caught.c.r[RBX], getpid());
}

/* A page fault between two steps is repaired and stepped over once. */
static u8 *hole;

static int step_or_fill(struct caught *c, ucontext_t *frame)
{
    if (c->number != SIGSEGV)
        return step(c, frame);
    MUST(mprotect(hole, PAGE, PROT_READ | PROT_WRITE));
    return 1;
}

extern const u64 places_fault[];

TEST(trapflag, page_fault)
{
    void *code = CODE(STEPS(places_fault, "10f, 11f, 12f, " CLEARING)
                      SET "10: mov $7, %eax; 11: add %eax, (%rdi); 12: nop;" CLEAR_STEPS);
    hole = page(PROT_NONE);
    on_signal = step_or_fill;
    struct registers c = at(code);
    c.r[RDI] = (u64)hole;
    run(&c);
    for (int i = 0; places_fault[i]; i++)
        same("a step's place", seen[i], places_fault[i]);
    SAME(steps, 7);
    SAME(*hole, 7);
}

/* Ten thousand steps of a loop come out as without. */
TEST(trapflag, long_loop)
{
    static const char text[] = "the quick brown fox jumps over the lazy dog";
    void *plain = CODE("1: movzbl (%rsi), %eax; crc32l %eax, %ebx; inc %rsi; dec %ecx; jnz 1b");
    void *stepped = CODE(SET "1: movzbl (%rsi), %eax; crc32l %eax, %ebx; inc %rsi; dec %ecx; jnz 1b;"
                         CLEAR);
    struct registers c = at(plain);
    c.r[RSI] = (u64)text;
    c.r[RCX] = sizeof text - 1;
    run(&c);
    u64 sum = caught.c.r[RBX];
    on_signal = step;
    for (int i = 0; i < 20; i++) {
        struct registers d = at(stepped);
        d.r[RSI] = (u64)text;
        d.r[RCX] = sizeof text - 1;
        steps = 0;
        run(&d);
        check_end("loop", stepped);
        SAME(caught.c.r[RBX], sum);
        SAME(steps, 5 * (sizeof text - 1) + 4);
    }
}
