/* Output on the 16550 at 3F8h, the checks' lines, and the exit. */
#include "guest.h"
#include <stdarg.h>

enum { COM1 = 0x3F8, LSR = COM1 + 5, LSR_THRE = 0x20, DEBUG_EXIT = 0xF4 };

static u32 checks, failures;

void put_char(char c)
{
    while (!(in8(LSR) & LSR_THRE))
        ;
    out8(COM1, (u8)c);
}

static void put_to(char **out, char c)
{
    if (*out)
        *(*out)++ = c;
    else
        put_char(c);
}

static void put_number(char **out, u64 v, u32 base)
{
    char digits[20];
    int n = 0;
    do {
        digits[n++] = "0123456789abcdef"[v % base];
        v /= base;
    } while (v);
    while (n)
        put_to(out, digits[--n]);
}

static void format_to(char **out, const char *f, va_list args)
{
    for (; *f; f++) {
        if (*f != '%') {
            put_to(out, *f);
            continue;
        }
        int wide = 0;
        if (*++f == 'l') {
            wide = 1;
            f++;
        }
        switch (*f) {
        case 's':
            for (const char *s = va_arg(args, const char *); *s; s++)
                put_to(out, *s);
            break;
        case 'c':
            put_to(out, (char)va_arg(args, int));
            break;
        case 'd': {
            i64 v = wide ? va_arg(args, i64) : va_arg(args, int);
            if (v < 0)
                put_to(out, '-');
            put_number(out, v < 0 ? -(u64)v : (u64)v, 10);
            break;
        }
        case 'u':
            put_number(out, wide ? va_arg(args, u64) : va_arg(args, u32), 10);
            break;
        case 'x':
            put_number(out, wide ? va_arg(args, u64) : va_arg(args, u32), 16);
            break;
        default:
            put_to(out, *f);
        }
    }
}

void print(const char *format, ...)
{
    va_list args;
    char *out = 0;
    va_start(args, format);
    format_to(&out, format, args);
    va_end(args);
}

void format_name(char *out, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    format_to(&out, format, args);
    va_end(args);
    *out = 0;
}

const char *at(const char *name, int cpl)
{
    static char buffer[96];
    format_name(buffer, "%s.cpl%d", name, cpl);
    return buffer;
}

const char *with(const char *name, const char *what)
{
    static char buffer[96];
    format_name(buffer, "%s.%s", name, what);
    return buffer;
}

void check_ok(const char *name)
{
    checks++;
    print("ok %s\n", name);
}

void check_failed(const char *name, const char *format, ...)
{
    va_list args;
    char *out = 0;
    checks++;
    failures++;
    print("FAIL %s ", name);
    va_start(args, format);
    format_to(&out, format, args);
    va_end(args);
    put_char('\n');
}

void check(const char *name, u64 got, u64 want)
{
    if (got == want)
        check_ok(name);
    else
        check_failed(name, "got 0x%lx want 0x%lx", got, want);
}

void skip(const char *name, const char *reason)
{
    print("skip %s: %s\n", name, reason);
}

void guest_exit(u32 code)
{
    asm volatile("outl %0, %1" :: "a"(code), "Nd"((u16)DEBUG_EXIT));
    for (;;)
        asm volatile("cli; hlt");
}

void guest_done(void)
{
    print("done %u checks, %u failed\n", checks, failures);
    guest_exit(failures ? 1 : 0);
}
