/* The bases of FS and GS: set by instructions, by arch_prctl and by selectors, and kept. */
#include "selftest.h"
#include <asm/prctl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>

static void need(void)
{
    if (!has_fsgsbase())
        skip("no FSGSBASE");
}

static inline u64 read_gs(void)
{
    u64 base;
    asm volatile("rdgsbase %0" : "=r"(base));
    return base;
}

static inline void write_gs(u64 base)
{
    asm volatile("wrgsbase %0" :: "r"(base) : "memory");
}

static inline u16 selector_gs(void)
{
    u16 selector;
    asm volatile("mov %%gs, %0" : "=r"(selector));
    return selector;
}

static inline void load_gs(u16 selector)
{
    asm volatile("mov %0, %%gs" :: "r"(selector) : "memory");
}

static u64 told_gs(void)
{
    u64 base = 1;
    MUST(raw_syscall(SYS_arch_prctl, ARCH_GET_GS, (long)&base, 0));
    return base;
}

static const u64 bases[] = {
    0, 1, 0x1000, 0x7FFFFFFFEFFF, 0x12345678, 0xFFFFFFFF, 0x100000000, 0x7FFFFFFFFFFF,
    0xFFFF800000000000, 0xFFFFFFFFFFFFFFFF,
};

TEST(fsgsbase, written_and_read)
{
    need();
    void *code = CODE("wrgsbase %rbx; rdgsbase %rcx; rdgsbase %esi; wrgsbase %ebx; rdgsbase %rdx\n"
                      "wrfsbase %rbx; rdfsbase %r8; rdfsbase %r9d; wrfsbase %ebx; rdfsbase %r10");
    for (size_t i = 0; i < COUNT(bases); i++) {
        struct registers c = at(code);
        c.r[RBX] = bases[i];
        for (int r = RSI; r <= R9; r++)
            c.r[r] = ~0ul;
        run(&c);
        check_end("bases", code);
        SAME(caught.c.r[RCX], bases[i]);
        SAME(caught.c.r[RSI], (u32)bases[i]);
        SAME(caught.c.r[RDX], (u32)bases[i]);
        SAME(caught.c.r[R8], bases[i]);
        SAME(caught.c.r[R9], (u32)bases[i]);
        SAME(caught.c.r[R10], (u32)bases[i]);
        SAME(caught.fs_base, (u32)bases[i]);
    }
}

TEST(fsgsbase, not_canonical)
{
    need();
    void *codes[] = { CODE(MARK "wrgsbase %rbx"), CODE(MARK "wrfsbase %rbx") };
    static const u64 wrong[] = { NON_CANONICAL, 0x8000000000000000, 0xFFFF7FFFFFFFFFFF };
    write_gs(0x5000);
    for (size_t i = 0; i < COUNT(codes); i++)
        for (size_t k = 0; k < COUNT(wrong); k++) {
            struct registers c = at(codes[i]);
            c.r[RBX] = wrong[k];
            run(&c);
            check_fault("wrbase", codes[i], SIGSEGV, V_GP, 0);
            SAME(read_gs(), 0x5000);
        }
}

TEST(fsgsbase, arch_prctl)
{
    u64 value = 0x1122334455667788;
    void *code = CODE("mov %gs:0, %rax; mov %gs:(%rbx), %rcx; mov %gs:-8(%rdx,%rbx), %rsi\n"
                      ".byte 0x65; lea 16(%rbx), %rdi");
    MUST(raw_syscall(SYS_arch_prctl, ARCH_SET_GS, (long)&value, 0));
    SAME(told_gs(), (u64)&value);
    struct registers c = at(code);
    c.r[RDX] = 8;
    run(&c);
    check_end("loads", code);
    SAME(caught.c.r[RAX], value);
    SAME(caught.c.r[RCX], value);
    SAME(caught.c.r[RSI], value);
    SAME(caught.c.r[RDI], 16);
    /* The kernel takes no base of its own half, nor one that is not canonical. */
    SAME(raw_syscall(SYS_arch_prctl, ARCH_SET_GS, (long)KERNEL_ADDRESS, 0), -EPERM);
    SAME(raw_syscall(SYS_arch_prctl, ARCH_SET_FS, (long)NON_CANONICAL, 0), -EPERM);
    SAME(told_gs(), (u64)&value);
    if (has_fsgsbase())
        SAME(read_gs(), (u64)&value);
}

/* Addresses are formed with 64 bits and wrap; what is reached is checked, not the base. */
TEST(fsgsbase, addresses)
{
    need();
    u64 value = 0xABCDEF;
    void *load = CODE(MARK "mov %gs:(%rdi), %rax");
    struct registers c = at(load);
    write_gs(0xFFFFFFFFFFFFF000);
    c.r[RDI] = (u64)&value + 0x1000;
    run(&c);
    check_end("a base in the kernel's half", load);
    SAME(caught.c.r[RAX], value);
    write_gs(KERNEL_ADDRESS);
    c.r[RDI] = 16;
    run(&c);
    check_pf("kernel", code_mark(load), PF_P | PF_U, KERNEL_ADDRESS + 16);
    write_gs(0x7FFFFFFFFFF8);
    run(&c);
    check_fault("not canonical", load, SIGSEGV, V_GP, 0);
    write_gs(8);
    run(&c);
    check_pf("absent", code_mark(load), PF_U, 24);
    /* An address-size prefix truncates before the base is added. */
    void *narrow = CODE("addr32 mov %gs:(%edi), %rax");
    c = at(narrow);
    write_gs((u64)&value - 0x10);
    c.r[RDI] = 0xFFFFFFFF00000010;
    run(&c);
    check_end("32-bit address", narrow);
    SAME(caught.c.r[RAX], value);
}

