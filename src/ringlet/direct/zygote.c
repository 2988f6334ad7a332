/* The zygote of direct processes, and what they run besides guest code.

   A program of its own without a C library: `zygote` with a socket as file descriptor 3.  For every
   request it makes a direct process, which maps the control page, gives up everything else and
   waits in its stub.  The virtual processor (process.pyx) tells it what to map, and where to go on.

   The stub is the only code of ours in a direct process.  Guest code may jump to any byte of it
   with any registers and any memory contents, so nothing in it is a check: each system call that it
   makes is refused by the seccomp filter unless it carries a secret, and the secret is only in registers,
   and only while signals are blocked and the guest's code does not run. */
#include <asm/prctl.h>
#include <asm/signal.h>
#include <asm/unistd.h>
#include <errno.h>
#include <linux/futex.h>
#include <linux/mman.h>
#include <linux/prctl.h>
#include <linux/resource.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <stddef.h>

#include "layout.h"

#define OFFSET(field) \
    [field] "i"(DIRECT_CONTROL - DIRECT_STUB + offsetof(struct direct_control, field))
#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)

/* --- the stub: no stack, no vector register, only aligned accesses, for EFLAGS.AC may be set */

void stub(void) __attribute__((naked, section("direct"), used));
void stub(void)
{
    __asm__ volatile(
        ".globl stub_begin, stub_handler, stub_filter, stub_sent, stub_told, stub_call\n"
        ".globl stub_returned, stub_end\n"
        ".set shared, stub_begin\n"
        "stub_begin:\n"
        /* A signal: its frame is on the stack. */
        "stub_handler:\n"
        "    rdfsbase %%rax\n"
        "    mov %%rax, shared + %c[fs_base](%%rip)\n"
        "    rdgsbase %%rax\n"
        "    mov %%rax, shared + %c[gs_base](%%rip)\n"
        "    mov %%ds, shared + %c[selectors](%%rip)\n"
        "    mov %%es, shared + %c[selectors] + 2(%%rip)\n"
        "    mov %%fs, shared + %c[selectors] + 4(%%rip)\n"
        "    mov %%gs, shared + %c[selectors] + 6(%%rip)\n"
        "    mov %%rsp, shared + %c[frame](%%rip)\n"
        "    mov %%edi, shared + %c[signal](%%rip)\n"
        "hand_over:\n"
        "    mov $" TEXT(__NR_getppid) ", %%eax\n"
        "    syscall\n"
        "stub_told:\n"
        /* RAX is the secret.  Its halves are put into the upper halves of the fourth and fifth
           argument, which the kernel ignores. */
        "    mov %%rax, %%r13\n"
        "    lea shared + %c[commands](%%rip), %%rbx\n"
        "next:\n"
        "    mov (%%rbx), %%rax\n"
        "    cmp $" TEXT(DIRECT_AGAIN) ", %%rax\n"
        "    je hand_over\n"
        "    mov 8(%%rbx), %%rdi\n"
        "    mov 16(%%rbx), %%rsi\n"
        "    mov 24(%%rbx), %%rdx\n"
        "    mov 32(%%rbx), %%r10\n"
        "    mov 40(%%rbx), %%r8\n"
        "    mov 48(%%rbx), %%r9\n"
        "    movq $0, 48(%%rbx)\n"            /* the guest's programs do not know its frames */
        "    mov %%r13, %%rcx\n"
        "    shl $32, %%rcx\n"
        "    xor %%rcx, %%r10\n"
        "    mov %%r13, %%rcx\n"
        "    shr $32, %%rcx\n"
        "    shl $32, %%rcx\n"
        "    xor %%rcx, %%r8\n"
        "    cmp $" TEXT(__NR_rt_sigreturn) ", %%rax\n"
        "    je return\n"
        "    syscall\n"
        "stub_call:\n"
        "    mov %%rax, 56(%%rbx)\n"
        "    add $64, %%rbx\n"
        "    test %%rax, %%rax\n"
        "    jns next\n"
        /* The guest's code does not go on with a memory that it should not have. */
        "    movl $1, shared + %c[failed](%%rip)\n"
        "    jmp hand_over\n"
        "return:\n"
        "    mov shared + %c[selectors](%%rip), %%rcx\n"
        "    mov %%ecx, %%ds\n"
        "    shr $16, %%rcx\n"
        "    mov %%ecx, %%es\n"
        "    shr $16, %%rcx\n"
        "    mov %%ecx, %%fs\n"
        "    shr $16, %%rcx\n"
        "    mov %%ecx, %%gs\n"
        "    mov shared + %c[fs_base](%%rip), %%rcx\n"
        "    wrfsbase %%rcx\n"
        "    mov shared + %c[gs_base](%%rip), %%rcx\n"
        "    wrgsbase %%rcx\n"
        "    mov shared + %c[frame](%%rip), %%rsp\n"
        "    add $8, %%rsp\n"                  /* past the handler's return address */
        "    pushq shared + %c[flags](%%rip)\n"
        "    popfq\n"
        "    syscall\n"
        "stub_returned:\n"
        "    ud2\n"
        /* Once: install the filter and send its listener.  RDI, RSI, RDX are set. */
        "start:\n"
        "    mov $" TEXT(__NR_seccomp) ", %%eax\n"
        "    syscall\n"
        "stub_filter:\n"
        "    test %%eax, %%eax\n"
        "    js refused\n"
        "    mov %%eax, shared + %c[rights] + 16(%%rip)\n"
        "    mov $" TEXT(__NR_sendmsg) ", %%eax\n"
        "    mov $" TEXT(DIRECT_SOCKET) ", %%edi\n"
        "    lea shared + %c[message](%%rip), %%rsi\n"
        "    xor %%edx, %%edx\n"
        "    syscall\n"
        "stub_sent:\n"
        "    jmp hand_over\n"
        /* Without a filter the process must not go on: signals are blocked, so this ends it. */
        "refused:\n"
        "    hlt\n"
        "stub_end:\n"
        :
        : OFFSET(fs_base), OFFSET(gs_base), OFFSET(frame), OFFSET(signal), OFFSET(commands),
          OFFSET(failed), OFFSET(selectors), OFFSET(flags), OFFSET(rights), OFFSET(message));
}

