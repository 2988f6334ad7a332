/* Tracing another process: single steps, system calls, registers, breakpoints in its text. */
#include "tracee.h"
#include <linux/elf.h>
#include <linux/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>

extern const u64 walk_plain[], walk_flow[], walk_strings[], walk_syscall[], walk_flags[],
    walk_shadow[], walk_sensitive[];

/* Step along these places. */
static void walk(const char *name, pid_t child, const u64 *places)
{
    for (int i = 0; places[i]; i++) {
        int number = resume(child, PTRACE_SINGLESTEP, 0);
        check_stop(name, child, number, SIGTRAP, places[i]);
    }
}

TEST(ptrace, step_plain)
{
    void *code = CODE(STEPS(walk_plain, "10f, 11f, 12f, 13f, 14f, 15f, 774f")
                      "mov $5, %eax; 10: add %rax, %rcx; 11: push %rax; 12: pop %rdx\n"
                      "13: imul %rdx, %rdx; 14: cmovnz %rdx, %rbx; 15: movq %rbx, %xmm0");
    pid_t child = trace_code(code);
    walk("plain", child, walk_plain);
    SAME(info_of(child).si_code, TRAP_TRACE);
    SAME(regs_of(child).eflags & F_TF, 0);
    SAME(regs_of(child).rbx, 25);
    finish(child, code);
    drop(child);
}

TEST(ptrace, step_branches)
{
    void *code = CODE(STEPS(walk_flow, "11f, 20f, 12f, 11f, 20f, 12f, 13f, 14f, 15f, 16f, 21f, 17f, 774f")
                      "mov $2, %ecx; 11: call 20f; 12: loop 11b; 13: jmp 14f; ud2\n"
                      "14: xor %eax, %eax; 15: jnz 11b; 16: lea 17f(%rip), %rax; 21: jmp *%rax; ud2\n"
                      "20: ret\n"
                      "17: nop");
    pid_t child = trace_code(code);
    walk("branches", child, walk_flow);
    drop(child);
}

TEST(ptrace, step_strings)
{
    void *code = CODE(STEPS(walk_strings, "11f, 11f, 11f, 12f, 13f, 774f")
                      "nop; 11: rep movsb; 12: rep stosb; 13: repne scasb");
    struct registers c = at(code);
    c.r[RSI] = (u64)work_stack;
    c.r[RDI] = (u64)work_stack + 100;
    c.r[RCX] = 3;
    pid_t child = trace(&c);
    walk("strings", child, walk_strings);
    regs_t r = regs_of(child);
    SAME(r.rcx, 0);
    SAME(r.rdi, c.r[RDI] + 3);
    drop(child);
}

TEST(ptrace, step_over_system_call)
{
    void *code = CODE(STEPS(walk_syscall, "10f, 11f, 12f, 13f, 774f")
                      "mov $39, %eax; 10: syscall; 11: mov $39, %eax; 12: syscall; 13: mov %eax, %ebx");
    pid_t child = trace_code(code);
    walk("system call", child, walk_syscall);
    SAME(regs_of(child).rbx, (u64)child);
    drop(child);
}

TEST(ptrace, step_sensitive)
{
    void *code = CODE(STEPS(walk_sensitive, "10f, 11f, 12f, 13f, 14f, 15f, 774f")
                      "xor %eax, %eax; 10: cpuid; 11: rdtsc; 12: mov %cs, %ecx; 13: lsl %ecx, %eax\n"
                      "14: verr %cx; 15: mov %ss, %ebx");
    pid_t child = trace_code(code);
    walk("sensitive", child, walk_sensitive);
    SAME(regs_of(child).rax, 0xFFFFFFFF);
    SAME(regs_of(child).rcx, USER_CS);
    drop(child);
}

TEST(ptrace, step_mov_ss)
{
    void *code = CODE(STEPS(walk_shadow, "10f, 12f, 774f")
                      "mov %ss, %eax; 10: mov %eax, %ss; 11: nop; 12: nop");
    pid_t child = trace_code(code);
    walk("mov ss", child, walk_shadow);
    drop(child);
}

