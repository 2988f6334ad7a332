/* What system.h declares. */
#include "system.h"

#include <linux/mman.h>

#ifndef RINGLET_HOSTED /* the build with sanitizers has a C library */
void *memcpy(void *restrict to, const void *restrict from, size_t size)
{
    void *result = to;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
    return result;
}

void *memmove(void *to, const void *from, size_t size)
{
    uint8_t *last;
    const uint8_t *last_from;

    if ((uintptr_t)to - (uintptr_t)from >= size)
        return memcpy(to, from, size);
    last = (uint8_t *)to + size - 1;
    last_from = (const uint8_t *)from + size - 1;
    __asm__ volatile("std; rep movsb; cld" : "+D"(last), "+S"(last_from), "+c"(size) : : "memory");
    return to;
}

void *memset(void *to, int value, size_t size)
{
    void *result = to;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(size) : "a"(value) : "memory");
    return result;
}

int memcmp(const void *a, const void *b, size_t size)
{
    const uint8_t *left = a, *right = b;
    size_t i;

    for (i = 0; i < size; i++)
        if (left[i] != right[i])
            return left[i] - right[i];
    return 0;
}

size_t strlen(const char *text)
{
    size_t length = 0;

    while (text[length])
        length++;
    return length;
}
#endif

int same(const char *a, const char *b)
{
    return strlen(a) == strlen(b) && !memcmp(a, b, strlen(a));
}

int starts(const char *text, const char *prefix)
{
    size_t length = strlen(prefix);

    return strlen(text) >= length && !memcmp(text, prefix, length);
}

int append(char *to, size_t size, const char *text)
{
    size_t length = strlen(to), more = strlen(text);

    if (length + more >= size)
        return 0;
    memcpy(to + length, text, more + 1);
    return 1;
}

int append_number(char *to, size_t size, uint64_t number)
{
    char digits[21];
    int at = 20;

    digits[at] = 0;
    do
        digits[--at] = (char)('0' + number % 10);
    while (number /= 10);
    return append(to, size, digits + at);
}

int64_t parse_number(const char *text, size_t length)
{
    int64_t number = 0;
    size_t i;

    if (!length || length > 10)
        return -1;
    for (i = 0; i < length; i++) {
        if (text[i] < '0' || text[i] > '9')
            return -1;
        number = number * 10 + (text[i] - '0');
    }
    return number > UINT32_MAX ? -1 : number;
}

void *pages(size_t size)
{
    long at = CALL(mmap, 0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return at < 0 && at > -4096 ? NULL : (void *)at;
}

long read_all(int fd, void *to, size_t size)
{
    size_t done = 0;
    long got;

    while (done < size) {
        got = CALL(read, fd, (char *)to + done, size - done);
        if (got == -EINTR)
            continue;
        if (got < 0)
            return got;
        if (!got)
            break;
        done += (size_t)got;
    }
    return (long)done;
}

long write_all(int fd, const void *from, size_t size)
{
    size_t done = 0;
    long put;

    while (done < size) {
        put = CALL(write, fd, (const char *)from + done, size - done);
        if (put == -EINTR)
            continue;
        if (put < 0)
            return put;
        done += (size_t)put;
    }
    return (long)done;
}

long read_file(const char *path, char *to, size_t size)
{
    long got, fd = CALL(open, path, O_RDONLY | O_CLOEXEC, 0);

    to[0] = 0;
    if (fd < 0)
        return fd;
    got = read_all((int)fd, to, size - 1);
    CALL(close, fd);
    to[got < 0 ? 0 : got] = 0;
    return got;
}

const char *next_name(struct names *names)
{
    struct { uint64_t inode, offset; uint16_t size; uint8_t type; } __attribute__((packed)) head;
    const char *name;

    for (;;) {
        if (names->at >= names->end) {
            names->end = CALL(getdents64, names->fd, names->buffer, sizeof names->buffer);
            names->at = 0;
            if (names->end <= 0)
                return NULL;
        }
        memcpy(&head, names->buffer + names->at, sizeof head);
        name = names->buffer + names->at + sizeof head;
        names->at += head.size;
        if (!same(name, ".") && !same(name, ".."))
            return name;
    }
}

void sleep_milliseconds(long milliseconds)
{
    struct __kernel_timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000};

    CALL(nanosleep, &time, 0);
}

void leave(int status)
{
    for (;;)
        CALL(exit_group, status);
}

char **environment;

const char *from_environment(const char *name)
{
    size_t length = strlen(name);
    char **at;

    for (at = environment; *at; at++)
        if (starts(*at, name) && (*at)[length] == '=')
            return *at + length + 1;
    return NULL;
}
