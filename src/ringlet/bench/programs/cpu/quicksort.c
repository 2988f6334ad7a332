/* A generic quicksort: every comparison is an indirect call. */
#include "section.h"

enum { COUNT = 1000000, SMALL = 8 };

typedef int compare_fn(const void *, const void *);

static struct record {
    uint32_t key, payload;
} records[COUNT];

static void swap(char *a, char *b, size_t size)
{
    for (; size >= 8; size -= 8, a += 8, b += 8) {
        uint64_t x, y;
        __builtin_memcpy(&x, a, 8);
        __builtin_memcpy(&y, b, 8);
        __builtin_memcpy(a, &y, 8);
        __builtin_memcpy(b, &x, 8);
    }
    for (; size; size--, a++, b++) {
        char t = *a;
        *a = *b;
        *b = t;
    }
}

static void insertion(char *base, size_t count, size_t size, compare_fn *compare)
{
    for (size_t i = 1; i < count; i++)
        for (char *p = base + i * size; p > base && compare(p - size, p) > 0; p -= size)
            swap(p - size, p, size);
}

/* Noinline, and called through a pointer that the compiler cannot see through. */
__attribute__((noinline)) static void quicksort(void *array, size_t count, size_t size,
                                                compare_fn *compare)
{
    char *base = array;
    while (count > SMALL) {
        char *low = base, *high = base + (count - 1) * size, *middle = base + count / 2 * size;
        if (compare(middle, low) < 0)
            swap(middle, low, size);
        if (compare(high, middle) < 0) {
            swap(high, middle, size);
            if (compare(middle, low) < 0)
                swap(middle, low, size);
        }
        swap(middle, low + size, size);
        char *pivot = low + size, *i = pivot, *j = high;
        for (;;) {
            do
                i += size;
            while (compare(i, pivot) < 0);
            do
                j -= size;
            while (compare(j, pivot) > 0);
            if (i >= j)
                break;
            swap(i, j, size);
        }
        swap(pivot, j, size);
        size_t left = (size_t)(j - base) / size, right = count - left - 1;
        if (left < right) {
            quicksort(base, left, size, compare);
            base = j + size;
            count = right;
        } else {
            quicksort(j + size, right, size, compare);
            count = left;
        }
    }
    insertion(base, count, size, compare);
}

static int by_key(const void *a, const void *b)
{
    uint32_t x = ((const struct record *)a)->key, y = ((const struct record *)b)->key;
    return (x > y) - (x < y);
}

static compare_fn *volatile order = by_key;

static void prepare(void)
{
    uint64_t random = 3;
    for (uint32_t i = 0; i < COUNT; i++)
        records[i] = (struct record){(uint32_t)rt_random(&random), i};
}

static uint64_t run(void)
{
    quicksort(records, COUNT, sizeof *records, order);
    uint64_t sum = 0;
    for (int i = 0; i < COUNT; i += 61)
        sum = mix(sum, records[i].key);
    return sum;
}

const struct section section_qsort = {"qsort", prepare, run};
