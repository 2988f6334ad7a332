"""Services of the host's processor and kernel: its clock, fences, futexes and memory."""
from ringlet.core.state cimport u32, u64

cdef extern from * nogil:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <linux/futex.h>
    #include <sys/mman.h>
    #include <sys/syscall.h>
    #include <time.h>
    #include <unistd.h>

    static inline unsigned long ringlet_ticks(void) { return __builtin_ia32_rdtsc(); }
    /* Read the TSC after all earlier instructions, like RDTSCP (SDM vol. 2B). */
    static inline unsigned long ringlet_ticks_ordered(void)
    {
        __asm__ volatile("lfence" ::: "memory");
        return __builtin_ia32_rdtsc();
    }
    static inline unsigned long ringlet_gs_base(void)
    {
        unsigned long base;
        __asm__ volatile("rdgsbase %0" : "=r"(base));
        return base;
    }
    static inline void ringlet_set_gs_base(unsigned long base)
    {
        __asm__ volatile("wrgsbase %0" : : "r"(base));
    }
    /* PDEP and PEXT are microcode before AMD's Zen 3 (family 19h), and in Hygon's processors. */
    static inline int ringlet_deposits_fast(void)
    {
        unsigned a, b, c, d, family;
        __asm__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "0"(0), "2"(0));
        if (b == 0x6f677948)
            return 0;
        if (b != 0x68747541)
            return 1;
        __asm__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "0"(1), "2"(0));
        family = (a >> 8 & 15) + (a >> 20 & 255);
        return family >= 0x19;
    }
    static inline void ringlet_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
    static inline void ringlet_futex_wait(unsigned *word, unsigned value, unsigned long ns)
    {
        struct timespec time = {ns / 1000000000, ns % 1000000000};
        syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, &time, NULL, 0);
    }
    static inline void ringlet_futex_wake(unsigned *word)
    {
        syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
    }
    static inline void *ringlet_map_host(unsigned long size, int flags)
    {
        void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);
        return p == MAP_FAILED ? NULL : p;
    }
    static inline void *ringlet_map_any(unsigned long size) { return ringlet_map_host(size, 0); }
    static inline void *ringlet_map_low(unsigned long size)
    {
        return ringlet_map_host(size, MAP_32BIT);
    }
    static inline void ringlet_unmap_host(void *p, unsigned long size) { if (p) munmap(p, size); }
    """
    u64 host_ticks "ringlet_ticks" ()
    u64 host_ticks_ordered "ringlet_ticks_ordered" ()
    # The base of this thread's GS, which programs for x86-64 Linux do not use.
    u64 host_gs_base "ringlet_gs_base" ()
    void host_set_gs_base "ringlet_set_gs_base" (u64 base)
    bint host_deposits_fast "ringlet_deposits_fast" ()
    void host_fence "ringlet_fence" ()
    void futex_wait "ringlet_futex_wait" (u32* word, u32 value, u64 ns)
    void futex_wake "ringlet_futex_wake" (u32* word)
    # Allocate zeroed memory, anywhere or below 2 GiB; NULL: there is none.
    void* host_map "ringlet_map_any"(unsigned long size)
    void* host_map_low "ringlet_map_low"(unsigned long size)
    void host_unmap "ringlet_unmap_host"(void* p, unsigned long size)
