/* CRC-32 (polynomial EDB88320h, reflected), one table look-up a byte. */
#include "section.h"

enum { BYTES = 1 << 20, REPEAT = 48 };

static uint32_t table[256];
static uint8_t data[BYTES];

static void prepare(void)
{
    uint64_t random = 6;
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t value = i;
        for (int bit = 0; bit < 8; bit++)
            value = value >> 1 ^ (value & 1 ? 0xedb88320u : 0);
        table[i] = value;
    }
    for (int i = 0; i < BYTES; i++)
        data[i] = (uint8_t)rt_random(&random);
}

static uint64_t run(void)
{
    uint32_t crc = ~0u;
    for (int repeat = 0; repeat < REPEAT; repeat++)
        for (int i = 0; i < BYTES; i++)
            crc = crc >> 8 ^ table[(uint8_t)crc ^ data[i]];
    return ~crc;
}

const struct section section_crc32 = {"crc32", prepare, run};
