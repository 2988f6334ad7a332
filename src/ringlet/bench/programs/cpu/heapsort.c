/* Heapsort of 32-bit integers: unpredictable branches, strided loads and stores. */
#include "section.h"

enum { COUNT = 1000000 };

static uint32_t values[COUNT];

static void prepare(void)
{
    uint64_t random = 2;
    for (int i = 0; i < COUNT; i++)
        values[i] = (uint32_t)rt_random(&random);
}

static void sift(uint32_t *heap, int root, int count)
{
    uint32_t value = heap[root];
    for (int child; (child = 2 * root + 1) < count; root = child) {
        if (child + 1 < count && heap[child] < heap[child + 1])
            child++;
        if (heap[child] <= value)
            break;
        heap[root] = heap[child];
    }
    heap[root] = value;
}

static uint64_t run(void)
{
    for (int i = COUNT / 2; i-- > 0;)
        sift(values, i, COUNT);
    for (int last = COUNT - 1; last > 0; last--) {
        uint32_t top = values[0];
        values[0] = values[last];
        values[last] = top;
        sift(values, 0, last);
    }
    uint64_t sum = 0;
    for (int i = 0; i < COUNT; i += 97)
        sum = mix(sum, values[i]);
    return sum;
}

const struct section section_heapsort = {"heapsort", prepare, run};
