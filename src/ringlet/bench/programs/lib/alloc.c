/* A heap over a fixed arena: boundary tags, free lists by size class, immediate coalescing.
 *
 * A block is a header word, its payload, and, while it is free, a footer word with its size.
 * Header: size in bytes (a multiple of 16, header included) | USED | PREVIOUS_USED. */
#include "rt.h"

enum { ARENA_BYTES = 24 << 20, CLASSES = 40, MINIMUM = 32 };
enum { USED = 1, PREVIOUS_USED = 2, FLAGS = 15 };

struct block {
    uint64_t header;
    struct block *next, *previous; /* only while free */
};

static union {
    uint64_t words[ARENA_BYTES / 8];
    struct block first;
} arena __attribute__((aligned(4096)));

static struct block *bins[CLASSES];
static uint64_t occupied_bins;

static uint64_t size_of(const struct block *block)
{
    return block->header & ~(uint64_t)FLAGS;
}

static struct block *at(struct block *block, uint64_t bytes)
{
    return (struct block *)((char *)block + bytes);
}

/* Exact classes up to 256 bytes, then one a power of two. */
static unsigned class_of(uint64_t size)
{
    if (size <= 256)
        return (unsigned)(size / 16) - 1;
    unsigned class = 16 + (63 - (unsigned)__builtin_clzll(size)) - 8;
    return class < CLASSES ? class : CLASSES - 1;
}

static void link_free(struct block *block, uint64_t size)
{
    unsigned class = class_of(size);
    ((uint64_t *)at(block, size))[-1] = size;
    block->previous = NULL;
    block->next = bins[class];
    if (block->next)
        block->next->previous = block;
    bins[class] = block;
    occupied_bins |= 1ull << class;
}

static void unlink_free(struct block *block)
{
    unsigned class = class_of(size_of(block));
    if (block->next)
        block->next->previous = block->previous;
    if (block->previous)
        block->previous->next = block->next;
    else if (!(bins[class] = block->next))
        occupied_bins &= ~(1ull << class);
}

void heap_reset(void)
{
    memset(bins, 0, sizeof bins);
    memset(&arena, 0, sizeof arena); /* touched here, so that no section pays for its pages */
    occupied_bins = 0;
    uint64_t size = ARENA_BYTES - 16;
    /* The first payload is 16-byte aligned; the last word is a used block of no size. */
    struct block *first = at(&arena.first, 8);
    first->header = size | PREVIOUS_USED;
    arena.words[ARENA_BYTES / 8 - 1] = USED;
    link_free(first, size);
}

static struct block *find(uint64_t size)
{
    for (uint64_t rest = occupied_bins >> class_of(size) << class_of(size); rest;
         rest &= rest - 1) {
        struct block *block = bins[__builtin_ctzll(rest)];
        while (block && size_of(block) < size)
            block = block->next;
        if (block)
            return block;
    }
    return NULL;
}

/* Returns NULL when the arena is full. */
void *heap_alloc(size_t bytes)
{
    uint64_t size = (bytes + 8 + 15) & ~15ull;
    if (size < MINIMUM)
        size = MINIMUM;
    struct block *block = find(size);
    if (!block)
        return NULL;
    unlink_free(block);
    uint64_t rest = size_of(block) - size;
    if (rest >= MINIMUM) {
        struct block *tail = at(block, size);
        block->header = size | USED | (block->header & PREVIOUS_USED);
        tail->header = rest | PREVIOUS_USED;
        link_free(tail, rest);
    } else {
        block->header |= USED;
        at(block, size_of(block))->header |= PREVIOUS_USED;
    }
    return (char *)block + 8;
}

void heap_free(void *payload)
{
    if (!payload)
        return;
    struct block *block = (struct block *)((char *)payload - 8);
    uint64_t size = size_of(block);
    struct block *next = at(block, size);
    if (!(next->header & USED)) {
        unlink_free(next);
        size += size_of(next);
    }
    if (!(block->header & PREVIOUS_USED)) {
        uint64_t before = ((uint64_t *)block)[-1];
        block = (struct block *)((char *)block - before);
        unlink_free(block);
        size += before;
    }
    block->header = size | (block->header & PREVIOUS_USED);
    at(block, size)->header &= ~(uint64_t)PREVIOUS_USED;
    link_free(block, size);
}
