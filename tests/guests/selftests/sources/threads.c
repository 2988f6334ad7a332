/* Threads: their own storage, futexes, locks, and registers kept when one is preempted. */
#include "selftest.h"
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

enum { THREADS = 6 };

static void start_all(pthread_t *threads, void *(*body)(void *))
{
    for (u64 i = 0; i < THREADS; i++)
        SAME(pthread_create(&threads[i], NULL, body, (void *)i), 0);
}

static void join_all(pthread_t *threads)
{
    for (int i = 0; i < THREADS; i++)
        SAME(pthread_join(threads[i], NULL), 0);
}

static void in_threads(void *(*body)(void *))
{
    pthread_t threads[THREADS];
    start_all(threads, body);
    join_all(threads);
}

static __thread u64 own = 5, zero;

static void *use_own(void *number)
{
    SAME(own, 5);
    SAME(zero, 0);
    for (u64 i = 0; i < 2000; i++) {
        own += (u64)number;
        errno = (int)(u64)number;
        sched_yield();
        SAME(own, 5 + (i + 1) * (u64)number);
        SAME(errno, (u64)number);
    }
    return NULL;
}

TEST(threads, storage)
{
    in_threads(use_own);
    SAME(own, 5);
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static u64 guarded;

static void *count(void *unused)
{
    (void)unused;
    for (int i = 0; i < 20000; i++) {
        pthread_mutex_lock(&mutex);
        u64 value = guarded;
        if (i % 500 == 0)
            sched_yield();
        guarded = value + 1;
        pthread_mutex_unlock(&mutex);
    }
    return NULL;
}

TEST(threads, mutex)
{
    in_threads(count);
    SAME(guarded, THREADS * 20000);
}

static pthread_cond_t turned = PTHREAD_COND_INITIALIZER;
static u64 turn;

static void *take_turns(void *number)
{
    for (int i = 0; i < 300; i++) {
        pthread_mutex_lock(&mutex);
        while (turn % THREADS != (u64)number)
            pthread_cond_wait(&turned, &mutex);
        turn++;
        pthread_cond_broadcast(&turned);
        pthread_mutex_unlock(&mutex);
    }
    return NULL;
}

TEST(threads, conditions)
{
    in_threads(take_turns);
    SAME(turn, THREADS * 300);
}

static u32 word;

static long futex(int operation, u32 value, const struct timespec *timeout)
{
    return syscall(SYS_futex, &word, operation, value, timeout, NULL, 0);
}

static void *ping(void *number)
{
    u32 side = (u32)(u64)number;
    if (side > 1)
        return NULL;
    for (int i = 0; i < 3000; i++) {
        while (__atomic_load_n(&word, __ATOMIC_SEQ_CST) % 2 != side)
            futex(FUTEX_WAIT_PRIVATE, 1 - side + (word & ~1u), NULL);
        __atomic_add_fetch(&word, 1, __ATOMIC_SEQ_CST);
        futex(FUTEX_WAKE_PRIVATE, 1, NULL);
    }
    return NULL;
}

TEST(threads, futex)
{
    in_threads(ping);
    SAME(word, 6000);
    struct timespec soon = { 0, 20000000 };
    SAME(futex(FUTEX_WAIT, 6000, &soon), -1);
    SAME(errno, ETIMEDOUT);
    SAME(futex(FUTEX_WAIT, 1, NULL), -1);
    SAME(errno, EAGAIN);
}

/* Without locks: each kind of locked instruction, under preemption. */
static u64 added, toggled, swapped, exchanged;
static unsigned __int128 wide ALIGNED(16);

static void *torture(void *number)
{
    for (u64 i = 0; i < 20000; i++) {
        u64 one = 1, bit = (u64)number, expected = __atomic_load_n(&swapped, __ATOMIC_RELAXED);
        asm volatile("lock xaddq %0, %1" : "+r"(one), "+m"(added) :: "memory", "cc");
        asm volatile("lock btcq %1, %0" : "+m"(toggled) : "r"(bit) : "memory", "cc");
        while (!__atomic_compare_exchange_n(&swapped, &expected, expected + 3, 0, __ATOMIC_SEQ_CST,
                                            __ATOMIC_SEQ_CST))
            ;
        u64 low = 0, high = 0;
        u8 done;
        do {
            u64 new_low = low + 1, new_high = high - 1;
            asm volatile("lock cmpxchg16b %0; setz %3" : "+m"(wide), "+a"(low), "+d"(high), "=q"(done)
                         : "b"(new_low), "c"(new_high) : "memory", "cc");
        } while (!done);
        u64 mine = (u64)number + 1;
        asm volatile("xchgq %0, %1" : "+r"(mine), "+m"(exchanged) :: "memory");
        CHECK(mine <= THREADS);
    }
    return NULL;
}

TEST(threads, locked_instructions)
{
    in_threads(torture);
    SAME(added, THREADS * 20000);
    SAME(toggled, 0);
    SAME(swapped, 3 * THREADS * 20000);
    SAME((u64)wide, THREADS * 20000);
    SAME((u64)(wide >> 64), -(u64)THREADS * 20000);
}

/* Registers of threads that are preempted while they compute. */
static void *compute(void *number)
{
    u64 seed = (u64)number * 0x9E3779B97F4A7C15 + 1, a = seed, b = ~seed, sum = 0;
    u64 again_a = seed, again_b = ~seed, again = 0;
    for (int pass = 0; pass < 2; pass++) {
        u64 *x = pass ? &again_a : &a, *y = pass ? &again_b : &b, *s = pass ? &again : &sum;
        u64 p = *x, q = *y, r = 0, t = 7;
        asm volatile("mov $300000, %%ecx\n"
                     "1: rol $13, %0; add %1, %0; xor %0, %1; imul $0x10DCD, %1, %1; adc %0, %2\n"
                     "sbb %1, %3; movq %3, %%xmm3; pinsrq $1, %2, %%xmm3; pxor %%xmm3, %%xmm4\n"
                     "paddq %%xmm4, %%xmm5; dec %%ecx; jnz 1b\n"
                     "movq %%xmm5, %%rcx; add %%rcx, %2; pxor %%xmm4, %%xmm4; pxor %%xmm5, %%xmm5"
                     : "+r"(p), "+r"(q), "+r"(r), "+r"(t) :: "rcx", "cc", "xmm3");
        *s = p ^ q ^ r ^ t;
    }
    SAME(sum, again);
    return NULL;
}

static void *clear_and_compute(void *number)
{
    asm volatile("pxor %%xmm4, %%xmm4; pxor %%xmm5, %%xmm5" ::: "xmm4", "xmm5");
    return compute(number);
}

TEST(threads, registers)
{
    for (int i = 0; i < 3; i++)
        in_threads(clear_and_compute);
}

static volatile u64 signalled[THREADS];
static __thread u64 my_number;

static void note(int number)
{
    (void)number;
    signalled[my_number]++;
}

static volatile int stop;

static void *spin(void *number)
{
    my_number = (u64)number;
    u64 n = 0;
    while (!stop)
        n++;
    return (void *)n;
}

/* Signals to each of several spinning threads come to that one. */
TEST(threads, signals)
{
    pthread_t threads[THREADS];
    struct timespec ms = { 0, 1000000 };
    signal(SIGUSR1, note);
    start_all(threads, spin);
    for (int round = 0; round < 5; round++)
        for (int i = 0; i < THREADS; i++) {
            u64 before = signalled[i];
            SAME(pthread_kill(threads[i], SIGUSR1), 0);
            for (int tries = 0; signalled[i] == before; tries++) {
                CHECK(tries < 2000);
                nanosleep(&ms, NULL);
            }
        }
    stop = 1;
    join_all(threads);
    for (int i = 0; i < THREADS; i++)
        SAME(signalled[i], 5);
}

static u8 *shared_code;
static volatile u64 generation;

static void *call_code(void *unused)
{
    (void)unused;
    u64 last = 0;
    while (!stop) {
        u64 seen = generation, got;
        asm volatile("call *%1" : "=a"(got) : "r"(shared_code) : "memory", "rcx");
        CHECK(got >= seen && got >= last);
        last = got;
    }
    return NULL;
}

/* One thread changes the code that the others run, and says so with a memory barrier. */
TEST(threads, changing_code)
{
    pthread_t threads[THREADS];
    struct timespec ms = { 0, 1000000 };
    u8 code[] = { 0xB8, 0, 0, 0, 0, 0xC3 };
    shared_code = page(PROT_READ | PROT_WRITE | PROT_EXEC);
    memcpy(shared_code, code, sizeof code);
    if (syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE, 0, 0))
        skip("no membarrier");
    start_all(threads, call_code);
    for (u32 i = 1; i < 200; i++) {
        /* The number is at an odd address, but within one cache line. */
        __atomic_store_n((u32 *)(shared_code + 1), i, __ATOMIC_SEQ_CST);
        MUST(syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE, 0, 0));
        generation = i;
        nanosleep(&ms, NULL);
    }
    stop = 1;
    join_all(threads);
}

static void *nothing(void *value)
{
    return value;
}

TEST(threads, many)
{
    for (u64 i = 0; i < 300; i++) {
        pthread_t thread;
        void *result;
        SAME(pthread_create(&thread, NULL, nothing, (void *)i), 0);
        SAME(pthread_join(thread, &result), 0);
        SAME((u64)result, i);
    }
}

static void *unmap_and_map(void *number)
{
    for (int i = 0; i < 200; i++) {
        u64 *p = pages(8, PROT_READ | PROT_WRITE);
        for (int k = 0; k < 8; k++)
            p[k * 512] = (u64)number;
        if (i % 20 == 0)
            sched_yield();
        for (int k = 0; k < 8; k++)
            SAME(p[k * 512], (u64)number);
        MUST(munmap(p, 8 * PAGE));
    }
    return NULL;
}

/* Mappings that come and go while others run in the same address space. */
TEST(threads, mappings)
{
    in_threads(unmap_and_map);
}