/* POPF loads what the program stored; the tracer's TF is not lost by it. */
TEST(ptrace, step_flags)
{
    void *code = CODE(STEPS(walk_flags, "10f, 11f, 12f, 13f, 14f, 15f, 774f")
                      "pushq $0x445; 10: popfq; 11: pushfq; 12: pop %rax; 13: pushq $2; 14: popfq\n"
                      "15: nop");
    pid_t child = trace_code(code);
    walk("flags", child, walk_flags);
    regs_t r = regs_of(child);
    SAME(r.rax & (F_ARITH | F_DF), F_CF | F_PF | F_ZF | F_DF);
    SAME(r.eflags & (F_ARITH | F_DF), 0);
    finish(child, code);
    drop(child);
}

TEST(ptrace, step_over_a_fault)
{
    void *code = CODE("nop;" MARK "mov (%rdi), %rax" AFTER "mov %rax, %rbx");
    struct registers c = at(code);
    c.r[RDI] = 0x10;
    pid_t child = trace(&c);
    SAME(resume(child, PTRACE_SINGLESTEP, 0), SIGTRAP);
    for (int i = 0; i < 3; i++) {
        check_stop("fault", child, resume(child, PTRACE_SINGLESTEP, 0), SIGSEGV, code_mark(code));
        siginfo_t info = info_of(child);
        SAME(info.si_code, SEGV_MAPERR);
        SAME(info.si_addr, 0x10);
    }
    regs_t r = regs_of(child);
    r.rdi = (u64)work_stack;
    set_regs(child, &r);
    check_stop("step", child, resume(child, PTRACE_SINGLESTEP, 0), SIGTRAP, code_after(code));
    finish(child, code);
    drop(child);
    /* Other exceptions. */
    void *codes[] = { CODE(MARK "ud2"), CODE(MARK "hlt"), CODE("xor %ecx, %ecx;" MARK "div %ecx") };
    static const int numbers[] = { SIGILL, SIGSEGV, SIGFPE };
    for (size_t i = 0; i < COUNT(codes); i++) {
        child = trace_code(codes[i]);
        int number;
        while ((number = resume(child, PTRACE_SINGLESTEP, 0)) == SIGTRAP)
            ;
        check_stop("fault", child, number, numbers[i], code_mark(codes[i]));
        drop(child);
    }
}

TEST(ptrace, step_int3)
{
    void *code = CODE("nop; int3" AFTER "nop");
    pid_t child = trace_code(code);
    SAME(resume(child, PTRACE_SINGLESTEP, 0), SIGTRAP);
    SAME(info_of(child).si_code, TRAP_TRACE);
    check_stop("int3", child, resume(child, PTRACE_SINGLESTEP, 0), SIGTRAP, code_after(code));
    SAME(info_of(child).si_code, SI_KERNEL);
    check_stop("nop", child, resume(child, PTRACE_SINGLESTEP, 0), SIGTRAP, code_end(code));
    drop(child);
}

void signals_probe(int number, siginfo_t *info, void *context);

/* Into a handler, through it, and back by sigreturn, all in single steps. */
TEST(ptrace, step_through_a_handler)
{
    struct sigaction action = { .sa_sigaction = signals_probe, .sa_flags = SA_SIGINFO };
    MUST(sigaction(SIGUSR1, &action, NULL));
    void *code = CODE("mov $39, %eax; syscall; mov %eax, %edi; mov $10, %esi; mov $62, %eax; syscall\n"
                      AFTER "mov %rax, %rbx");
    pid_t child = trace_code(code);
    int number, steps = 0;
    while ((number = resume(child, PTRACE_SINGLESTEP, 0)) == SIGTRAP)
        CHECK(++steps < 20);
    check_stop("the signal", child, number, SIGUSR1, code_after(code));
    check_stop("the handler", child, resume(child, PTRACE_SINGLESTEP, SIGUSR1), SIGTRAP,
               (u64)signals_probe);
    for (steps = 0; regs_of(child).rip != code_after(code); steps++) {
        CHECK(steps < 40);
        SAME(resume(child, PTRACE_SINGLESTEP, 0), SIGTRAP);
    }
    CHECK(steps > 8);
    SAME(regs_of(child).rax, 0);
    finish(child, code);
    drop(child);
}

