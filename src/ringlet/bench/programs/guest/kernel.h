/* Declarations shared by the bare guest's kernel: ring 0, no vector registers, RIP-relative. */
#ifndef RINGLET_KERNEL_H
#define RINGLET_KERNEL_H

#include <stdint.h>

#include "../bare/ports.h"
#include "layout.h"

typedef uint64_t u64;

enum {
    PTE_P = 1,
    PTE_W = 2,
    PTE_U = 4,
    PTE_PCD = 0x10,
    PTE_A = 0x20,
    PTE_PS = 0x80,
};
#define PTE_NX (1ull << 63)

static inline u64 read_tsc(void)
{
    uint32_t low, high;
    __asm__ volatile("lfence; rdtsc" : "=a"(low), "=d"(high) : : "memory");
    return (u64)high << 32 | low;
}

static inline void write_msr(uint32_t index, u64 value)
{
    __asm__ volatile("wrmsr" : : "c"(index), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)));
}

static inline void load_cr3(u64 value)
{
    __asm__ volatile("mov %0, %%cr3" : : "r"(value) : "memory");
}

/* tables.c: `kernel_tables` runs before the kernel has moved to KERNEL_BASE. */
u64 kernel_tables(void);
void tables_moved(void);            /* the kernel runs at KERNEL_BASE: drop the identity pages */
u64 kernel_space(void);             /* the first address space's PML4, guest physical */
u64 new_space(void);                /* another PML4, sharing the program's and kernel's pages */
void map_page(u64 space, u64 linear, u64 physical, u64 flags);
u64 *entry_of(u64 space, u64 linear); /* the PTE, as the kernel reaches it */
void *at_physical(u64 physical);

/* nano_kernel.c */
void nano_init(void);
long nano_syscall(long number, long a);

/* apic.c */
extern volatile uint32_t *apic_page;
void apic_init(u64 space, u64 linear);
void apic_timer(u64 ticks);
/* Put the registers in memory, or back to where they were; return their page. */
volatile uint32_t *apic_in_memory(int wanted);

/* start.S */
extern u64 timer_count, fault_start, fault_bytes, fault_entries;
extern uint32_t divide_skip;

#endif
