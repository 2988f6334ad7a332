/* Product of matrices of doubles. */
#include "section.h"

enum { SIZE = 256, REPEAT = 20 };

static double a[SIZE][SIZE], b[SIZE][SIZE], c[SIZE][SIZE];

static void prepare(void)
{
    uint64_t random = 5;
    for (int i = 0; i < SIZE; i++)
        for (int j = 0; j < SIZE; j++) {
            a[i][j] = (double)(rt_random(&random) >> 12) * 0x1p-52;
            b[i][j] = (double)(rt_random(&random) >> 12) * 0x1p-52 - 0.5;
            c[i][j] = 0;
        }
}

static uint64_t run(void)
{
    for (int repeat = 0; repeat < REPEAT; repeat++)
        for (int i = 0; i < SIZE; i++)
            for (int k = 0; k < SIZE; k++) {
                double factor = a[i][k];
                for (int j = 0; j < SIZE; j++)
                    c[i][j] += factor * b[k][j];
            }
    uint64_t sum = 0;
    for (int i = 0; i < SIZE; i++) {
        uint64_t bits;
        __builtin_memcpy(&bits, &c[i][255 - i], 8);
        sum = mix(sum, bits);
    }
    return sum;
}

const struct section section_matmul = {"matmul", prepare, run};
