/* The run-time interface of benchmark programs, the same natively and in the bare guest. */
#ifndef RINGLET_RT_H
#define RINGLET_RT_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "system.h"

/* The length of a uint64_t in a format. */
#ifdef __i386__
#define L64 "ll"
#else
#define L64 "l"
#endif

/* The time stamp counter, after all earlier instructions (SDM vol. 2B, RDTSC). */
static inline uint64_t rt_tsc(void)
{
    uint32_t low, high;
    __asm__ volatile("lfence; rdtsc" : "=a"(low), "=d"(high) : : "memory");
    return (uint64_t)high << 32 | low;
}

/* A xorshift generator: the same numbers everywhere. */
static inline uint64_t rt_random(uint64_t *state)
{
    uint64_t x = *state;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return *state = x;
}

/* 1 in the bare guest, 0 natively. */
extern const int rt_is_guest;

/* Natively: measures the host's signals and mappings, under the names of the operations that need
 * them. */
__attribute__((weak)) void rt_floors(void);

/* A program that is also a guest's init defines these.  `rt_begin` is called first, with the
 * arguments, and returns whether this system's clock is the host's; `rt_end` is called after all
 * output. */
__attribute__((weak)) int rt_begin(char **arguments);
__attribute__((weak)) void rt_end(void);

_Noreturn void rt_exit(int status);

/* The program, called by the run-time layer in ring 3. */
int program_main(void);

/* print.c */
int fmt_vsnprintf(char *out, size_t size, const char *format, va_list args);
int fmt_snprintf(char *out, size_t size, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void rt_printf(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* string.c */
void *memcpy(void *to, const void *from, size_t n);
void *memmove(void *to, const void *from, size_t n);
void *memset(void *to, int byte, size_t n);
int memcmp(const void *a, const void *b, size_t n);
size_t strlen(const char *s);
int strcmp(const char *a, const char *b);

/* alloc.c */
void heap_reset(void);
void *heap_alloc(size_t size);
void heap_free(void *block);

#endif
