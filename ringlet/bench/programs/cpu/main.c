/* Runs each section once and prints "section NAME TICKS CHECKSUM". */
#include "section.h"

static const struct section *const sections[] = {
    &section_chase, &section_heapsort, &section_qsort, &section_fib, &section_matmul,
    &section_crc32, &section_snprintf, &section_tree, &section_parser, &section_strings,
};

int program_main(void)
{
    for (size_t i = 0; i < sizeof sections / sizeof *sections; i++) {
        const struct section *section = sections[i];
        section->prepare();
        uint64_t start = rt_tsc();
        uint64_t checksum = section->run();
        uint64_t ticks = rt_tsc() - start;
        rt_printf("section %s %lu %016lx\n", section->name, ticks, checksum);
    }
    return 0;
}
