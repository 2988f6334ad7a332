/* A program for i386: its output is the same on every processor. */
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WORDS = 20000, THREADS = 3 };

static sigjmp_buf back;
static volatile int zero;
static int *volatile nowhere;

static uint32_t next(uint32_t *state) { return *state = *state * 1664525 + 1013904223; }

static int compare(const void *a, const void *b) {
    uint32_t first = *(const uint32_t *)a, second = *(const uint32_t *)b;
    return (first > second) - (first < second);
}

static uint32_t sorted(uint32_t seed) {
    uint32_t *words = malloc(WORDS * sizeof *words), sum = 0;
    for (int i = 0; i < WORDS; i++)
        words[i] = next(&seed);
    qsort(words, WORDS, sizeof *words, compare);
    for (int i = 0; i < WORDS; i++)
        sum = sum * 33 ^ words[i];
    free(words);
    return sum;
}

static uint64_t divided(uint32_t seed) {
    uint64_t sum = 0;
    for (int i = 0; i < WORDS; i++) {
        uint64_t a = (uint64_t)next(&seed) << 32 | next(&seed);
        int64_t b = (int32_t)next(&seed) | 1;
        sum += a / (uint64_t)(b < 0 ? -b : b) ^ (uint64_t)((int64_t)a % b);
    }
    return sum;
}

static void floating(void) {
    double sum = 0;
    long double more = 0;
    for (int i = 1; i < 3000; i++) {
        sum += sin(i) * sqrt(i) / exp(i % 7);
        more += logl(i) * cosl(i);
    }
    printf("floating %.17g %.19Lg\n", sum, more);
}

static void *in_thread(void *seed) { return (void *)sorted((uint32_t)seed); }

static void on_signal(int number) { siglongjmp(back, number); }

int main(void) {
    pthread_t threads[THREADS];
    int status;
    printf("sorted %x, divided %llx\n", sorted(1), (unsigned long long)divided(2));
    floating();
    for (uintptr_t i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, in_thread, (void *)(i + 3));
    for (int i = 0; i < THREADS; i++) {
        void *sum;
        pthread_join(threads[i], &sum);
        printf("thread %x\n", (uint32_t)sum);
    }
    signal(SIGSEGV, on_signal);
    signal(SIGFPE, on_signal);
    signal(SIGILL, on_signal);
    if (!(status = sigsetjmp(back, 1)))
        *(volatile int *)nowhere = 1;
    printf("signal %d\n", status);
    if (!(status = sigsetjmp(back, 1)))
        printf("%d\n", WORDS / zero);
    printf("signal %d\n", status);
    if (!(status = sigsetjmp(back, 1)))
        __asm__ volatile("mov $0, %%eax; bound %%eax, 1f; 1: .long 5, 6" ::: "eax");
    printf("signal %d\n", status);
    fflush(stdout);
    pid_t child = fork();
    if (!child) {
        char *page = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        memset(page, 3, 1 << 20);
        _exit(page[12345] + page[1 << 19]);
    }
    waitpid(child, &status, 0);
    printf("child %d\n", WEXITSTATUS(status));
    return 0;
}
