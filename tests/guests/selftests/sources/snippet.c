/* Snippets: running them, and the handler that records what ended them. */
#include "selftest.h"
#include <asm/prctl.h>
#include <sys/syscall.h>

struct caught caught;
int (*on_signal)(struct caught *c, ucontext_t *frame);
u8 work_stack[65536] ALIGNED(4096);
static u8 handler_stack[65536] ALIGNED(4096);
static u64 thread_base;

void enter(const struct registers *c);
extern u8 leave[];
extern u64 entered_rsp;

static const int from_frame[16] = {
    REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
    REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15,
};

static void on_fault(int number, siginfo_t *info, void *context)
{
    /* The kernel leaves AC as it is; the C library accesses memory at odd addresses. */
    u64 own_flags = flags();
    asm volatile("pushq %0; popfq" :: "r"(own_flags & ~(u64)F_AC) : "cc", "memory");
    /* A snippet may have changed FS, by which the C library finds its thread. */
    u64 base;
    raw_syscall(SYS_arch_prctl, ARCH_GET_FS, (long)&base, 0);
    raw_syscall(SYS_arch_prctl, ARCH_SET_FS, (long)thread_base, 0);

    ucontext_t *frame = context;
    greg_t *g = frame->uc_mcontext.gregs;
    caught.number = number;
    caught.code = info->si_code;
    caught.address = (u64)info->si_addr;
    caught.trapno = (u64)g[REG_TRAPNO];
    caught.error = (u64)g[REG_ERR];
    caught.cr2 = (u64)g[REG_CR2];
    for (int i = 0; i < 16; i++)
        caught.c.r[i] = (u64)g[from_frame[i]];
    caught.c.rip = (u64)g[REG_RIP];
    caught.c.rflags = (u64)g[REG_EFL];
    caught.cs = (u16)g[REG_CSGSFS];
    caught.ss = (u16)((u64)g[REG_CSGSFS] >> 48);
    caught.fs_base = base;
    caught.handler_flags = own_flags;
    caught.count++;
    memcpy(caught.fp, frame->uc_mcontext.fpregs, has_avx() ? FP_SIZE : 512);
    if (on_signal && on_signal(&caught, frame))
        return;
    g[REG_RIP] = (greg_t)leave;
    g[REG_RSP] = (greg_t)entered_rsp;
    g[REG_EFL] = F_1 | F_IF;
    g[REG_CSGSFS] = (greg_t)((u64)USER_SS << 48 | USER_CS);
}

void run(const struct registers *c)
{
    static const int numbers[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS };
    if (!thread_base) {
        MUST(raw_syscall(SYS_arch_prctl, ARCH_GET_FS, (long)&thread_base, 0));
        stack_t stack = { .ss_sp = handler_stack, .ss_size = sizeof handler_stack };
        MUST(sigaltstack(&stack, NULL));
        struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK };
        for (size_t i = 0; i < COUNT(numbers); i++)
            MUST(sigaction(numbers[i], &action, NULL));
    }
    memset(&caught, 0, sizeof caught);
    enter(c);
}

struct registers at(const void *code)
{
    struct registers c = { .rip = (u64)code, .rflags = F_1 | F_IF };
    c.r[RSP] = WORK_RSP;
    return c;
}

void run_code(const void *code)
{
    struct registers c = at(code);
    run(&c);
}

void run_bytes(const void *bytes)
{
    run_code(bytes);
}

u64 code_mark(const void *code) { return ((const u64 *)code)[-3]; }
u64 code_after(const void *code) { return ((const u64 *)code)[-2]; }
u64 code_end(const void *code) { return ((const u64 *)code)[-1]; }

void check_end(const char *name, const void *code)
{
    check_fault_at(name, code_end(code) + 1, SIGTRAP, V_BP, 0);
}

void check_fault(const char *name, const void *code, int number, u64 trapno, u64 error)
{
    check_fault_at(name, code_mark(code), number, trapno, error);
}

void check_fault_at(const char *name, u64 rip, int number, u64 trapno, u64 error)
{
    if (caught.number != number || caught.trapno != trapno || caught.error != error
        || caught.c.rip != rip)
        fail("%s: signal %d, exception %lu, error %#lx at %#lx for signal %d, exception %lu, "
             "error %#lx at %#lx", name, caught.number, caught.trapno, caught.error, caught.c.rip,
             number, trapno, error, rip);
}

void check_pf(const char *name, u64 rip, u64 error, u64 cr2)
{
    check_fault_at(name, rip, SIGSEGV, V_PF, error);
    same(name, caught.cr2, cr2);
    same(name, caught.address, cr2);
}
