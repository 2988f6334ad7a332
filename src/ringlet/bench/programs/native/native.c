/* The run-time layer under Linux: entry, exit, and the clock; no C library. */
#include "rt.h"

enum { PR_SET_THP_DISABLE = 41, CLOCK_MONOTONIC = 1 };

const int rt_is_guest = 0;

_Noreturn void rt_exit(int status)
{
    for (;;)
        rt_syscall(SYS_EXIT, status, 0, 0);
}

/* Prints "clock TSC NS": pairs the time stamp counter with the clock: the best of a few, for the tightest bracket. */
static void print_clock(void)
{
    uint64_t best = ~0ull, tsc = 0, ns = 0;
    for (int i = 0; i < 20; i++) {
        uint64_t time[2], before = rt_tsc();
        rt_syscall(SYS_CLOCK_GETTIME, CLOCK_MONOTONIC, (long)time, 0);
        uint64_t width = rt_tsc() - before;
        if (width < best) {
            best = width;
            tsc = before + width / 2;
            ns = time[0] * 1000000000u + time[1];
        }
    }
    rt_printf("clock %" L64 "u %" L64 "u\n", tsc, ns);
}

__attribute__((noreturn, used)) static void start(char **arguments)
{
    int host = !rt_begin || rt_begin(arguments);
    /* Use 4 KiB pages, as the guest does. */
    rt_syscall6(SYS_PRCTL, PR_SET_THP_DISABLE, 1, 0, 0, 0, 0);
    if (host)
        print_clock();
    rt_printf("mark %" L64 "u\n", rt_tsc());
    int status = program_main();
    rt_printf("mark %" L64 "u\n", rt_tsc());
    if (host)
        print_clock();
    if (rt_end)
        rt_end();
    rt_exit(status);
}

#ifdef __i386__
__asm__(".globl _start\n"
        "_start: xor %ebp, %ebp\n"
        " lea 4(%esp), %eax\n"
        " and $-16, %esp\n"
        " sub $12, %esp\n"
        " push %eax\n"
        " call start\n");
#else
__asm__(".globl _start\n"
        "_start: xor %ebp, %ebp\n"
        " lea 8(%rsp), %rdi\n"
        " and $-16, %rsp\n"
        " call start\n");
#endif
