/* The speed benchmark: all sections. */
#include "section.h"

static const struct section *const sections[] = {
    &section_chase, &section_heapsort, &section_qsort, &section_fib, &section_matmul,
    &section_crc32, &section_snprintf, &section_tree, &section_parser, &section_strings,
};

int program_main(void)
{
    measure_sections(sections, sizeof sections / sizeof *sections);
    return 0;
}
