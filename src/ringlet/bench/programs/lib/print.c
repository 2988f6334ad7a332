/* Formatted printing: %d %i %u %x %X %o %c %s %p %f %%, with flags "-0+ #", width, precision,
 * '*', and the lengths hh h l ll z. */
#include "rt.h"

struct sink {
    char *out;
    size_t size, length;
};

struct spec {
    int left, zero, plus, space, alt, width, precision, length;
};

static void put(struct sink *sink, char c)
{
    if (sink->length + 1 < sink->size)
        sink->out[sink->length] = c;
    sink->length++;
}

static void pad(struct sink *sink, char c, int count)
{
    while (count-- > 0)
        put(sink, c);
}

/* A body with its sign or prefix, in a field. */
static void field(struct sink *sink, const struct spec *spec, const char *prefix, int zeros,
                  const char *body, int body_length)
{
    int prefix_length = (int)strlen(prefix);
    int spaces = spec->width - prefix_length - zeros - body_length;
    if (!spec->left)
        pad(sink, ' ', spaces);
    while (*prefix)
        put(sink, *prefix++);
    pad(sink, '0', zeros);
    for (int i = 0; i < body_length; i++)
        put(sink, body[i]);
    if (spec->left)
        pad(sink, ' ', spaces);
}

static char *digits(char *end, uint64_t value, unsigned base, const char *alphabet)
{
    do {
        *--end = alphabet[value % base];
        value /= base;
    } while (value);
    return end;
}

static const char *sign_of(const struct spec *spec, int negative)
{
    return negative ? "-" : spec->plus ? "+" : spec->space ? " " : "";
}

static void integer(struct sink *sink, const struct spec *spec, const char *prefix,
                    uint64_t value, unsigned base, const char *alphabet)
{
    char buffer[24], *end = buffer + sizeof buffer, *start = end;
    if (value || spec->precision != 0)
        start = digits(end, value, base, alphabet);
    int count = (int)(end - start), zeros = spec->precision - count;
    if (spec->precision < 0 && spec->zero && !spec->left)
        zeros = spec->width - count - (int)strlen(prefix);
    field(sink, spec, prefix, zeros > 0 ? zeros : 0, start, count);
}

/* Fixed point, for values below 2**63 and up to 9 decimals; larger ones print as "big". */
static void fixed(struct sink *sink, const struct spec *spec, double value)
{
    static const uint64_t powers[] = {1, 10, 100, 1000, 10000, 100000, 1000000, 10000000,
                                      100000000, 1000000000};
    int decimals = spec->precision < 0 ? 6 : spec->precision > 9 ? 9 : spec->precision;
    int negative = value < 0;
    double size = negative ? -value : value;
    char buffer[48], *end = buffer + sizeof buffer, *start = end;
    if (!(size < 9.2e18)) {
        field(sink, spec, sign_of(spec, negative), 0, "big", 3);
        return;
    }
    uint64_t whole = (uint64_t)size;
    uint64_t part = (uint64_t)((size - (double)whole) * (double)powers[decimals] + 0.5);
    if (part >= powers[decimals]) {
        part -= powers[decimals];
        whole++;
    }
    if (decimals) {
        start = digits(end, part + powers[decimals], 10, "0123456789");
        *start = '.';
    }
    start = digits(start, whole, 10, "0123456789");
    int zeros = spec->zero && !spec->left ? spec->width - (int)(end - start) - negative : 0;
    field(sink, spec, sign_of(spec, negative), zeros > 0 ? zeros : 0, start, (int)(end - start));
}

static int number(const char **cursor)
{
    int value = 0;
    while (**cursor >= '0' && **cursor <= '9')
        value = value * 10 + *(*cursor)++ - '0';
    return value;
}

static const char *flags(const char *cursor, struct spec *spec)
{
    for (;; cursor++) {
        switch (*cursor) {
        case '-': spec->left = 1; break;
        case '0': spec->zero = 1; break;
        case '+': spec->plus = 1; break;
        case ' ': spec->space = 1; break;
        case '#': spec->alt = 1; break;
        default: return cursor;
        }
    }
}

static int64_t signed_value(va_list *args, int length)
{
    switch (length) {
    case -2: return (signed char)va_arg(*args, int);
    case -1: return (short)va_arg(*args, int);
    case 0: return va_arg(*args, int);
    case 1: return va_arg(*args, long);
    default: return va_arg(*args, long long);
    }
}

static uint64_t unsigned_value(va_list *args, int length)
{
    switch (length) {
    case -2: return (uint8_t)va_arg(*args, unsigned);
    case -1: return (uint16_t)va_arg(*args, unsigned);
    case 0: return va_arg(*args, unsigned);
    case 1: return va_arg(*args, unsigned long);
    default: return va_arg(*args, unsigned long long);
    }
}

int fmt_vsnprintf(char *out, size_t size, const char *format, va_list arguments)
{
    struct sink sink = {out, size, 0};
    va_list args;
    va_copy(args, arguments);
    for (; *format; format++) {
        if (*format != '%') {
            put(&sink, *format);
            continue;
        }
        struct spec spec = {.precision = -1};
        format = flags(format + 1, &spec);
        if (*format == '*') {
            spec.width = va_arg(args, int);
            format++;
        } else {
            spec.width = number(&format);
        }
        if (*format == '.') {
            format++;
            if (*format == '*') {
                spec.precision = va_arg(args, int);
                format++;
            } else {
                spec.precision = number(&format);
            }
        }
        for (; *format == 'l' || *format == 'h' || *format == 'z'; format++)
            spec.length += *format == 'h' ? -1 : 1;
        switch (*format) {
        case 'd':
        case 'i': {
            int64_t value = signed_value(&args, spec.length);
            uint64_t magnitude = value < 0 ? -(uint64_t)value : (uint64_t)value;
            integer(&sink, &spec, sign_of(&spec, value < 0), magnitude, 10, "0123456789");
            break;
        }
        case 'u':
        case 'x':
        case 'X':
        case 'o': {
            uint64_t value = unsigned_value(&args, spec.length);
            unsigned base = *format == 'u' ? 10 : *format == 'o' ? 8 : 16;
            const char *prefix = spec.alt && base == 16 && value ? "0x" : "";
            integer(&sink, &spec, prefix, value, base,
                    *format == 'X' ? "0123456789ABCDEF" : "0123456789abcdef");
            break;
        }
        case 'p':
            integer(&sink, &spec, "0x", (uintptr_t)va_arg(args, void *), 16, "0123456789abcdef");
            break;
        case 'f':
            fixed(&sink, &spec, va_arg(args, double));
            break;
        case 'c': {
            char c = (char)va_arg(args, int);
            field(&sink, &spec, "", 0, &c, 1);
            break;
        }
        case 's': {
            const char *text = va_arg(args, const char *);
            int length = 0;
            while (length != spec.precision && text[length])
                length++;
            field(&sink, &spec, "", 0, text, length);
            break;
        }
        default:
            put(&sink, *format);
            format -= *format == 0;
        }
    }
    va_end(args);
    if (size)
        out[sink.length < size ? sink.length : size - 1] = 0;
    return (int)sink.length;
}

int fmt_snprintf(char *out, size_t size, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int length = fmt_vsnprintf(out, size, format, args);
    va_end(args);
    return length;
}

void rt_printf(const char *format, ...)
{
    char line[256];
    va_list args;
    va_start(args, format);
    int length = fmt_vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (length >= (int)sizeof line)
        length = sizeof line - 1;
    rt_syscall(SYS_WRITE, 1, (long)line, length);
}
