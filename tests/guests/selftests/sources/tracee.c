#include "tracee.h"

pid_t trace(const struct registers *c)
{
    pid_t child = (pid_t)MUST(fork());
    if (!child) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        _exit(98);
    }
    int status = status_of(child);
    CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
    MUST(ptrace(PTRACE_SETOPTIONS, child, 0, PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD));
    regs_t r = regs_of(child);
    const u64 *from = c->r;
    r.rax = from[RAX]; r.rcx = from[RCX]; r.rdx = from[RDX]; r.rbx = from[RBX];
    r.rsp = from[RSP]; r.rbp = from[RBP]; r.rsi = from[RSI]; r.rdi = from[RDI];
    r.r8 = from[R8]; r.r9 = from[R9]; r.r10 = from[R10]; r.r11 = from[R11];
    r.r12 = from[R12]; r.r13 = from[R13]; r.r14 = from[R14]; r.r15 = from[R15];
    r.rip = c->rip;
    r.eflags = c->rflags;
    r.orig_rax = ~0ul;      /* not in a system call that might be restarted */
    set_regs(child, &r);
    return child;
}

pid_t trace_code(const void *code)
{
    struct registers c = at(code);
    return trace(&c);
}

int resume(pid_t child, int request, int number)
{
    MUST(ptrace((enum __ptrace_request)request, child, 0, number));
    int status = status_of(child);
    if (!WIFSTOPPED(status))
        fail("the traced child ended with wait status %#x", (unsigned)status);
    return WSTOPSIG(status);
}

regs_t regs_of(pid_t child)
{
    regs_t r;
    MUST(ptrace(PTRACE_GETREGS, child, 0, &r));
    return r;
}

void set_regs(pid_t child, const regs_t *r)
{
    MUST(ptrace(PTRACE_SETREGS, child, 0, r));
}

siginfo_t info_of(pid_t child)
{
    siginfo_t info;
    MUST(ptrace(PTRACE_GETSIGINFO, child, 0, &info));
    return info;
}

void finish(pid_t child, const void *code)
{
    check_stop("end", child, resume(child, PTRACE_CONT, 0), SIGTRAP, code_end(code) + 1);
}

void drop(pid_t child)
{
    kill(child, SIGKILL);
    status_of(child);
}

void check_stop(const char *name, pid_t child, int got, int number, u64 rip)
{
    regs_t r = regs_of(child);
    if (got != number || r.rip != rip)
        fail("%s: signal %d at %#lx for signal %d at %#lx", name, got, (u64)r.rip, number, rip);
}
