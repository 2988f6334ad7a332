"""The host's signal handler for vCPU threads.

Every handler runs on its own stack (the host's RSP is the guest's), is async-signal-safe, and finds
its virtual processor through a thread-local pointer that is set while the thread runs a guest.  A
fault that is not the guest's goes to whoever handled the signal before.
"""
from libc.stdlib cimport malloc, free
from ringlet.core.state cimport CpuState, u8, u32, u64
from ringlet.core.template cimport STUB_LEAVE

cdef extern from * nogil:
    """
    #include <signal.h>
    #ifndef SS_AUTODISARM
    #define SS_AUTODISARM (1U << 31)
    #endif
    #include <ucontext.h>
    #include <string.h>
    #include <stdlib.h>
    #include <sys/mman.h>
    #include <errno.h>

    typedef int (*ringlet_fault_fn)(void *cpu, void *fault);
    static __thread void *ringlet_cpu;       /* the CpuState this thread runs, or NULL */
    static __thread void *ringlet_stack;
    static ringlet_fault_fn ringlet_handler; /* the same function for every machine */
    static struct sigaction ringlet_old[65];
    static int ringlet_installed;

    struct ringlet_fault { int signal; unsigned trap; unsigned error;
                           unsigned long address; unsigned long *regs; };

    /* Linux leaves AC set in a handler: the guest's alignment checks are not ours. */
    static inline void ringlet_clear_ac(void)
    {
        __asm__ volatile("lea -128(%%rsp), %%rsp; pushfq; andl $~0x40000, (%%rsp); popfq;"
                         "lea 128(%%rsp), %%rsp" ::: "memory", "cc");
    }

    static void ringlet_signal(int sig, siginfo_t *info, void *context)
    {
        ucontext_t *uc = context;
        struct ringlet_fault f;
        ringlet_clear_ac();
        f.signal = sig;
        f.regs = (unsigned long *)uc->uc_mcontext.gregs;
        f.trap = (unsigned)uc->uc_mcontext.gregs[REG_TRAPNO];
        f.error = (unsigned)uc->uc_mcontext.gregs[REG_ERR];
        f.address = (unsigned long)info->si_addr;
        if (ringlet_cpu && ringlet_handler(ringlet_cpu, &f))
            return;
        if (sig == SIGURG)                   /* came too late (ringlet.core.prod) */
            return;
        struct sigaction *old = &ringlet_old[sig];
        if (old->sa_flags & SA_SIGINFO)
            old->sa_sigaction(sig, info, context);
        else if (old->sa_handler != SIG_DFL && old->sa_handler != SIG_IGN)
            old->sa_handler(sig);
        else
            signal(sig, SIG_DFL);            /* happens again on return, and ends the process */
    }

    static int ringlet_install(void *handler)
    {
        static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP,
                                      SIGURG};
        struct sigaction sa;
        if (ringlet_installed)
            return 0;
        ringlet_handler = (ringlet_fault_fn)handler;
        memset(&sa, 0, sizeof sa);
        sa.sa_sigaction = ringlet_signal;
        sa.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER | SA_RESTART;
        sigemptyset(&sa.sa_mask);
        for (unsigned i = 0; i < sizeof signals / sizeof *signals; i++)
            if (sigaction(signals[i], &sa, &ringlet_old[signals[i]]))
                return -1;
        ringlet_installed = 1;
        return 0;
    }

    static int ringlet_enter_thread(void *cpu)
    {
        if (!ringlet_stack) {
            stack_t ss;
            size_t size = 256 * 1024;
            void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (p == MAP_FAILED)
                return -1;
            /* RSP may be a value of the guest's: no value of it means "on this stack already". */
            ss.ss_sp = p; ss.ss_size = size; ss.ss_flags = (int)SS_AUTODISARM;
            if (sigaltstack(&ss, NULL))
                return -1;
            ringlet_stack = p;
        }
        ringlet_cpu = cpu;
        return 0;
    }

    static void ringlet_leave_thread(void) { ringlet_cpu = NULL; }
    """
    int ringlet_install(void* handler)
    int ringlet_enter_thread(void* cpu)
    void ringlet_leave_thread()


cdef int install_handlers(fault_fn handler) except -1:
    """Install `handler` for the synchronous signals, once a process."""
    if ringlet_install(<void*>handler):
        raise OSError("cannot install the signal handlers")
    return 0


cdef int enter_thread(CpuState* c) except -1:
    """Faults of the calling thread are `c`'s from now on."""
    if ringlet_enter_thread(c):
        raise OSError("cannot set up the signal stack")
    return 0


cdef void leave_thread() noexcept nogil:
    ringlet_leave_thread()


cdef void save_registers(CpuState* c, u64* regs) noexcept nogil:
    c.gpr[0] = regs[HR_RAX]
    c.gpr[1] = regs[HR_RCX]
    c.gpr[2] = regs[HR_RDX]
    c.gpr[3] = regs[HR_RBX]
    c.gpr[4] = regs[HR_RSP] + c.rsp_naddend
    c.gpr[5] = regs[HR_RBP]
    c.gpr[6] = regs[HR_RSI]
    c.gpr[7] = regs[HR_RDI]
    c.gpr[12] = regs[HR_R12]
    c.gpr[13] = regs[HR_R13]
    c.gpr[14] = regs[HR_R14]
    c.gpr[15] = regs[HR_R15]
    c.host_flags = regs[HR_EFL]
