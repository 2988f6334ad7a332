/* Counts system calls: a filter makes each stop the caller once, and ptrace sees it. */
#include <asm/signal.h>
#include <linux/filter.h>
#include <linux/prctl.h>
#include <linux/ptrace.h>
#include <linux/seccomp.h>
#include <linux/wait.h>

#include "driver.h"

enum { EVENTS = PTRACE_O_TRACESECCOMP | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK |
                PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC };

void trap_calls(void)
{
    struct sock_filter trap = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE);
    struct sock_fprog program = {1, &trap};
    check("prctl", rt_syscall6(__NR_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0));
    check("seccomp", call(__NR_seccomp, SECCOMP_SET_MODE_FILTER, 0, (long)&program));
}

static int stops(int signal)
{
    return signal == SIGSTOP || signal == SIGTSTP || signal == SIGTTIN || signal == SIGTTOU;
}

/* Lets a stopped thread go on; returns whether it stopped at a system call.  It may be killed at
 * any moment, so that no request needs to succeed. */
static int resume(long thread, int status)
{
    int event = status >> 16, signal = status >> 8 & 0xff;
    if (event == PTRACE_EVENT_STOP && stops(signal)) {
        call4(__NR_ptrace, PTRACE_LISTEN, thread, 0, 0);
        return 0;
    }
    call4(__NR_ptrace, PTRACE_CONT, thread, 0, event ? 0 : signal);
    return event == PTRACE_EVENT_SECCOMP;
}

long count_calls(long process, int go, int *status)
{
    long calls = 0, thread;
    int seen;
    check("ptrace", call4(__NR_ptrace, PTRACE_SEIZE, process, 0, EVENTS));
    call(__NR_close, go, 0, 0);
    *status = -1;
    while ((thread = call4(__NR_wait4, -1, (long)&seen, __WALL, 0)) > 0) {
        if ((seen & 0xff) == 0x7f) {
            calls += resume(thread, seen);
        } else if (thread == process) {
            *status = seen;
            call(__NR_kill, -1, SIGKILL, 0);
        }
    }
    return calls;
}