/* Five thousand steps of a sum. */
TEST(ptrace, step_long)
{
    void *code = CODE("1: add %rcx, %rax; dec %rcx; jnz 1b");
    struct registers c = at(code);
    c.r[RCX] = 1500;
    pid_t child = trace(&c);
    for (int i = 0; i < 4500; i++)
        SAME(resume(child, PTRACE_SINGLESTEP, 0), SIGTRAP);
    regs_t r = regs_of(child);
    SAME(r.rip, code_end(code));
    SAME(r.rax, 1500ul * 1501 / 2);
    drop(child);
}

/* A stop at each taken branch; a processor that does not offer it stops at each instruction. */
TEST(ptrace, step_blocks)
{
    void *code = CODE("nop; nop; nop; jmp 1f; nop; 1: nop; nop; call 2f; nop; jmp 3f; 2: ret; 3: nop");
    pid_t child = trace_code(code);
    if (ptrace(PTRACE_SINGLEBLOCK, child, 0, 0) == -1) {
        drop(child);
        skip("no block steps");
    }
    int stops = 0, status = status_of(child);
    while (WIFSTOPPED(status) && regs_of(child).rip < code_end(code)) {
        SAME(WSTOPSIG(status), SIGTRAP);
        CHECK(++stops < 20);
        MUST(ptrace(PTRACE_SINGLEBLOCK, child, 0, 0));
        status = status_of(child);
    }
    CHECK(stops >= 4);
    drop(child);
}

/* --- system calls */

enum { SYSCALL_STOP = SIGTRAP | 0x80 };

TEST(ptrace, system_calls_changed)
{
    void *code = CODE("syscall" AFTER "mov %rax, %rbx");
    static char first[] = "first", other[] = "other text";
    int ends[2];
    char got[16] = "";
    MUST(pipe(ends));
    struct registers c = at(code);
    c.r[RAX] = SYS_write;
    c.r[RDI] = (u64)ends[1];
    c.r[RSI] = (u64)first;
    c.r[RDX] = 5;
    pid_t child = trace(&c);
    SAME(resume(child, PTRACE_SYSCALL, 0), SYSCALL_STOP);
    regs_t r = regs_of(child);
    SAME(r.orig_rax, SYS_write);
    SAME(r.rax, -ENOSYS);
    SAME(r.rsi, (u64)first);
    SAME(r.rip, code_after(code));
    struct ptrace_syscall_info info;
    CHECK(ptrace((enum __ptrace_request)PTRACE_GET_SYSCALL_INFO, child, sizeof info, &info) > 0);
    SAME(info.op, PTRACE_SYSCALL_INFO_ENTRY);
    SAME(info.entry.nr, SYS_write);
    SAME(info.entry.args[2], 5);
    r.rsi = (u64)other;
    r.rdx = 10;
    set_regs(child, &r);
    SAME(resume(child, PTRACE_SYSCALL, 0), SYSCALL_STOP);
    SAME(regs_of(child).rax, 10);
    SAME(read(ends[0], got, sizeof got), 10);
    SAME(strcmp(got, other), 0);
    r = regs_of(child);
    r.rax = 0x1234567890;
    set_regs(child, &r);
    finish(child, code);
    SAME(regs_of(child).rbx, 0x1234567890);
    SAME(regs_of(child).rcx, code_after(code));
    drop(child);
}

TEST(ptrace, system_call_numbers_changed)
{
    void *code = CODE("mov $39, %eax; syscall; mov %rax, %rbx; mov $39, %eax; syscall; mov %rax, %r12\n"
                      "mov $39, %eax; syscall");
    pid_t child = trace_code(code);
    for (int i = 0; i < 3; i++) {
        SAME(resume(child, PTRACE_SYSCALL, 0), SYSCALL_STOP);
        regs_t r = regs_of(child);
        if (i == 0)
            r.orig_rax = SYS_getppid;
        if (i == 1)
            r.orig_rax = ~0ul;
        set_regs(child, &r);
        SAME(resume(child, PTRACE_SYSCALL, 0), SYSCALL_STOP);
    }
    finish(child, code);
    regs_t r = regs_of(child);
    SAME(r.rbx, getpid());
    SAME(r.r12, -ENOSYS);
    SAME(r.rax, child);
    drop(child);
}

