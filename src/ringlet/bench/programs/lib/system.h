/* System calls of Linux for x86-64 and for the 80386. The bare guests' kernels serve WRITE and EXIT. */
#ifndef RINGLET_SYSTEM_H
#define RINGLET_SYSTEM_H

#ifdef __i386__

enum {
    SYS_EXIT = 1, SYS_FORK = 2, SYS_READ = 3, SYS_WRITE = 4, SYS_CLOSE = 6, SYS_EXECVE = 11,
    SYS_GETPID = 20, SYS_PIPE = 42, SYS_IOCTL = 54, SYS_GETPPID = 64, SYS_REBOOT = 88,
    SYS_MUNMAP = 91, SYS_WAIT4 = 114, SYS_PRCTL = 172, SYS_MMAP = 192 /* mmap2 */,
    SYS_SCHED_SETAFFINITY = 241, SYS_GETCPU = 318, SYS_CLOCK_GETTIME = 403 /* of 64 bits */,
    SYS_REAL = 1000, /* the bare guest's alone: run a section of real.S */
};

static inline long rt_syscall(long number, long a, long b, long c)
{
    __asm__ volatile("int $0x80" : "+a"(number) : "b"(a), "c"(b), "d"(c) : "memory");
    return number;
}

static inline long rt_syscall6(long number, long a, long b, long c, long d, long e, long f)
{
    /* EBP may be the frame pointer. */
    __asm__ volatile("push %%ebp\n\t"
                     "push %6\n\t"
                     "mov (%%esp), %%ebp\n\t"
                     "int $0x80\n\t"
                     "add $4, %%esp\n\t"
                     "pop %%ebp"
                     : "+a"(number)
                     : "b"(a), "c"(b), "d"(c), "S"(d), "D"(e), "i"(f)
                     : "memory");
    return number;
}

#else

enum {
    SYS_READ = 0, SYS_WRITE = 1, SYS_CLOSE = 3, SYS_MMAP = 9, SYS_MUNMAP = 11, SYS_SIGACTION = 13,
    SYS_IOCTL = 16, SYS_PIPE = 22, SYS_GETPID = 39, SYS_FORK = 57, SYS_EXECVE = 59, SYS_EXIT = 60,
    SYS_WAIT4 = 61, SYS_FTRUNCATE = 77, SYS_GETPPID = 110, SYS_SIGALTSTACK = 131, SYS_PRCTL = 157,
    SYS_REBOOT = 169, SYS_SCHED_SETAFFINITY = 203, SYS_CLOCK_GETTIME = 228, SYS_GETCPU = 309,
    SYS_MEMFD_CREATE = 319,
};

static inline long rt_syscall(long number, long a, long b, long c)
{
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c)
                     : "rcx", "r11", "memory");
    return result;
}

static inline long rt_syscall6(long number, long a, long b, long c, long d, long e, long f)
{
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "+a"(number)
                     : "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return number;
}

#endif

#endif
