/* Fibonacci by recursion: calls and returns. */
#include "section.h"

static uint64_t fib(unsigned n)
{
    return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

static volatile unsigned argument = 39;

static void prepare(void)
{
}

static uint64_t run(void)
{
    return fib(argument);
}

const struct section section_fib = {"fib", prepare, run};