TEST(fsgsbase, null_selector_clears_the_base)
{
    need();
    for (u16 selector = 0; selector < 4; selector++) {
        write_gs(0x77000);
        load_gs(selector);
        SAME(read_gs(), 0);
        SAME(selector_gs(), selector);
    }
    write_gs(0x77000);
    load_gs(USER_SS);
    SAME(read_gs(), 0);
    SAME(selector_gs(), USER_SS);
    /* A base written later is beside the selector, whatever that is. */
    write_gs(0x88000);
    SAME(selector_gs(), USER_SS);
    sched_yield();
    SAME(read_gs(), 0x88000);
    SAME(told_gs(), 0x88000);
    load_gs(0);
}

/* A thread that switches all the time with another one, which has bases of its own. */
struct hold {
    u16 selector;
    u64 base;
    int turns;
};
static volatile int holding;

static void *hold(void *given)
{
    const struct hold *h = given;
    load_gs(h->selector);
    write_gs(h->base);
    __atomic_fetch_add(&holding, 1, __ATOMIC_SEQ_CST);
    while (holding < 3)
        sched_yield();
    for (int i = 0; i < h->turns; i++) {
        sched_yield();
        if (read_gs() != h->base || selector_gs() != h->selector)
            fail("base %#lx selector %#x for %#lx %#x in turn %d", read_gs(), selector_gs(),
                 h->base, h->selector, i);
    }
    return NULL;
}

TEST(fsgsbase, kept_over_switches)
{
    need();
    static struct hold holds[] = {
        { 0, 0x1234567000, 1500 }, { USER_SS, 0, 1500 }, { USER_SS, 0x7000000000, 1500 },
    };
    pthread_t threads[3];
    for (int i = 0; i < 3; i++)
        SAME(pthread_create(&threads[i], NULL, hold, &holds[i]), 0);
    for (int i = 0; i < 3; i++)
        SAME(pthread_join(threads[i], NULL), 0);
}

/* The same by the timer: loops that never enter the kernel by themselves. */
TEST(fsgsbase, kept_over_preemption)
{
    need();
    pid_t children[3];
    for (u64 i = 0; i < 3; i++) {
        children[i] = (pid_t)MUST(fork());
        if (children[i])
            continue;
        u64 base = 0x100000 * (i + 1), start = 0, now = 0;
        write_gs(base);
        do {
            u32 low, high;
            asm volatile("rdtsc" : "=a"(low), "=d"(high));
            now = (u64)high << 32 | low;
            start = start ? start : now;
            if (read_gs() != base)
                fail("base %#lx for %#lx", read_gs(), base);
        } while (now - start < 150000000);
        _exit(0);
    }
    for (int i = 0; i < 3; i++)
        join(children[i]);
}

TEST(fsgsbase, inherited_by_fork)
{
    need();
    write_gs(0x4321000);
    pid_t child = (pid_t)MUST(fork());
    if (!child) {
        same("in the child", read_gs(), 0x4321000);
        write_gs(0x999000);
        sched_yield();
        same("in the child, later", read_gs(), 0x999000);
        _exit(0);
    }
    sched_yield();
    join(child);
    SAME(read_gs(), 0x4321000);
    load_gs(USER_SS);
    child = (pid_t)MUST(fork());
    if (!child) {
        same("selector in the child", selector_gs(), USER_SS);
        same("base in the child", read_gs(), 0);
        _exit(0);
    }
    join(child);
    load_gs(0);
}

static volatile u64 in_handler;

static void handler(int number)
{
    (void)number;
    in_handler = read_gs();
    write_gs(in_handler + 0x1000);
}

/* A handler finds the bases as they were, and what it writes stays: frames do not hold them. */
TEST(fsgsbase, handlers)
{
    need();
    signal(SIGUSR1, handler);
    write_gs(0x50000);
    MUST(raise(SIGUSR1));
    SAME(in_handler, 0x50000);
    SAME(read_gs(), 0x51000);
}

/* Many accesses through a base that changes between them, in one loop. */
TEST(fsgsbase, moving_base)
{
    need();
    static u64 table[512];
    for (u64 i = 0; i < COUNT(table); i++)
        table[i] = i * i;
    void *code = CODE("1: wrgsbase %rdi; add %gs:0, %rax; add $8, %rdi; dec %ecx; jnz 1b");
    struct registers c = at(code);
    c.r[RDI] = (u64)table;
    c.r[RCX] = COUNT(table);
    run(&c);
    check_end("loop", code);
    SAME(caught.c.r[RAX], 511ul * 512 * 1023 / 6);
}