TEST(ptrace, system_calls_emulated)
{
    void *code = CODE("mov $39, %eax; syscall; mov %rax, %rbx");
    pid_t child = trace_code(code);
    SAME(resume(child, PTRACE_SYSEMU, 0), SYSCALL_STOP);
    regs_t r = regs_of(child);
    SAME(r.orig_rax, SYS_getpid);
    r.rax = 4242;
    set_regs(child, &r);
    finish(child, code);
    SAME(regs_of(child).rbx, 4242);
    drop(child);
}

/* A return from a system call to an address that is not canonical, which SYSRET must not take. */
TEST(ptrace, system_call_to_nowhere)
{
    static const u64 wrong[] = { NON_CANONICAL, 0x8000000000000000, 0xFFFF7FFFFFFFF000 };
    void *code = CODE("mov $39, %eax; syscall");
    for (size_t i = 0; i < COUNT(wrong); i++) {
        pid_t child = trace_code(code);
        SAME(resume(child, PTRACE_SYSCALL, 0), SYSCALL_STOP);
        SAME(resume(child, PTRACE_SYSCALL, 0), SYSCALL_STOP);
        regs_t r = regs_of(child);
        r.rip = wrong[i];
        r.rcx = wrong[i];
        set_regs(child, &r);
        check_stop("rip", child, resume(child, PTRACE_CONT, 0), SIGSEGV, wrong[i]);
        SAME(info_of(child).si_code, SI_KERNEL);
        drop(child);
    }
    pid_t child = trace_code(code);
    SAME(resume(child, PTRACE_SYSCALL, 0), SYSCALL_STOP);
    SAME(resume(child, PTRACE_SYSCALL, 0), SYSCALL_STOP);
    regs_t r = regs_of(child);
    r.rip = KERNEL_ADDRESS;
    set_regs(child, &r);
    check_stop("rip", child, resume(child, PTRACE_CONT, 0), SIGSEGV, KERNEL_ADDRESS);
    drop(child);
}

/* --- registers */

TEST(ptrace, registers)
{
    void *code = CODE("nop");
    pid_t child = trace_code(code);
    regs_t r = regs_of(child), back;
    unsigned long long *values = (unsigned long long *)&r;
    for (size_t i = 0; i < 15; i++)
        values[i] = 0x1111111111111111ull * (i + 1);
    r.rsp = WORK_RSP - 256;
    r.gs_base = 0x5000;
    r.eflags |= F_CF | F_DF | F_AC | F_RF;
    set_regs(child, &r);
    finish(child, code);
    back = regs_of(child);
    r.rip = code_end(code) + 1;
    r.orig_rax = back.orig_rax;
    r.eflags &= ~(u64)F_RF;
    SAME(memcmp(&r, &back, sizeof r), 0);
    drop(child);
}

