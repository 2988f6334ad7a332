/* A recursive-descent JSON parser that builds values, walks them and frees them. */
#include "section.h"

enum { DOCUMENT = 400000, REPEAT = 40 };

enum kind { NUL, FALSE, TRUE, NUMBER, STRING, ARRAY, OBJECT };

struct value {
    enum kind kind;
    struct value *next, *first; /* siblings; members of an array or object */
    char *name, *text;
    double number;
};

static char document[DOCUMENT];
static const char *cursor;

static struct value *parse_value(void);

static char *generate(char *out, uint64_t *random, int depth)
{
    static const char *const words[] = {"alpha", "be\\\"ta", "gam\\u0041ma", "del\\nta", "eps"};
    uint64_t r = rt_random(random);
    char *end = document + sizeof document - 1;
    switch (depth ? (r >> 8) % 8 : 1) {
    case 0:
    case 1: {
        int count = depth ? (int)(r >> 16) % 6 : 1 << 30;
        *out++ = '[';
        for (int i = 0; i < count && end - out > 4000; i++) {
            if (i)
                *out++ = ',';
            out = generate(out, random, depth < 5 ? depth + 1 : depth);
        }
        *out++ = ']';
        break;
    }
    case 2: {
        int count = (int)(r >> 16) % 5;
        *out++ = '{';
        for (int i = 0; i < count && end - out > 4000; i++) {
            out += fmt_snprintf(out, 40, "%s \"k%u\" : ", i ? "," : "", (unsigned)(r >> 40) + i);
            out = generate(out, random, depth + 1);
        }
        *out++ = '}';
        break;
    }
    case 3:
        out += fmt_snprintf(out, 40, "%.4f", (double)(r >> 40) * 0.01 - 5000.0);
        break;
    case 4:
        out += fmt_snprintf(out, 40, "%ld", (long)(r >> 34) - (1l << 29));
        break;
    case 5:
        out += fmt_snprintf(out, 40, "%s", r & 1 << 20 ? "true" : r & 1 << 21 ? "false" : "null");
        break;
    default:
        out += fmt_snprintf(out, 60, "\"%s-%x\"", words[(r >> 20) % 5], (unsigned)(r >> 32));
    }
    return out;
}

static void fail(void)
{
    rt_printf("parser: bad document at %d\n", (int)(cursor - document));
    rt_exit(3);
}

static void skip_space(void)
{
    while (*cursor == ' ' || *cursor == '\n' || *cursor == '\t')
        cursor++;
}

static void expect(char c)
{
    skip_space();
    if (*cursor++ != c)
        fail();
}

static unsigned hex4(void)
{
    unsigned value = 0;
    for (int i = 0; i < 4; i++) {
        unsigned c = (unsigned char)*cursor++;
        value = value << 4 | (c <= '9' ? c - '0' : (c | 32) - 'a' + 10);
    }
    return value;
}

static char *parse_string(void)
{
    expect('"');
    const char *end = cursor;
    while (*end != '"')
        end += *end == '\\' ? 2 : 1;
    char *text = heap_alloc((size_t)(end - cursor) + 1), *out = text;
    if (!text)
        fail();
    while (cursor < end) {
        char c = *cursor++;
        if (c == '\\') {
            c = *cursor++;
            switch (c) {
            case 'n': c = '\n'; break;
            case 't': c = '\t'; break;
            case 'u': c = (char)hex4(); break;
            default: break;
            }
        }
        *out++ = c;
    }
    *out = 0;
    cursor = end + 1;
    return text;
}

static double parse_number(void)
{
    double value = 0, scale = 1;
    int negative = *cursor == '-';
    for (cursor += negative; *cursor >= '0' && *cursor <= '9'; cursor++)
        value = value * 10 + (*cursor - '0');
    if (*cursor == '.')
        for (cursor++; *cursor >= '0' && *cursor <= '9'; cursor++)
            value += (*cursor - '0') * (scale *= 0.1);
    return negative ? -value : value;
}

static void parse_members(struct value *parent, char close)
{
    struct value **tail = &parent->first;
    cursor++;
    skip_space();
    while (*cursor != close) {
        char *name = NULL;
        if (close == '}') {
            name = parse_string();
            expect(':');
        }
        *tail = parse_value();
        (*tail)->name = name;
        tail = &(*tail)->next;
        skip_space();
        if (*cursor == ',') {
            cursor++;
            skip_space();
        }
    }
    cursor++;
}

static struct value *parse_value(void)
{
    struct value *value = heap_alloc(sizeof *value);
    if (!value)
        fail();
    memset(value, 0, sizeof *value);
    skip_space();
    switch (*cursor) {
    case '[': value->kind = ARRAY; parse_members(value, ']'); break;
    case '{': value->kind = OBJECT; parse_members(value, '}'); break;
    case '"': value->kind = STRING; value->text = parse_string(); break;
    case 't': value->kind = TRUE; cursor += 4; break;
    case 'f': value->kind = FALSE; cursor += 5; break;
    case 'n': value->kind = NUL; cursor += 4; break;
    default: value->kind = NUMBER; value->number = parse_number();
    }
    return value;
}

static uint64_t digest(const struct value *value, uint64_t sum)
{
    for (; value; value = value->next) {
        sum = mix(sum, value->kind);
        if (value->kind == NUMBER)
            sum += (uint64_t)(int64_t)(value->number * 16);
        if (value->kind == STRING)
            sum += strlen(value->text) + (uint8_t)value->text[0];
        sum = digest(value->first, sum);
    }
    return sum;
}

static void discard(struct value *value)
{
    while (value) {
        struct value *next = value->next;
        discard(value->first);
        heap_free(value->name);
        heap_free(value->text);
        heap_free(value);
        value = next;
    }
}

static void prepare(void)
{
    uint64_t random = 9;
    heap_reset();
    *generate(document, &random, 0) = 0;
}

static uint64_t run(void)
{
    uint64_t sum = 0;
    for (int i = 0; i < REPEAT; i++) {
        cursor = document;
        struct value *value = parse_value();
        sum = digest(value, sum);
        discard(value);
    }
    return sum;
}

const struct section section_parser = {"parser", prepare, run};
