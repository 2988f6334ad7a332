/* A section of the speed benchmark: `prepare` makes its data, untimed; `run` is timed. */
#ifndef RINGLET_SECTION_H
#define RINGLET_SECTION_H

#include "rt.h"

struct section {
    const char *name;
    void (*prepare)(void);
    uint64_t (*run)(void); /* returns a checksum that depends on no address */
};

extern const struct section section_chase, section_heapsort, section_qsort, section_fib,
    section_matmul, section_crc32, section_snprintf, section_tree, section_parser,
    section_strings;

/* measure.c */
void measure_sections(const struct section *const *sections, size_t count);

/* One step of a checksum. */
static inline uint64_t mix(uint64_t sum, uint64_t value)
{
    sum = (sum ^ value) * 0x9e3779b97f4a7c15u;
    return sum ^ sum >> 29;
}

#endif
