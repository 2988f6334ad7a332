/* Merge sort of strings by strcmp. */
#include "section.h"

enum { COUNT = 300000, LENGTH = 24 };

static char text[COUNT][LENGTH];
static const char *lines[COUNT], *spare[COUNT];

static void prepare(void)
{
    uint64_t random = 10;
    for (int i = 0; i < COUNT; i++) {
        uint64_t r = rt_random(&random);
        fmt_snprintf(text[i], LENGTH, "/usr/%c/%x", 'a' + (int)(r & 3), (unsigned)(r >> 32));
        lines[i] = text[i];
    }
    memset(spare, 0, sizeof spare);
}

static void sort(const char **from, const char **other, size_t count)
{
    if (count < 2)
        return;
    size_t half = count / 2;
    sort(from, other, half);
    sort(from + half, other + half, count - half);
    memcpy(other, from, half * sizeof *from);
    size_t left = 0, right = half, out = 0;
    while (left < half && right < count) {
        if (strcmp(other[left], from[right]) <= 0)
            from[out++] = other[left++];
        else
            from[out++] = from[right++];
    }
    while (left < half)
        from[out++] = other[left++];
}

static uint64_t run(void)
{
    sort(lines, spare, COUNT);
    uint64_t sum = 0;
    for (int i = 0; i < COUNT; i += 17)
        for (const char *c = lines[i]; *c; c++)
            sum = mix(sum, (uint8_t)*c);
    return sum;
}

const struct section section_strings = {"strings", prepare, run};
