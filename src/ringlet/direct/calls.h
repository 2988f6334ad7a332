/* System calls without libc, which may use vector registers: while they are made, these hold the
   guest's state. */
#ifndef RINGLET_DIRECT_CALLS_H
#define RINGLET_DIRECT_CALLS_H

#include <sys/syscall.h>

static inline long ringlet_call(long number, long a, long b, long c, long d)
{
    long result;
    register long r10 __asm__("r10") = d;
    __asm__ volatile("syscall" : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
    return result;
}

#endif
