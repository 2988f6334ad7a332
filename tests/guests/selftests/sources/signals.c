/* Signal handlers: what they find, and that what they interrupt does not notice. */
#include "selftest.h"
#include <setjmp.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

static u8 image[FP_SIZE] ALIGNED(64);

static struct registers with_patterns(const void *code)
{
    struct registers c = at(code);
    for (int i = 0; i < 16; i++)
        if (i != RSP)
            c.r[i] = 0x0123456789ABCDEFul * (u64)(2 * i + 1);
    fill_fp(image, 0x21);
    c.r[RDI] = (u64)image;
    c.r[RAX] = fp_mask();
    c.r[RDX] = 0;
    c.rflags |= F_CF | F_AF | F_SF | F_OF | F_DF;
    return c;
}

static void check_kept(const struct registers *c, u64 except)
{
    for (int i = 0; i < 16; i++)
        if (!(except >> i & 1))
            same("a register", caught.c.r[i], c->r[i]);
    SAME(caught.c.rflags & (F_ARITH | F_DF | F_TF | F_NT | F_AC), c->rflags & ~(u64)(F_1 | F_IF));
    check_fp("after", caught.fp, image);
}

static int clobber(struct caught *c, ucontext_t *frame)
{
    (void)frame;
    if (c->count > 1)
        return 0;
    check_fp("in the frame", c->fp, image);
    clobber_fp();
    return 1;
}

TEST(signals, state_kept_over_a_trap)
{
    on_signal = clobber;
    void *code = CODE(FP_RESTORE "int3");
    struct registers c = with_patterns(code);
    run(&c);
    check_end("int3", code);
    check_kept(&c, 0);
}

u64 signals_stop;
static int alarms;

static void on_alarm(int number)
{
    (void)number;
    clobber_fp();
    if (++alarms == 40)
        signals_stop = 1;
}

/* A timer interrupts a loop that changes nothing but RCX. */
TEST(signals, state_kept_over_interruptions)
{
    struct itimerval often = { { 0, 2000 }, { 0, 2000 } }, never = { 0 };
    signal(SIGALRM, on_alarm);
    void *code = CODE(FP_RESTORE "1: mov signals_stop(%rip), %rcx; jrcxz 1b");
    struct registers c = with_patterns(code);
    MUST(setitimer(ITIMER_REAL, &often, NULL));
    run(&c);
    MUST(setitimer(ITIMER_REAL, &never, NULL));
    check_end("loop", code);
    check_kept(&c, 1 << RCX);
}

TEST(signals, flags_kept)
{
    void *code = CODE("int3" AFTER "nop; nop");
    for (u64 bits = 0; bits < 128; bits++) {
        u64 f = (bits & 1) * F_CF | (bits >> 1 & 1) * F_PF | (bits >> 2 & 1) * F_AF
            | (bits >> 3 & 1) * F_ZF | (bits >> 4 & 1) * F_SF | (bits >> 5 & 1) * F_OF
            | (bits >> 6 & 1) * F_DF;
        struct registers c = at(code);
        c.rflags |= f;
        run(&c);
        SAME(caught.c.rip, code_after(code));
        SAME(caught.c.rflags, f | F_1 | F_IF);
        SAME(caught.handler_flags & (F_DF | F_TF | F_NT | F_AC), 0);
    }
}

/* The handler's own state, stored by signals_probe in enter.S. */
struct {
    u64 rsp, rdi, rsi, rdx, rflags;
    u32 mxcsr;
    u16 fcw;
} signals_probed;
void signals_probe(int number, siginfo_t *info, void *context);

TEST(signals, state_of_a_handler)
{
    struct sigaction action = { .sa_sigaction = signals_probe, .sa_flags = SA_SIGINFO };
    MUST(sigaction(SIGUSR1, &action, NULL));
    void *code = CODE(FP_RESTORE "mov %rbx, %rax; mov %rbp, %rdi; mov $10, %esi; syscall");
    struct registers c = with_patterns(code);
    c.r[RBX] = SYS_kill;
    c.r[RBP] = (u64)getpid();
    run(&c);
    check_end("kill", code);
    SAME(caught.c.r[RAX], 0);
    SAME(signals_probed.rsp & 15, 8);
    SAME(signals_probed.rdi, SIGUSR1);
    CHECK(signals_probed.rsi > signals_probed.rsp && signals_probed.rsi < c.r[RSP]);
    CHECK(signals_probed.rdx > signals_probed.rsp && signals_probed.rdx < c.r[RSP]);
    SAME(signals_probed.rflags & (F_DF | F_TF | F_NT | F_AC), 0);
    SAME(signals_probed.mxcsr, 0x1F80);
    SAME(signals_probed.fcw, 0x037F);
    check_fp("after", caught.fp, image);
}

