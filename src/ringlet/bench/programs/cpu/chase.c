/* Pointer chase: dependent loads around a random ring of 4,096 cache lines (256 KiB). */
#include "section.h"

enum { NODES = 4096, STEPS = 30000000 };

static struct node {
    struct node *next;
    uint64_t index;
    char rest_of_line[48];
} nodes[NODES] __attribute__((aligned(64)));

static void prepare(void)
{
    static uint32_t order[NODES];
    uint64_t random = 1;
    for (uint32_t i = 0; i < NODES; i++)
        order[i] = i;
    for (uint32_t i = NODES - 1; i; i--) {
        uint32_t j = (uint32_t)(rt_random(&random) % (i + 1)), t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
    for (uint32_t i = 0; i < NODES; i++) {
        nodes[order[i]].next = &nodes[order[(i + 1) % NODES]];
        nodes[i].index = i;
    }
}

static uint64_t run(void)
{
    const struct node *node = nodes;
    for (int i = 0; i < STEPS; i++)
        node = node->next;
    return mix(0, node->index);
}

const struct section section_chase = {"chase", prepare, run};