extern const char stub_handler[], start_here[] __asm__("start");

/* --- system calls */

struct action { uint64_t handler, flags, restorer, mask; };
struct message { void *name; uint64_t name_length; void *vector; uint64_t count;
                 void *control; uint64_t control_length; uint64_t flags; };
struct vector { void *base; uint64_t length; };
struct files { uint64_t length; uint32_t level, type; int32_t fd[2 + DIRECT_RAM_FILES]; };

enum { RIGHTS_HEADER = 16, SOL_SOCKET = 1, SCM_RIGHTS = 1, SOCKET = 3, SIGNALS = 64 };
enum { STACK_AUTODISARM = 1u << 31, ACTION_RESTORER = 0x04000000, MSG_CLOEXEC = 0x40000000 };

enum { SERVING_THREAD = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD
                        | CLONE_SYSVSEM | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID };

static long call(long number, long a, long b, long c, long d, long e, long f)
{
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall" : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}
#define CALL_(number, a, b, c, d, e, f, ...) \
    call(number, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
#define CALL(name, ...) CALL_(__NR_##name, __VA_ARGS__, 0, 0, 0, 0, 0, 0)

static void leave(int status)
{
    for (;;)
        CALL(exit_group, status);
}

/* Each step of a direct process's start has its own status, which tells what the host refused. */
static void must(long result, int status)
{
    if (result < 0)
        leave(status);
}

/* --- a direct process */

static const int TRAPS[] = {SIGSYS, SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGURG};

static void become_direct(const struct direct_request *request, const int *fd)
{
    struct rlimit64 none = {0, 0};
    struct { uint64_t sp; uint32_t flags, pad; uint64_t size; }
        stack = {DIRECT_STACK, STACK_AUTODISARM, 0, DIRECT_STACK_SIZE};
    struct action stops = {(uint64_t)SIG_DFL, ACTION_RESTORER, 0, 0};
    struct action action = {(uint64_t)stub_handler, SA_SIGINFO | SA_ONSTACK | ACTION_RESTORER,
                            DIRECT_STUB, ~0ull};
    uint64_t all = ~0ull;
    unsigned i;

    must(CALL(prctl, PR_SET_PDEATHSIG, SIGKILL), 2);
    must(CALL(prlimit64, 0, RLIMIT_CORE, &none, 0), 3);
    must(CALL(rt_sigprocmask, SIG_SETMASK, &all, 0, 8), 4);
    if (CALL(mmap, DIRECT_CONTROL, DIRECT_SHARED_SIZE, PROT_READ | PROT_WRITE,
             MAP_SHARED | MAP_FIXED_NOREPLACE | MAP_POPULATE, fd[0], 0) != (long)DIRECT_CONTROL)
        leave(5);
    must(CALL(dup2, fd[1], DIRECT_SOCKET), 6);
    for (i = 0; i < request->ram_files; i++)
        must(CALL(dup2, fd[2 + i], DIRECT_RAM + i), 6);
    must(CALL(close_range, DIRECT_RAM + request->ram_files, DIRECT_SOCKET - 1, 0), 7);
    must(CALL(close_range, DIRECT_SOCKET + 1, ~0u, 0), 7);
    must(CALL(close_range, 0, DIRECT_RAM - 1, 0), 7);
    must(CALL(sigaltstack, &stack, 0), 8);
    for (i = 0; i < sizeof TRAPS / sizeof *TRAPS; i++)
        must(CALL(rt_sigaction, TRAPS[i], &action, 0, 8), 9);
    must(CALL(rt_sigaction, SIGTSTP, &stops, 0, 8), 9);     /* with the machine, by Ctrl-Z */
    if (request->cpuid_faults)
        must(CALL(arch_prctl, ARCH_SET_CPUID, 0), 10);
    must(CALL(prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 12);
    /* Linux lets some system calls of its own pass every seccomp filter. */
    must(CALL(prctl, PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, DIRECT_STUB, 0x1000, 0), 13);
    /* The virtual processor has put the filter's program where the first frame will be.  Linux
       before 5.16 would restrict speculation in a process with a filter, as no other does. */
    __asm__ volatile("jmp *%0" : : "r"(start_here), "D"(SECCOMP_SET_MODE_FILTER),
                     "S"(SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_SPEC_ALLOW),
                     "d"(DIRECT_STACK));
    __builtin_unreachable();
}

/* --- the zygote */

static void answer(long pid, int pidfd)
{
    struct files files = {RIGHTS_HEADER + 4, SOL_SOCKET, SCM_RIGHTS, {pidfd}};
    struct vector vector = {&pid, sizeof pid};
    struct message message = {0, 0, &vector, 1, &files, pid < 0 ? 0 : RIGHTS_HEADER + 8, 0};
    if (CALL(sendmsg, SOCKET, &message, 0) < 0)
        leave(1);
}

/* A file that stayed open would keep the virtual processor waiting for a process that has ended. */
static void close_others(void)
{
    CALL(close_range, SOCKET + 1, ~0u, 0);
    CALL(close_range, 0, SOCKET - 1, 0);
}

/* Serve one request; 0: there will be none. */
static int serve(void)
{
    struct direct_request request;
    struct files files;
    struct vector vector = {&request, sizeof request};
    struct message message = {0, 0, &vector, 1, &files, sizeof files, 0};
    int pidfd = -1;
    long pid;

    files.length = 0;
    if (CALL(recvmsg, SOCKET, &message, MSG_CLOEXEC) != sizeof request)
        return 0;                              /* the virtual machine has ended */
    if (files.length != RIGHTS_HEADER + 4 * (2 + request.ram_files)
        || request.ram_files > DIRECT_RAM_FILES)
        leave(1);
    pid = CALL(clone, CLONE_PIDFD | SIGCHLD, 0, &pidfd);
    if (pid == 0)
        become_direct(&request, files.fd);
    answer(pid, pidfd);
    close_others();
    return 1;
}

/* The thread that serves is the parent of the processes: they are killed when it ends (PDEATHSIG).
   The rest of the zygote waits for them, so that none is left to the host's init, which in a
   container may wait for no process. */
static uint8_t serving_stack[16384] __attribute__((aligned(16)));
static int serving;                            /* its number, until it has ended */

void serve_all(void) __attribute__((noreturn, used));
void serve_all(void)
{
    while (serve())
        ;
    for (;;)
        CALL(exit, 0);
}

static void start_serving(void)
{
    long result;
    register int *ended __asm__("r10") = &serving;
    __asm__ volatile("syscall\n"
                     "test %%rax, %%rax\n"
                     "jnz 1f\n"
                     "call serve_all\n"
                     "1:"
                     : "=a"(result)
                     : "a"(__NR_clone), "D"(SERVING_THREAD), "S"(serving_stack + sizeof serving_stack),
                       "d"(&serving), "r"(ended) : "rcx", "r11", "memory");
    if (result < 0)
        leave(1);
}

void _start(void) __attribute__((noreturn));
void _start(void)
{
    struct action ignore = {(uint64_t)SIG_IGN, ACTION_RESTORER, 0, 0};
    int number;
    CALL(rt_sigaction, SIGCHLD, &ignore, 0, 8);     /* no zombies */
    CALL(rt_sigaction, SIGINT, &ignore, 0, 8);      /* a terminal's; the machine ends it */
    CALL(rt_sigaction, SIGQUIT, &ignore, 0, 8);
    CALL(rt_sigaction, SIGTSTP, &ignore, 0, 8);
    close_others();
    start_serving();
    while ((number = __atomic_load_n(&serving, __ATOMIC_ACQUIRE)))
        CALL(futex, &serving, FUTEX_WAIT, number, 0);
    while (CALL(wait4, -1, 0, 0, 0) != -ECHILD)
        ;
    leave(0);
}
