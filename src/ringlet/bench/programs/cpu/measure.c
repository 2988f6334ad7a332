/* Runs each of the given sections once and prints "section NAME TICKS CHECKSUM". */
#include "section.h"

void measure_sections(const struct section *const *sections, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const struct section *section = sections[i];
        section->prepare();
        uint64_t start = rt_tsc();
        uint64_t checksum = section->run();
        uint64_t ticks = rt_tsc() - start;
        rt_printf("section %s %" L64 "u %016" L64 "x\n", section->name, ticks, checksum);
    }
}
