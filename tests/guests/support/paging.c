/* Page tables: an own identity map of the first 4 GiB in 2-MiB pages, of which ring 3 may reach
   only the two at 8 MiB (snippets, user stack), and helpers to map anything else anywhere. */
#include "guest.h"

enum { POOL_PAGES = 512 };
static u8 pool[POOL_PAGES][4096] ALIGNED(4096);
static u32 pool_used;
u64 boot_root;

void paging_start(void);

u64 new_table(void)
{
    if (pool_used == POOL_PAGES) {
        print("FATAL out of page-table pages\n");
        guest_exit(1);
    }
    memset(pool[pool_used], 0, 4096);
    return (u64)pool[pool_used++];
}

u64 new_root(void)
{
    u64 root = new_table();
    memcpy((void *)root, (void *)boot_root, 4096);
    return root;
}

u64 current_root(void)
{
    return read_cr3() & P_ADDR;
}

u64 *entry_at(u64 root, u64 linear, int level)
{
    u64 *table = (u64 *)root;
    for (int l = 4;; l--) {
        u64 *entry = &table[linear >> (12 + 9 * (l - 1)) & 511];
        if (l == level)
            return entry;
        if (!(*entry & P_P))
            *entry = new_table() | P_P | P_W | P_U;
        if (*entry & P_PS) {
            print("FATAL 0x%lx is in a large page\n", linear);
            guest_exit(1);
        }
        table = (u64 *)(*entry & P_ADDR);
    }
}

void map(u64 root, u64 linear, u64 physical, int level, u64 bits)
{
    *entry_at(root, linear, level) = physical | bits | (level > L_4K ? P_PS : 0);
    invlpg(linear);
}

void map4k(u64 linear, u64 physical, u64 bits)
{
    map(current_root(), linear, physical, L_4K, bits);
}

void paging_start(void)
{
    boot_root = new_table();
    for (u64 a = 0; a < 1ul << 32; a += 1ul << 21) {
        u64 user = a == 0x800000 || a == 0xA00000 ? P_U : 0;
        *entry_at(boot_root, a, L_2M) = a | P_P | P_W | P_PS | user;
    }
    write_cr3(boot_root);
}
