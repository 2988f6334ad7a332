/* Page tables: the ring-3 program in 4-KiB pages, the kernel's half in 2-MiB pages. */
#include "kernel.h"

enum { POOL = 256 };

static u64 pool[POOL][512] __attribute__((aligned(4096)));
static unsigned pool_used;
static u64 window; /* where guest physical 0 is: 0, then KERNEL_BASE */
static u64 space;

extern char user_start[], user_data[], user_end[];

void *at_physical(u64 physical)
{
    return (void *)(physical + window);
}

static u64 physical_of(const void *pointer)
{
    return (u64)pointer - window;
}

static u64 new_table(void)
{
    return physical_of(pool[pool_used++]);
}

/* Returns the table below `entry`, and makes it if it is absent. */
static u64 *below(u64 *entry)
{
    if (!(*entry & PTE_P))
        *entry = new_table() | PTE_P | PTE_W | PTE_U;
    return at_physical(*entry & 0xffffffffff000);
}

u64 *entry_of(u64 root, u64 linear)
{
    u64 *table = at_physical(root);
    for (int shift = 39; shift > 12; shift -= 9)
        table = below(&table[linear >> shift & 511]);
    return &table[linear >> 12 & 511];
}

void map_page(u64 root, u64 linear, u64 physical, u64 flags)
{
    *entry_of(root, linear) = physical | flags;
}

static u64 *directory_of(u64 root, u64 linear)
{
    u64 *upper = at_physical(root);
    return below(&below(&upper[linear >> 39 & 511])[linear >> 30 & 511]);
}

u64 kernel_tables(void)
{
    space = new_table();
    u64 *high = directory_of(space, KERNEL_BASE);
    for (u64 physical = 0; physical < RAM_MAPPED; physical += 0x200000)
        high[physical >> 21] = physical | PTE_P | PTE_W | PTE_PS;
    u64 *low = directory_of(space, 0);
    low[0] = 0 | PTE_P | PTE_W | PTE_PS;
    low[1] = 0x200000 | PTE_P | PTE_W | PTE_PS;

    u64 data = physical_of(user_data), end = physical_of(user_end);
    for (u64 page = physical_of(user_start); page < end; page += 4096)
        map_page(space, page, page,
                 page < data ? PTE_P | PTE_U : PTE_P | PTE_U | PTE_W | PTE_NX);
    return space;
}

void tables_moved(void)
{
    window = KERNEL_BASE;
    u64 *low = directory_of(space, 0);
    low[0] = low[1] = 0;
    load_cr3(space);
}

u64 kernel_space(void)
{
    return space;
}

u64 new_space(void)
{
    u64 root = new_table(), upper = new_table();
    u64 *from = at_physical(space), *to = at_physical(root);
    to[511] = from[511];
    to[0] = upper | PTE_P | PTE_W | PTE_U;
    from = at_physical(from[0] & 0xffffffffff000);
    to = at_physical(upper);
    to[0] = from[0];
    to[1] = from[1];
    return root;
}
