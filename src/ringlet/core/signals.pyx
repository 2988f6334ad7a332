"""The host's signal handler for vCPU threads, and the end of the process by a signal.

The handler runs on its own stack (the host's RSP is the guest's) and is async-signal-safe.  It
finds its virtual processor through a thread-local pointer, which is set while the thread runs a
guest.

SIGURG, which requests a stop (`ringlet.core.prod`), can stop the thread only if its handler sees
the position in translated code.  Inside the handler of a fault it sees that handler's position.  So
the handler of a fault looks for a request at its end, and if one comes still later, a timer repeats
it.  Blocking the signal meanwhile would cost each fault two changes of the mask.

A signal that a process has sent (`si_code` is not positive) is not a fault, wherever it finds the
thread.  Such a signal, and a fault that is not the guest's, goes to the handler that was installed
before.  Without such a handler it ends the process at once, after the terminal has been restored.
"""
from libc.errno cimport errno
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

    #include <sys/syscall.h>
    #include <termios.h>
    #include <unistd.h>

    typedef int (*ringlet_fault_fn)(void *cpu, void *fault);
    static __thread void *ringlet_cpu;       /* the CpuState this thread runs, or NULL */
    static __thread void *ringlet_stack;
    static ringlet_fault_fn ringlet_handler; /* the same function for every machine */
    static struct sigaction ringlet_old[65];
    static int ringlet_installed;

    /* Signals of faults, and signals that end a process without a fault. */
    static const int ringlet_faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
    static const int ringlet_ends[] = {SIGABRT, SIGSYS};
    enum { RINGLET_ENDS = sizeof ringlet_ends / sizeof *ringlet_ends };

    static struct termios ringlet_terminal;  /* settings to restore for `ringlet_terminal_fd` */
    static int ringlet_terminal_fd = -1;

    struct ringlet_fault { int signal; unsigned trap; unsigned error;
                           unsigned long address; unsigned long *regs; int nested; };

    /* Linux leaves AC set in a handler, but the handler must run without alignment checks. */
    static inline void ringlet_clear_ac(void)
    {
        __asm__ volatile("lea -128(%%rsp), %%rsp; pushfq; andl $~0x40000, (%%rsp); popfq;"
                         "lea 128(%%rsp), %%rsp" ::: "memory", "cc");
    }

    /* End the process as if `sig` had no handler. */
    static void ringlet_die(int sig)
    {
        struct sigaction sa;
        sigset_t set;
        int fd = __atomic_load_n(&ringlet_terminal_fd, __ATOMIC_SEQ_CST);
        if (fd >= 0) {
            /* In the background this would stop the process, and another one uses the terminal. */
            pid_t group = tcgetpgrp(fd);
            if (group < 0 || group == getpgrp())
                tcsetattr(fd, TCSANOW, &ringlet_terminal);
        }
        memset(&sa, 0, sizeof sa);
        sa.sa_handler = SIG_DFL;
        sigemptyset(&sa.sa_mask);
        sigaction(sig, &sa, NULL);
        sigemptyset(&set);
        sigaddset(&set, sig);
        sigprocmask(SIG_UNBLOCK, &set, NULL);
        syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), sig);
        _exit(128 + sig);
    }

    static void ringlet_pass(int sig, siginfo_t *info, void *context)
    {
        struct sigaction *old = &ringlet_old[sig];
        if (old->sa_flags & SA_SIGINFO)
            old->sa_sigaction(sig, info, context);
        else if (old->sa_handler == SIG_IGN && info->si_code <= 0)
            return;
        else if (old->sa_handler != SIG_DFL && old->sa_handler != SIG_IGN)
            old->sa_handler(sig);
        else
            ringlet_die(sig);
    }

    static void ringlet_signal(int sig, siginfo_t *info, void *context)
    {
        ucontext_t *uc = context;
        struct ringlet_fault f;
        ringlet_clear_ac();
        if (sig != SIGURG && info->si_code <= 0) {
            ringlet_pass(sig, info, context);
            return;
        }
        f.signal = sig;
        f.regs = (unsigned long *)uc->uc_mcontext.gregs;
        f.trap = (unsigned)uc->uc_mcontext.gregs[REG_TRAPNO];
        f.error = (unsigned)uc->uc_mcontext.gregs[REG_ERR];
        f.address = (unsigned long)info->si_addr;
        /* SS_AUTODISARM: the frame of a signal that finds the thread in a handler has no stack. */
        f.nested = uc->uc_stack.ss_size == 0;
        if (ringlet_cpu && ringlet_handler(ringlet_cpu, &f))
            return;
        if (sig != SIGURG)                   /* a SIGURG here has come too late */
            ringlet_pass(sig, info, context);
    }

    static int ringlet_handle(int sig)
    {
        struct sigaction sa;
        memset(&sa, 0, sizeof sa);
        sa.sa_sigaction = ringlet_signal;
        sa.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER | SA_RESTART;
        sigemptyset(&sa.sa_mask);
        if (sig == SIGURG)
            sigaddset(&sa.sa_mask, SIGURG);
        return sigaction(sig, &sa, &ringlet_old[sig]);
    }

    static int ringlet_install(void *handler)
    {
        if (handler)
            ringlet_handler = (ringlet_fault_fn)handler;
        if (ringlet_installed)
            return 0;
        for (unsigned i = 0; i < sizeof ringlet_faults / sizeof *ringlet_faults; i++)
            if (ringlet_handle(ringlet_faults[i]))
                return -1;
        if (ringlet_handle(SIGURG))
            return -1;
        ringlet_installed = 1;
        return 0;
    }

    static int ringlet_keep_terminal(int fd)
    {
        if (ringlet_terminal_fd >= 0) {
            errno = EBUSY;
            return -1;
        }
        if (tcgetattr(fd, &ringlet_terminal) || ringlet_install(NULL))
            return -1;
        __atomic_store_n(&ringlet_terminal_fd, fd, __ATOMIC_SEQ_CST);
        for (unsigned i = 0; i < RINGLET_ENDS; i++)
            if (ringlet_handle(ringlet_ends[i]))
                return -1;
        return 0;
    }

    static void ringlet_forget_terminal(void)
    {
        if (ringlet_terminal_fd < 0)
            return;
        for (unsigned i = 0; i < RINGLET_ENDS; i++)
            sigaction(ringlet_ends[i], &ringlet_old[ringlet_ends[i]], NULL);
        __atomic_store_n(&ringlet_terminal_fd, -1, __ATOMIC_SEQ_CST);
    }

    static int ringlet_enter_thread(void *cpu)
    {
        if (!ringlet_stack) {
            stack_t ss;
            size_t size = 256 * 1024;
            void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (p == MAP_FAILED)
                return -1;
            /* RSP may be the guest's, so its value must not mean "already on this stack". */
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
    int ringlet_keep_terminal(int fd)
    void ringlet_forget_terminal()
    int ringlet_enter_thread(void* cpu)
    void ringlet_leave_thread()


cdef int install_handlers(fault_fn handler) except -1:
    """Install `handler`, the same for all virtual processors, for faults and SIGURG."""
    if ringlet_install(<void*>handler):
        raise OSError("cannot install the signal handlers")
    return 0


cdef int enter_thread(CpuState* c) except -1:
    """Treat faults of the calling thread as faults of `c` from now on."""
    if ringlet_enter_thread(c):
        raise OSError("cannot set up the signal stack")
    return 0


cdef void leave_thread() noexcept nogil:
    ringlet_leave_thread()


cdef void save_registers(CpuState* c, u64* regs) noexcept nogil:
    c.arch.gpr[0] = regs[HR_RAX]
    c.arch.gpr[1] = regs[HR_RCX]
    c.arch.gpr[2] = regs[HR_RDX]
    c.arch.gpr[3] = regs[HR_RBX]
    c.arch.gpr[4] = regs[HR_RSP] + c.rsp_naddend
    c.arch.gpr[5] = regs[HR_RBP]
    c.arch.gpr[6] = regs[HR_RSI]
    c.arch.gpr[7] = regs[HR_RDI]
    c.arch.gpr[12] = regs[HR_R12]
    c.arch.gpr[13] = regs[HR_R13]
    c.arch.gpr[14] = regs[HR_R14]
    c.arch.gpr[15] = regs[HR_R15]
    c.host_flags = regs[HR_EFL]


def keep_terminal(int fd) -> None:
    """Restore the present settings of the terminal `fd` if a signal ends the process.

    This concerns signals that end a process before any Python code runs: those of faults, SIGABRT
    and SIGSYS.  Only one terminal at a time can be kept.
    """
    if ringlet_keep_terminal(fd):
        raise OSError(errno, "cannot watch over the terminal")


def forget_terminal() -> None:
    """No longer restore the terminal."""
    ringlet_forget_terminal()
