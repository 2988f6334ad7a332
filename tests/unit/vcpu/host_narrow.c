/* Runs single instructions of 16- and 32-bit code on the host's own processor, at ring 3.
 *
 * Segments with limits and of all types are in an LDT.  The shared file begins with a struct run,
 * and its second part is memory at a low address.  A byte on fd 0 starts an instruction; a single
 * step, INT3 or a fault ends it, and a byte on fd 1 says so.
 */
#include "host.h"

enum { MAX_SEGMENTS = 16 };

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

static struct run *run_;
static int inside;

void enter(struct run *r, u64 *frame) __attribute__((visibility("hidden")));

/* With a 16-bit stack segment IRETQ keeps bits 31..16 of RSP: those of the frame's address. */
__asm__(".text\n"
        "enter: " SAVE
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
        "iretq\n");

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
    leave(m);
}

__attribute__((used, noreturn)) static void run(void)
{
    static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP};
    run_ = (void *)sys6(__NR_mmap, 0, PAGE, 3, 1, SHM_FD, 0);
    if ((u64)run_ > -4096ul)
        die(2);
    map_shared(run_->base, run_->size, 7, PAGE);
    map_shared(run_->frame & -PAGE, PAGE, 3, PAGE + run_->size);
    sys3(__NR_mprotect, run_->base + run_->hole, PAGE, 0);
    sys3(__NR_mprotect, run_->base + run_->read_only, PAGE, 1);
    set_descriptors(run_->segments, run_->count);
    catch_signals(signals, sizeof signals / sizeof *signals, SA_NODEFER);
    char byte = 0;
    sys3(__NR_write, 1, &byte, 1);
    while (sys3(__NR_read, 0, &byte, 1) == 1) {
        inside = 1;
        enter(run_, (u64 *)(u64)run_->frame);
        sys3(__NR_write, 1, &byte, 1);
    }
    die(0);
}
