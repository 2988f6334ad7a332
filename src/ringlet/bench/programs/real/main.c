/* 16-bit code in real mode, which the 32-bit guest's kernel runs. */
#include "rt.h"

/* In the order of guest32/real.S. */
static const char *const sections[] = {
    "sieve", "movs", "scas", "xlat", "sort", "les", "fib", "digits", "int",
};

int program_main(void)
{
    for (int i = 0; i < (int)(sizeof sections / sizeof *sections); i++) {
        uint64_t start = rt_tsc();
        long sum = rt_syscall(SYS_REAL, i, 0, 0);
        uint64_t ticks = rt_tsc() - start;
        rt_printf("section %s %" L64 "u %016lx\n", sections[i], ticks, sum);
    }
    return 0;
}
