/* Formatted printing of integers, strings and doubles. */
#include "section.h"

enum { LINES = 400000 };

static const char *const names[] = {"read", "write", "open", "close", "mmap", "futex", "poll"};

static void prepare(void)
{
}

static uint64_t run(void)
{
    char line[160];
    uint64_t random = 7, sum = 0;
    for (int i = 0; i < LINES; i++) {
        uint64_t r = rt_random(&random);
        int length = fmt_snprintf(line, sizeof line, "%6d %-8s %08x %#" L64 "x %c %+" L64 "d [%*u] %.3f%%", i,
                                  names[r % 7], (unsigned)r, r, 'a' + (int)(r >> 60),
                                  (int64_t)(r >> 20) - ((int64_t)1 << 43), (int)(r >> 61), (unsigned)r & 4095,
                                  (double)(r >> 40) * 0.001);
        sum = mix(sum, (uint64_t)length);
        for (int j = 0; j < length; j += 8)
            sum += (uint64_t)line[j] << (j & 31);
    }
    return sum;
}

const struct section section_snprintf = {"snprintf", prepare, run};
