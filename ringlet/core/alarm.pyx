"""A moment at which a virtual processor is stopped.

A thread of its own waits for it: setting and taking a timer's interrupt costs a virtual machine
tens of microseconds, which the guest would miss.  The thread holds no GIL and knows no Python.
Once it has rung it naps, for the next moment is most often set soon after, and then nobody has to
wake it.
"""
from libc.stdlib cimport calloc, free
from ringlet.core.prod cimport request_stop
from ringlet.core.state cimport CpuState, i64

cdef extern from * nogil:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <pthread.h>
    #include <signal.h>
    #include <time.h>

    enum { RINGLET_NAP_NS = 300000 };

    struct ringlet_alarm {
        pthread_t thread;
        pthread_mutex_t lock;
        pthread_cond_t changed;
        long due;        /* ns of CLOCK_MONOTONIC, or 0 */
        long napping;    /* until then it needs no waking, or 0 */
        int over;
        void *cpu;
        void (*ring)(void *cpu);
    };

    static long ringlet_alarm_now(void)
    {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return now.tv_sec * 1000000000 + now.tv_nsec;
    }

    static void ringlet_alarm_wait(struct ringlet_alarm *a, long until)
    {
        struct timespec when = {until / 1000000000, until % 1000000000};
        pthread_cond_timedwait(&a->changed, &a->lock, &when);
    }

    static void *ringlet_alarm_work(void *data)
    {
        struct ringlet_alarm *a = data;
        pthread_mutex_lock(&a->lock);
        while (!a->over) {
            if (!a->due) {
                pthread_cond_wait(&a->changed, &a->lock);
            } else if (ringlet_alarm_now() < a->due) {
                ringlet_alarm_wait(a, a->due);
            } else {
                a->due = 0;
                a->ring(a->cpu);
                a->napping = ringlet_alarm_now() + RINGLET_NAP_NS;
                ringlet_alarm_wait(a, a->napping);
                a->napping = 0;
            }
        }
        pthread_mutex_unlock(&a->lock);
        return NULL;
    }

    static int ringlet_alarm_start(struct ringlet_alarm *a)
    {
        pthread_condattr_t attributes;
        sigset_t all, before;
        int result;
        pthread_mutex_init(&a->lock, NULL);
        pthread_condattr_init(&attributes);
        pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
        pthread_cond_init(&a->changed, &attributes);
        pthread_condattr_destroy(&attributes);
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        result = pthread_create(&a->thread, NULL, ringlet_alarm_work, a);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        return result;
    }

    static void ringlet_alarm_set(struct ringlet_alarm *a, long due)
    {
        pthread_mutex_lock(&a->lock);
        int sooner = due && (a->napping ? due < a->napping : !a->due || due < a->due);
        a->due = due;
        if (sooner)
            pthread_cond_signal(&a->changed);
        pthread_mutex_unlock(&a->lock);
    }

    static void ringlet_alarm_stop(struct ringlet_alarm *a)
    {
        pthread_mutex_lock(&a->lock);
        a->over = 1;
        pthread_cond_signal(&a->changed);
        pthread_mutex_unlock(&a->lock);
        pthread_join(a->thread, NULL);
        pthread_cond_destroy(&a->changed);
        pthread_mutex_destroy(&a->lock);
    }
    """
    struct ringlet_alarm:
        void* cpu
        void (*ring)(void* cpu)
    int ringlet_alarm_start(ringlet_alarm* a)
    void ringlet_alarm_set(ringlet_alarm* a, long due)
    void ringlet_alarm_stop(ringlet_alarm* a)


cdef void ring(void* cpu) noexcept nogil:
    cdef CpuState* c = <CpuState*>cpu
    c.stop = 1
    request_stop(c)


cdef int alarm_set(CpuState* c, i64 due) except -1:
    cdef ringlet_alarm* a = <ringlet_alarm*>c.alarm
    if a == NULL:
        if due == 0:
            return 0
        a = <ringlet_alarm*>calloc(1, sizeof(ringlet_alarm))
        if a == NULL:
            raise MemoryError("alarm")
        a.cpu = c
        a.ring = ring
        if ringlet_alarm_start(a):
            free(a)
            raise OSError("cannot start the alarm's thread")
        c.alarm = a
    ringlet_alarm_set(a, due)
    return 0


cdef void alarm_destroy(CpuState* c) noexcept:
    cdef ringlet_alarm* a = <ringlet_alarm*>c.alarm
    if a != NULL:
        c.alarm = NULL
        ringlet_alarm_stop(a)
        free(a)