TEST(signals, red_zone_kept)
{
    signal(SIGUSR1, on_alarm);
    void *code = CODE("syscall");
    struct registers c = at(code);
    c.r[RAX] = SYS_kill;
    c.r[RDI] = (u64)getpid();
    c.r[RSI] = SIGUSR1;
    u8 *zone = (u8 *)c.r[RSP] - 128;
    memset(zone - 4096, 0x5A, 4096 + 128);
    run(&c);
    check_end("kill", code);
    SAME(alarms, 1);
    for (int i = 0; i < 128; i++)
        SAME(zone[i], 0x5A);
    CHECK(memchr(zone - 4096, 0, 4096) != NULL);
}

static u8 other_image[FP_SIZE] ALIGNED(64);

static int rewrite(struct caught *c, ucontext_t *frame)
{
    static const int order[16] = {
        REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
        REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15,
    };
    if (c->count > 1)
        return 0;
    for (int i = 0; i < 16; i++)
        if (i != RSP)
            frame->uc_mcontext.gregs[order[i]] = (greg_t)(0xFEDCBA9876543210ul + (u64)i);
    frame->uc_mcontext.gregs[REG_RSP] -= 64;
    frame->uc_mcontext.gregs[REG_RIP]++;
    frame->uc_mcontext.gregs[REG_EFL] ^= F_CF | F_OF | F_DF | F_ZF | F_IF | F_IOPL | F_NT;
    u8 *state = (u8 *)frame->uc_mcontext.fpregs;
    fill_fp(other_image, 0x99);
    memcpy(state, other_image, 464);
    if (has_avx())
        memcpy(state + 512, other_image + 512, 64 + 256);
    return 1;
}

TEST(signals, frame_may_be_changed)
{
    on_signal = rewrite;
    void *code = CODE(FP_RESTORE "int3; .byte 0x0F; nop");
    struct registers c = with_patterns(code);
    run(&c);
    check_end("int3", code);
    for (int i = 0; i < 16; i++)
        same("a register", caught.c.r[i], i == RSP ? c.r[RSP] - 64 : 0xFEDCBA9876543210ul + (u64)i);
    SAME(caught.c.rflags, (c.rflags ^ (F_CF | F_OF | F_DF | F_ZF)));
    check_fp("after", caught.fp, other_image);
}

static volatile int depth, deepest;

static void nest(int number)
{
    u64 xmm = 0x1234567800000000ul + (u64)number, after;
    asm volatile("movq %0, %%xmm9" :: "r"(xmm) : "xmm9");
    if (++depth < 60) {
        if (number == SIGUSR1)
            raw_syscall(SYS_kill, raw_syscall(SYS_getpid, 0, 0, 0), SIGUSR2, 0);
        else
            asm volatile("int3");
    }
    deepest = depth;
    asm volatile("movq %%xmm9, %0" : "=r"(after));
    if (after != xmm)
        fail("xmm9 in a nested handler");
}

TEST(signals, nested)
{
    static const int numbers[] = { SIGUSR1, SIGUSR2, SIGTRAP };
    struct sigaction action = { .sa_handler = nest, .sa_flags = SA_NODEFER };
    for (size_t i = 0; i < COUNT(numbers); i++)
        MUST(sigaction(numbers[i], &action, NULL));
    MUST(kill(getpid(), SIGUSR1));
    SAME(deepest, 60);
    SAME(depth, 60);
}

static volatile int running, overlapped, handled;

static void slowly(int number)
{
    (void)number;
    overlapped |= running;
    running = 1;
    if (handled++ == 0)
        raw_syscall(SYS_kill, getpid(), SIGUSR1, 0);
    running = 0;
}

TEST(signals, blocked_in_its_own_handler)
{
    signal(SIGUSR1, slowly);
    MUST(kill(getpid(), SIGUSR1));
    SAME(handled, 2);
    SAME(overlapped, 0);
}

static u8 alternate[65536] ALIGNED(16);
static sigjmp_buf back;
static volatile int on_alternate;

static void overflowed(int number)
{
    (void)number;
    u8 here;
    on_alternate += &here > alternate && &here < alternate + sizeof alternate;
    siglongjmp(back, 1);
}

static NOINLINE u64 endless(u64 n)
{
    volatile u8 room[1000];
    room[n % 1000] = (u8)n;
    return n ? endless(n + 1) + room[n % 999] : 0;
}

