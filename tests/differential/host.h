/* What processes that run code of tests on the host's own processor have in common.
 *
 * They are freestanding (no libc: segment registers belong to that code) and share one file with
 * the test, descriptor 3.  Code is entered by `enter`, which ends with IRETQ, and ends with a signal
 * that comes in 64-bit mode whatever the code was: `handle` notes the outcome and calls `leave`.
 */
#include <asm/ldt.h>
#include <asm/sigcontext.h>
#include <asm/siginfo.h>
#include <asm/signal.h>
#include <asm/ucontext.h>
#include <asm/unistd.h>
#include <stddef.h>
#include <stdint.h>

typedef uint64_t u64;
typedef uint32_t u32;
typedef uint16_t u16;
typedef uint8_t u8;

enum { XSAVE_SIZE = 832, SHM_FD = 3, PAGE = 4096 };

static long sys6(long n, long a, long b, long c, long d, long e, long f)
{
    register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
    long ret;
    __asm__ volatile("syscall" : "=a"(ret)
                     : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return ret;
}
#define sys3(n, a, b, c) sys6(n, (long)(a), (long)(b), (long)(c), 0, 0, 0)

static void copy(void *to, const void *from, u64 n)
{
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

__attribute__((noreturn)) static void die(int code)
{
    for (;;)
        sys3(__NR_exit_group, code, 0, 0);
}

/* Reached from assembly by name. */
__attribute__((visibility("hidden"), used)) u64 saved_rsp;

static u8 alt_stack[65536] __attribute__((aligned(64)));

void finished(void) __attribute__((visibility("hidden")));
void on_signal(int, siginfo_t *, void *) __attribute__((visibility("hidden")));
void restorer(void) __attribute__((visibility("hidden")));

/* `enter` begins with SAVE. */
#define SAVE "push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n" \
             "mov %rsp, saved_rsp(%rip)\n"

__asm__(".text\n"
        /* The code may leave NT or AC set: neither is right for C code. */
        "on_signal: pushq $2; popfq; jmp handle\n"
        "restorer: movl $15, %eax; syscall\n"
        "finished: pushq $0x202; popfq\n"
        "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx; ret\n"
        ".globl _start\n"
        "_start: xor %ebp, %ebp; and $-16, %rsp; call run; ud2\n");

/* Let a signal's handler return to the caller of `enter`. */
static void leave(struct sigcontext *m)
{
    m->fpstate = NULL;
    m->cs = 0x33;
    m->ss = 0x2b;
    m->eflags = 0x202;
    m->rsp = saved_rsp;
    m->rip = (u64)finished;
}

static void catch_signals(const int *signals, u32 count, int flags)
{
    stack_t ss = {.ss_sp = alt_stack, .ss_size = sizeof alt_stack};
    sys3(__NR_sigaltstack, &ss, 0, 0);
    for (u32 i = 0; i < count; i++) {
        struct sigaction act = {0};
        act.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTORER | flags;
        act.sa_handler = (__sighandler_t)(void *)on_signal;
        act.sa_restorer = restorer;
        if (sys6(__NR_rt_sigaction, signals[i], (long)&act, 0, 8, 0, 0))
            die(5);
    }
}

/* Map a part of the shared file at its address. */
static void map_shared(u64 at, u64 size, int prot, u64 offset)
{
    const int flags = 0x100001 | 0x8000; /* FIXED_NOREPLACE, SHARED, POPULATE */
    if (sys6(__NR_mmap, at, size, prot, flags, SHM_FD, offset) != (long)at)
        die(4); /* address randomization put something there: the test starts us again */
}

static void set_descriptors(struct user_desc *table, u64 count)
{
    for (u64 i = 0; i < count; i++)
        if (sys3(__NR_modify_ldt, 0x11, &table[i], sizeof *table))
            die(7);
}
