"""The alarm of a virtual processor, which stops it at a given time.

A separate thread waits for that time: to set a timer and take its signal takes tens of
microseconds in a virtual machine, which the guest would lose.  The thread never holds the GIL and
runs no Python code.  After each alarm it sleeps only briefly, because the next time is usually set
soon after, and then no other thread has to wake it.

Time is the host's TSC, which can be read while the guest's vector registers are live.
"""
from libc.stdlib cimport calloc, free
from ringlet.core.host cimport futex_wait
from ringlet.core.prod cimport request_stop
from ringlet.core.state cimport CpuState, u32, u64

cdef extern from * nogil:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <pthread.h>
    #include <signal.h>
    #include <stdint.h>
    #include <sys/prctl.h>

    enum { RINGLET_NAP_NS = 300000, RINGLET_STACK = 65536 };

    struct ringlet_alarm {
        pthread_t thread;
        uint64_t due;     /* TSC, or 0 */
        uint64_t until;   /* TSC at which the thread checks `due` again, at the latest */
        uint32_t turn;    /* a change makes the thread check at once */
        uint32_t over;
        uint64_t khz;
        void *cpu;
        void (*ring)(void *cpu);
    };

    /* n * a / b, rounded up */
    static inline uint64_t ringlet_scale(uint64_t n, uint64_t a, uint64_t b)
    {
        unsigned __int128 result = ((unsigned __int128)n * a + b - 1) / b;
        return result >> 63 ? (uint64_t)1 << 63 : (uint64_t)result;
    }

    enum { RINGLET_LONG_NS = 1000000000 };

    /* Return how long to sleep until `due`: at most one second at a time. */
    static uint64_t ringlet_until_ns(uint64_t due, uint64_t khz)
    {
        uint64_t now = ringlet_ticks(), ns;
        if (!due)
            return RINGLET_LONG_NS;
        if (due <= now)
            return 0;
        ns = ringlet_scale(due - now, 1000000, khz);
        return ns < RINGLET_LONG_NS ? ns : RINGLET_LONG_NS;
    }

    static void *ringlet_alarm_work(void *data)
    {
        struct ringlet_alarm *a = data;
        prctl(PR_SET_TIMERSLACK, 1);
        while (!__atomic_load_n(&a->over, __ATOMIC_SEQ_CST)) {
            uint32_t turn = __atomic_load_n(&a->turn, __ATOMIC_SEQ_CST);
            uint64_t due = __atomic_load_n(&a->due, __ATOMIC_SEQ_CST), until = due;
            if (due && ringlet_ticks() >= due) {
                if (!__atomic_compare_exchange_n(&a->due, &due, 0, 0, __ATOMIC_SEQ_CST,
                                                 __ATOMIC_SEQ_CST))
                    continue;
                a->ring(a->cpu);
                until = ringlet_ticks() + ringlet_scale(RINGLET_NAP_NS, a->khz, 1000000);
                due = 0;
            }
            __atomic_store_n(&a->until, until ? until : UINT64_MAX, __ATOMIC_SEQ_CST);
            /* A thread that sets `due` after this point sees `until`. */
            if (__atomic_load_n(&a->due, __ATOMIC_SEQ_CST) != due)
                continue;
            ringlet_futex_wait(&a->turn, turn, ringlet_until_ns(until, a->khz));
        }
        return NULL;
    }

    static int ringlet_alarm_start(struct ringlet_alarm *a)
    {
        pthread_attr_t attributes;
        sigset_t all, before;
        int result;
        pthread_attr_init(&attributes);
        pthread_attr_setstacksize(&attributes, RINGLET_STACK);
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        result = pthread_create(&a->thread, &attributes, ringlet_alarm_work, a);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        pthread_attr_destroy(&attributes);
        return result;
    }

    static void ringlet_alarm_look(struct ringlet_alarm *a)
    {
        __atomic_add_fetch(&a->turn, 1, __ATOMIC_SEQ_CST);
        ringlet_futex_wake(&a->turn);
    }

    static void ringlet_alarm_set(struct ringlet_alarm *a, uint64_t due)
    {
        __atomic_store_n(&a->due, due, __ATOMIC_SEQ_CST);
        if (due && due < __atomic_load_n(&a->until, __ATOMIC_SEQ_CST))
            ringlet_alarm_look(a);
    }

    static void ringlet_alarm_stop(struct ringlet_alarm *a)
    {
        __atomic_store_n(&a->over, 1, __ATOMIC_SEQ_CST);
        ringlet_alarm_look(a);
        pthread_join(a->thread, NULL);
    }
    """
    struct ringlet_alarm:
        u64 khz
        void* cpu
        void (*ring)(void* cpu)
    u64 ringlet_scale(u64 n, u64 a, u64 b)
    u64 ringlet_until_ns(u64 due, u64 khz)
    int ringlet_alarm_start(ringlet_alarm* a)
    void ringlet_alarm_set(ringlet_alarm* a, u64 due)
    void ringlet_alarm_stop(ringlet_alarm* a)


cdef u64 to_ticks(CpuState* c, u64 count, u64 hz) noexcept nogil:
    return ringlet_scale(count, c.arch.tsc_khz * 1000, hz)


cdef u64 from_ticks(CpuState* c, u64 ticks, u64 hz) noexcept nogil:
    return ringlet_scale(ticks, hz, c.arch.tsc_khz * 1000)


cdef void ring(void* cpu) noexcept nogil:
    request_stop(<CpuState*>cpu)


cdef int alarm_attach(CpuState* c) except -1:
    cdef ringlet_alarm* a
    if c.alarm != NULL:
        return 0
    a = <ringlet_alarm*>calloc(1, sizeof(ringlet_alarm))
    if a == NULL:
        raise MemoryError("alarm")
    a.cpu = c
    a.ring = ring
    a.khz = c.arch.tsc_khz
    if ringlet_alarm_start(a):
        free(a)
        raise OSError("cannot start the alarm's thread")
    c.alarm = a
    return 0


cdef void alarm_destroy(CpuState* c) noexcept:
    cdef ringlet_alarm* a = <ringlet_alarm*>c.alarm
    if a != NULL:
        c.alarm = NULL
        ringlet_alarm_stop(a)
        free(a)


cdef void alarm_set(CpuState* c, u64 due) noexcept nogil:
    ringlet_alarm_set(<ringlet_alarm*>c.alarm, due)


cdef void alarm_wait(CpuState* c, u64 due) noexcept nogil:
    cdef u64 ns = ringlet_until_ns(due, c.arch.tsc_khz)
    if ns:
        futex_wait(<u32*>&c.attention, 0, ns)