static volatile int recovered;

/* A stack overflow, thrice, handled on an alternate stack. */
TEST(signals, stack_overflow)
{
    stack_t stack = { .ss_sp = alternate, .ss_size = sizeof alternate };
    struct sigaction action = { .sa_handler = overflowed, .sa_flags = SA_ONSTACK };
    struct rlimit limit = { 1 << 20, 1 << 20 };
    MUST(setrlimit(RLIMIT_STACK, &limit));
    MUST(sigaltstack(&stack, NULL));
    MUST(sigaction(SIGSEGV, &action, NULL));
    for (; recovered < 3; recovered++)
        if (!sigsetjmp(back, 1))
            endless(1);
    SAME(on_alternate, 3);
}

static void without_a_stack(void)
{
    stack_t none = { .ss_flags = SS_DISABLE };
    sigaltstack(&none, NULL);
    signal(SIGUSR1, nest);
    asm volatile("mov $8, %%esp; mov $39, %%eax; syscall; mov %%eax, %%edi; mov $62, %%eax\n"
                 "mov $10, %%esi; syscall" ::: "rax", "rcx", "rdi", "rsi", "r11", "memory");
}

TEST(signals, no_room_for_a_frame)
{
    SAME(in_child(without_a_stack) & 0x7F, SIGSEGV);
}

static int order[8], values[8], queued;

static void in_order(int number, siginfo_t *info, void *context)
{
    (void)context;
    order[queued & 7] = number;
    values[queued++ & 7] = info->si_value.sival_int;
}

TEST(signals, queued_in_order)
{
    sigset_t set, before;
    sigemptyset(&set);
    struct sigaction action = { .sa_sigaction = in_order, .sa_flags = SA_SIGINFO };
    sigfillset(&action.sa_mask);
    for (int i = 0; i < 3; i++) {
        sigaddset(&set, SIGRTMIN + i);
        MUST(sigaction(SIGRTMIN + i, &action, NULL));
    }
    MUST(sigprocmask(SIG_BLOCK, &set, &before));
    for (int i = 0; i < 6; i++)
        MUST(sigqueue(getpid(), SIGRTMIN + 2 - i % 3, (union sigval){ .sival_int = i }));
    SAME(queued, 0);
    MUST(sigprocmask(SIG_SETMASK, &before, NULL));
    SAME(queued, 6);
    for (int i = 0; i < 6; i++) {
        SAME(order[i], SIGRTMIN + i / 2);
        SAME(values[i], 2 - i / 2 + 3 * (i % 2));
    }
}

static int ends[2];

static void answer(int number)
{
    (void)number;
    if (++alarms == 3 && write(ends[1], "x", 1) != 1)
        fail("write");
}

TEST(signals, interrupted_system_calls)
{
    struct itimerval often = { { 0, 5000 }, { 0, 5000 } }, never = { 0 };
    struct sigaction action = { .sa_handler = answer };
    char c = 0;
    MUST(pipe(ends));
    MUST(sigaction(SIGALRM, &action, NULL));
    MUST(setitimer(ITIMER_REAL, &often, NULL));
    SAME(read(ends[0], &c, 1), -1);
    SAME(errno, EINTR);
    action.sa_flags = SA_RESTART;
    MUST(sigaction(SIGALRM, &action, NULL));
    SAME(read(ends[0], &c, 1), 1);
    SAME(c, 'x');
    CHECK(alarms >= 3);
    MUST(setitimer(ITIMER_REAL, &never, NULL));
}

static void sleep_long(void)
{
    struct timespec wanted = { 0, 200000000 }, from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    CHECK(nanosleep(&wanted, NULL) == 0);
    clock_gettime(CLOCK_MONOTONIC, &to);
    long ms = (to.tv_sec - from.tv_sec) * 1000 + (to.tv_nsec - from.tv_nsec) / 1000000;
    if (ms < 200)
        fail("slept %ld ms of 200", ms);
}

/* A stopped and continued sleep goes on by the kernel's restart block. */
TEST(signals, restarted_sleep)
{
    struct timespec ms20 = { 0, 20000000 };
    pid_t child = (pid_t)MUST(fork());
    if (!child) {
        sleep_long();
        _exit(0);
    }
    for (int i = 0; i < 3; i++) {
        nanosleep(&ms20, NULL);
        MUST(kill(child, SIGSTOP));
        MUST(waitpid(child, NULL, WUNTRACED));
        MUST(kill(child, SIGCONT));
    }
    join(child);
}
