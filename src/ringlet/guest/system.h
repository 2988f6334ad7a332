/* Linux without a C library: system calls, and the few functions that gcc itself may call. */
#ifndef RINGLET_GUEST_SYSTEM_H
#define RINGLET_GUEST_SYSTEM_H

#include <asm/ioctls.h>
#include <asm/poll.h>
#include <asm/signal.h>
#include <asm/stat.h>
#include <asm/termios.h>
#include <asm/unistd.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/limits.h>
#include <linux/resource.h>
#include <linux/stat.h>
#include <linux/time.h>
#include <stddef.h>
#include <stdint.h>

static inline long call(long number, long a, long b, long c, long d, long e, long f)
{
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall" : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}
/* CALL(name, arguments...): the result, or a negative error number. */
#define CALL_(number, a, b, c, d, e, f, ...) \
    call(number, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
#define CALL(name, ...) CALL_(__NR_##name, __VA_ARGS__, 0, 0, 0, 0, 0, 0)

#ifndef __NR_close_range /* headers older than Linux 5.9 */
#define __NR_close_range 436
#endif

enum { AT_FDCWD_ = -100, WNOHANG_ = 1 };

void *memcpy(void *restrict to, const void *restrict from, size_t size);
void *memmove(void *to, const void *from, size_t size);
void *memset(void *to, int value, size_t size);
int memcmp(const void *a, const void *b, size_t size);
size_t strlen(const char *text);

int same(const char *a, const char *b);
int starts(const char *text, const char *prefix);

/* Append `text` to `to`, a string of less than `size` bytes; 0 if it does not fit. */
int append(char *to, size_t size, const char *text);
int append_number(char *to, size_t size, uint64_t number);

/* Read a decimal number that is all of `text`; negative if it is none, or more than 32 bits. */
int64_t parse_number(const char *text, size_t length);

/* Memory of whole pages, zero; NULL if there is none. */
void *pages(size_t size);

/* Both go on after interruptions and short transfers.  `read_all` returns less only at the end. */
long read_all(int fd, void *to, size_t size);
long write_all(int fd, const void *from, size_t size);

/* The whole of a small file as a string of less than `size` bytes; its length or an error. */
long read_file(const char *path, char *to, size_t size);

/* A directory's names, one after the other, without "." and "..". */
struct names { int fd; long at, end; char buffer[4096]; };
const char *next_name(struct names *names); /* NULL: the end, or `end` is a negative error */

void sleep_milliseconds(long milliseconds);
void leave(int status) __attribute__((noreturn));

extern char **environment;
const char *from_environment(const char *name);

#endif
