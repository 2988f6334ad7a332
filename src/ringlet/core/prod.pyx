"""Stop requests, which make a thread leave translated code.

A request sets `attention` and, if the thread runs the guest, sends it a signal.  The handler makes
the current fragment the last one (ringlet.cache.exits).  If the thread is still in translated code
some time later, as in a long repeated string instruction, a timer signals it again.  If the thread
waits for a direct process, that is the one to be signalled.

The signal is SIGURG, because nothing else uses it, and it is ignored if there is no handler.
"""
from ringlet.core.host cimport futex_wake, host_fence
from ringlet.core.state cimport CpuState, u32

cdef extern from * nogil:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <signal.h>
    #include <string.h>
    #include <time.h>
    #include <unistd.h>
    #include <sys/syscall.h>
    #ifndef sigev_notify_thread_id
    #define sigev_notify_thread_id _sigev_un._tid
    #endif

    enum { RINGLET_PATIENCE_NS = 10000000 };

    static long ringlet_thread(void)
    {
        static __thread long id;
        if (!id)
            id = syscall(SYS_gettid);
        return id;
    }

    static int ringlet_timer_create(void **timer)
    {
        struct sigevent event;
        memset(&event, 0, sizeof event);
        event.sigev_notify = SIGEV_THREAD_ID;
        event.sigev_signo = SIGURG;
        event.sigev_notify_thread_id = (int)ringlet_thread();
        return timer_create(CLOCK_MONOTONIC, &event, (timer_t *)timer);
    }
    /* The thread may have started with all signals blocked. */
    static int ringlet_listen(void)
    {
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGURG);
        return pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    }
    static void ringlet_signal_thread(long thread)
    {
        syscall(SYS_tgkill, getpid(), thread, SIGURG);
    }
    static int ringlet_signal_process(int pidfd)
    {
        return syscall(SYS_pidfd_send_signal, pidfd, SIGURG, NULL, 0) == 0;
    }
    static void ringlet_timer_delete(void *timer) { timer_delete((timer_t)timer); }
    static void ringlet_timer_set(void *timer, long ns)
    {
        struct itimerspec when = {{0, 0}, {0, ns}};
        timer_settime((timer_t)timer, 0, &when, 0);
    }
    """
    long ringlet_thread()
    int ringlet_timer_create(void** timer)
    int ringlet_listen()
    void ringlet_signal_thread(long thread)
    bint ringlet_signal_process(int pidfd)
    void ringlet_timer_delete(void* timer)
    void ringlet_timer_set(void* timer, long ns)
    long RINGLET_PATIENCE_NS


cdef int prod_attach(CpuState* c) except -1:
    cdef long thread = ringlet_thread()
    if c.prod_thread == <unsigned long>thread:
        return 0
    prod_detach(c)
    if ringlet_listen() or ringlet_timer_create(&c.prod):
        raise OSError("cannot make a timer")
    c.prod_thread = thread
    return 0


cdef void prod_detach(CpuState* c) noexcept:
    if c.prod_thread:
        c.prod_thread = 0
        ringlet_timer_delete(c.prod)


cdef void request_stop(CpuState* c) noexcept nogil:
    cdef int process
    host_fence()
    c.attention = 1
    host_fence()
    process = c.direct_pidfd
    if c.sleeping:
        futex_wake(<u32*>&c.attention)
    elif process and ringlet_signal_process(process):
        # The thread waits for this process.  If that does not stop, the timer wakes the thread.
        prod_arm(c)
    elif c.running:
        ringlet_signal_thread(c.prod_thread)


cdef void prod_arm(CpuState* c) noexcept nogil:
    c.prodding = 1
    if c.prod_thread:
        ringlet_timer_set(c.prod, RINGLET_PATIENCE_NS)


cdef void prod_disarm(CpuState* c) noexcept nogil:
    c.prodding = 0
    ringlet_timer_set(c.prod, 0)