static void check_refused(pid_t child, const char *name, size_t offset, u64 value)
{
    errno = 0;
    if (ptrace(PTRACE_POKEUSER, child, offset, value) != -1 || errno != EIO)
        fail("%s takes %#lx (errno %d)", name, value, errno);
}
#define REFUSED(name, value)                                                                    \
    check_refused(child, #name, offsetof(struct user, regs.name), value)

TEST(ptrace, registers_refused)
{
    pid_t child = trace_code(CODE("nop"));
    REFUSED(cs, 0x10);
    REFUSED(cs, 0);
    REFUSED(ss, 0x18);
    REFUSED(ss, 0);
    REFUSED(gs, 0x18);
    REFUSED(fs_base, NON_CANONICAL);
    REFUSED(gs_base, KERNEL_ADDRESS);
    MUST(ptrace(PTRACE_POKEUSER, child, offsetof(struct user, regs.eflags), 0x3202 | F_NT));
    SAME(regs_of(child).eflags & (F_IOPL | F_IF), F_IF);
    drop(child);
}

TEST(ptrace, bases)
{
    static u64 value = 0x77;
    void *code = CODE("mov %gs:8, %rax; mov %fs:8, %rbx");
    pid_t child = trace_code(code);
    regs_t r = regs_of(child);
    r.gs_base = r.fs_base = (u64)&value - 8;
    set_regs(child, &r);
    finish(child, code);
    r = regs_of(child);
    SAME(r.rax, 0x77);
    SAME(r.rbx, 0x77);
    drop(child);
}

TEST(ptrace, vector_registers)
{
    static u8 image[FP_SIZE] ALIGNED(64), state[16384] ALIGNED(64), *shared;
    void *code = CODE("xrstor (%rdi); int3" AFTER "xsave (%rsi)");
    shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    fill_fp(image, 0x5C);
    struct registers c = at(code);
    c.r[RAX] = fp_mask();
    c.r[RDI] = (u64)image;
    c.r[RSI] = (u64)shared;
    pid_t child = trace(&c);
    check_stop("int3", child, resume(child, PTRACE_CONT, 0), SIGTRAP, code_after(code));
    struct user_fpregs_struct fp;
    MUST(ptrace(PTRACE_GETFPREGS, child, 0, &fp));
    SAME(fp.mxcsr, *(u32 *)(image + 24));
    SAME(memcmp(fp.xmm_space, image + 160, 256), 0);
    struct iovec area = { state, sizeof state };
    MUST(ptrace(PTRACE_GETREGSET, child, NT_X86_XSTATE, &area));
    CHECK(area.iov_len >= FP_SIZE);
    check_fp("got", state, image);
    fill_fp(image, 0xA3);
    memcpy(state, image, 464);
    if (has_avx())
        memcpy(state + 576, image + 576, 256);
    MUST(ptrace(PTRACE_SETREGSET, child, NT_X86_XSTATE, &area));
    finish(child, code);
    check_fp("set", shared, image);
    drop(child);
}

/* --- text */

/* Breakpoints that are put into running code and taken out, as debuggers do. */
TEST(ptrace, breakpoints_in_text)
{
    void *code = CODE("1: add %rcx, %rax;" MARK "nop; dec %rcx; jnz 1b");
    struct registers c = at(code);
    c.r[RCX] = 300;
    pid_t child = trace(&c);
    u64 place = code_mark(code);
    errno = 0;
    long text = ptrace(PTRACE_PEEKTEXT, child, place, 0);
    SAME(errno, 0);
    for (u64 i = 300; i > 0; i--) {
        MUST(ptrace(PTRACE_POKETEXT, child, place, (text & ~0xFFl) | 0xCC));
        check_stop("breakpoint", child, resume(child, PTRACE_CONT, 0), SIGTRAP, place + 1);
        SAME(regs_of(child).rcx, i);
        MUST(ptrace(PTRACE_POKETEXT, child, place, text));
        regs_t r = regs_of(child);
        r.rip = place;
        set_regs(child, &r);
        check_stop("step", child, resume(child, PTRACE_SINGLESTEP, 0), SIGTRAP, place + 1);
    }
    finish(child, code);
    SAME(regs_of(child).rax, 300 * 301 / 2);
    drop(child);
    /* The parent has the same text, unchanged. */
    c.r[RCX] = 1;
    run(&c);
    check_end("own text", code);
}

TEST(ptrace, running_process)
{
    void *code = CODE("1: inc %rax; test %rcx, %rcx; jz 1b");
    struct timespec ms = { 0, 5000000 };
    pid_t child = (pid_t)MUST(fork());
    if (!child) {
        run_code(code);
        SAME(caught.number, SIGTRAP);
        SAME(caught.c.r[RCX], 1);
        _exit(0);
    }
    nanosleep(&ms, NULL);
    MUST(ptrace(PTRACE_SEIZE, child, 0, PTRACE_O_EXITKILL));
    u64 last = 0;
    /* On a busy host the child may not have reached its code yet. */
    int early = 1000;
    for (int i = 0; i < 20; i++) {
        MUST(ptrace(PTRACE_INTERRUPT, child, 0, 0));
        int status = status_of(child);
        CHECK(WIFSTOPPED(status));
        regs_t r = regs_of(child);
        if (!last && early-- && !(r.rip >= (u64)code && r.rip < code_end(code))) {
            MUST(ptrace(PTRACE_CONT, child, 0, 0));
            nanosleep(&ms, NULL);
            i--;
            continue;
        }
        CHECK(r.rip >= (u64)code && r.rip < code_end(code));
        CHECK(r.rax > last);
        last = r.rax;
        if (i == 19) {
            r.rcx = 1;
            set_regs(child, &r);
            MUST(ptrace(PTRACE_DETACH, child, 0, 0));
        } else {
            MUST(ptrace(PTRACE_CONT, child, 0, 0));
            nanosleep(&ms, NULL);
        }
    }
    join(child);
}
