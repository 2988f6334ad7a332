/* Runs single instructions of 16- and 32-bit code on the host's own processor, at ring 3.
 *
 * A freestanding process (no libc: its segment registers belong to the instructions) that shares
 * one file with the test.  The file begins with a struct run, and its second part is memory at
 * a low address.  Segments with limits and of all types are in an LDT.  A byte on fd 0 starts an
 * instruction, which is entered by IRETQ; a single step, INT3 or a fault ends it, and a byte on
 * fd 1 says so.
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

enum { XSAVE_SIZE = 832, SHM_FD = 3, PAGE = 4096, MAX_SEGMENTS = 16 };

struct run {
    u64 gpr[8];
    u64 rip, rflags;
    u16 selector[6]; /* ES CS SS DS FS GS */
    u8 pad[36];
    u8 xsave[XSAVE_SIZE] __attribute__((aligned(64)));
    u32 vector, error;
    u64 cr2;
    /* read once, at the beginning */
    u32 base, size, hole, read_only, frame, count;
    struct user_desc segments[MAX_SEGMENTS];
};

_Static_assert(offsetof(struct run, xsave) == 128, "layout shared with host_narrow.py");
_Static_assert(offsetof(struct run, vector) == 960, "layout shared with host_narrow.py");
_Static_assert(offsetof(struct run, segments) == 1000, "layout shared with host_narrow.py");

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

/* Reached from assembly by name. */
__attribute__((visibility("hidden"), used)) u64 saved_rsp;

static struct run *run_;
static int inside;
static u8 alt_stack[65536] __attribute__((aligned(64)));

void enter(struct run *r, u64 *frame) __attribute__((visibility("hidden")));
void finished(void) __attribute__((visibility("hidden")));
void on_signal(int, siginfo_t *, void *) __attribute__((visibility("hidden")));
void restorer(void) __attribute__((visibility("hidden")));

/* With a 16-bit stack segment IRETQ keeps bits 31..16 of RSP: those of the frame's address. */
__asm__(".text\n"
        "on_signal: pushq $2; popfq; jmp handle\n"
        "restorer: movl $15, %eax; syscall\n"
        "enter: push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
        "mov %rsp, saved_rsp(%rip)\n"
        "mov $7, %eax; xor %edx, %edx; xrstor64 128(%rdi)\n"
        "mov %rsi, %rsp\n"
        "mov 64(%rdi), %rax; mov %rax, (%rsp)\n"
        "movzwl 82(%rdi), %eax; mov %rax, 8(%rsp)\n"
        "mov 72(%rdi), %rax; mov %rax, 16(%rsp)\n"
        "mov 32(%rdi), %rax; mov %rax, 24(%rsp)\n"
        "movzwl 84(%rdi), %eax; mov %rax, 32(%rsp)\n"
        "mov 80(%rdi), %es; mov 86(%rdi), %ds; mov 88(%rdi), %fs; mov 90(%rdi), %gs\n"
        "mov (%rdi), %rax; mov 8(%rdi), %rcx; mov 16(%rdi), %rdx; mov 24(%rdi), %rbx\n"
        "mov 40(%rdi), %rbp; mov 48(%rdi), %rsi; mov 56(%rdi), %rdi\n"
        "iretq\n"
        "finished: pushq $0x202; popfq\n"
        "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx; ret\n"
        ".globl _start\n"
        "_start: xor %ebp, %ebp; and $-16, %rsp; call serve; ud2\n");

__attribute__((noreturn)) static void die(int code)
{
    for (;;)
        sys3(__NR_exit_group, code, 0, 0);
}

static void copy(void *to, const void *from, u64 n)
{
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

__attribute__((used)) static void handle(int sig, siginfo_t *info, struct ucontext *uc)
{
    struct sigcontext *m = &uc->uc_mcontext;
    struct run *r = run_;
    (void)sig;
    (void)info;
    if (!inside)
        die(3);
    inside = 0;
    const u64 regs[8] = {m->rax, m->rcx, m->rdx, m->rbx, m->rsp, m->rbp, m->rsi, m->rdi};
    for (int i = 0; i < 8; i++)
        r->gpr[i] = regs[i];
    r->rip = m->rip;
    r->rflags = m->eflags;
    copy(r->xsave, (void *)m->fpstate, XSAVE_SIZE);
    r->vector = m->trapno;
    r->error = m->err;
    r->cr2 = m->cr2;
    m->fpstate = NULL;
    m->cs = 0x33;
    m->ss = 0x2b;
    m->eflags = 0x202;
    m->rsp = saved_rsp;
    m->rip = (u64)finished;
}

static void map(u64 at, u64 size, int prot, u64 offset)
{
    const int flags = 0x100001 | 0x8000; /* FIXED_NOREPLACE, SHARED, POPULATE */
    if (sys6(__NR_mmap, at, size, prot, flags, SHM_FD, offset) != (long)at)
        die(4);
}

__attribute__((used, noreturn)) static void serve(void)
{
    static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP};
    stack_t ss = {.ss_sp = alt_stack, .ss_size = sizeof alt_stack};
    run_ = (void *)sys6(__NR_mmap, 0, PAGE, 3, 1, SHM_FD, 0);
    if ((u64)run_ > -4096ul)
        die(2);
    map(run_->base, run_->size, 7, PAGE);
    map(run_->frame & -PAGE, PAGE, 3, PAGE + run_->size);
    sys3(__NR_mprotect, run_->base + run_->hole, PAGE, 0);
    sys3(__NR_mprotect, run_->base + run_->read_only, PAGE, 1);
    for (u32 i = 0; i < run_->count; i++)
        if (sys3(__NR_modify_ldt, 0x11, &run_->segments[i], sizeof(struct user_desc)))
            die(5);
    sys3(__NR_sigaltstack, &ss, 0, 0);
    for (u32 i = 0; i < sizeof signals / sizeof *signals; i++) {
        struct sigaction act = {0};
        act.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTORER | SA_NODEFER;
        act.sa_handler = (__sighandler_t)(void *)on_signal;
        act.sa_restorer = restorer;
        if (sys6(__NR_rt_sigaction, signals[i], (long)&act, 0, 8, 0, 0))
            die(6);
    }
    char byte = 0;
    sys3(__NR_write, 1, &byte, 1);
    while (sys3(__NR_read, 0, &byte, 1) == 1) {
        inside = 1;
        enter(run_, (u64 *)(u64)run_->frame);
        sys3(__NR_write, 1, &byte, 1);
    }
    die(0);
}
