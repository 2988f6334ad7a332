/* The measurements of the nano program that need ring 0. */
#include "kernel.h"

#include "../nano/nano.h"

enum { UART_SCRATCH = 0x3ff, APIC_TPR = 0x80 / 4 };
#define IO_APIC 0xfec00000ul
enum { ENOSYS = 38 };

static u64 spaces[3];
static u64 *pte_entry;

/* Everything is mapped at the start, so that later only the measured pages change. */
void nano_init(void)
{
    u64 frame = FRAMES, space = kernel_space();
    for (int i = 0; i < FAULT_PAGES; i++, frame += PAGE)
        map_page(space, FAULT_AREA + (u64)i * PAGE, frame, PTE_W | PTE_U | PTE_NX);
    fault_entries = (u64)entry_of(space, FAULT_AREA);
    fault_start = FAULT_AREA;
    fault_bytes = FAULT_PAGES * PAGE;

    apic_init(space, APIC_AREA);
    map_page(space, DEVICE_AREA, IO_APIC, PTE_P | PTE_W | PTE_PCD | PTE_NX);

    pte_entry = entry_of(space, PTE_AREA);
    for (u64 i = 0; i < 2; i++)
        *(u64 *)at_physical(frame + i * PAGE) = i;
    /* Accessed from the start, as Linux makes its entries. */
    *pte_entry = frame | PTE_P | PTE_A | PTE_W | PTE_U | PTE_NX;
    frame += 2 * PAGE;
    map_page(space, CODE_AREA, frame, PTE_P | PTE_W | PTE_U);
    frame += PAGE;
    map_page(space, COUNT_AREA, (u64)&timer_count / PAGE * PAGE - KERNEL_BASE,
             PTE_P | PTE_U | PTE_NX);

    spaces[0] = space;
    for (u64 i = 1; i <= 2; i++) {
        spaces[i] = new_space();
        for (int page = 0; page < SPACE_PAGES; page++, frame += PAGE) {
            *(u64 *)at_physical(frame) = i;
            map_page(spaces[i], SPACE_AREA + (u64)page * PAGE, frame,
                     PTE_P | PTE_W | PTE_U | PTE_NX);
        }
    }
}

static u64 measure_in(long count)
{
    u64 start = read_tsc();
    while (count--)
        inb(UART_SCRATCH);
    return read_tsc() - start;
}

static u64 measure_out(long count)
{
    u64 start = read_tsc();
    while (count--)
        outb(UART_SCRATCH, (uint8_t)count);
    return read_tsc() - start;
}

static u64 measure_cr8(long count)
{
    u64 start = read_tsc();
    while (count--)
        __asm__ volatile("mov %0, %%cr8" : : "r"((u64)count & 1));
    u64 ticks = read_tsc() - start;
    __asm__ volatile("mov %0, %%cr8" : : "r"(0ull));
    return ticks;
}

/* Reads or writes a register of the local APIC in its page. */
static long measure_apic(long count, int writes)
{
    volatile uint32_t *page = apic_in_memory(1);
    u64 start = read_tsc();
    if (writes)
        while (count--)
            page[APIC_TPR] = 0;
    else
        while (count--)
            (void)page[APIC_TPR];
    u64 ticks = read_tsc() - start;
    apic_in_memory(0);
    return (long)ticks;
}

/* -1 if the I/O APIC's index register does not hold what was written. */
static long measure_device(long count, int writes)
{
    volatile uint32_t *select = (volatile uint32_t *)DEVICE_AREA;
    uint32_t wrong = 0;
    *select = 1;
    u64 start = read_tsc();
    if (writes)
        while (count--)
            *select = 1;
    else
        while (count--)
            wrong |= *select ^ 1;
    u64 ticks = read_tsc() - start;
    return wrong | (*select ^ 1) ? -1 : (long)ticks;
}

/* -1 if a read went through a stale translation. */
static long measure_pte(long count)
{
    volatile u64 *page = (volatile u64 *)PTE_AREA;
    u64 entry = *pte_entry, other = entry + PAGE, wrong = 0, start = read_tsc();
    for (long i = 1; i <= count; i++) {
        *(volatile u64 *)pte_entry = i & 1 ? other : entry;
        __asm__ volatile("invlpg (%0)" : : "r"(page) : "memory");
        wrong |= *page ^ (u64)(i & 1);
    }
    u64 ticks = read_tsc() - start;
    *(volatile u64 *)pte_entry = entry;
    __asm__ volatile("invlpg (%0)" : : "r"(page) : "memory");
    return wrong ? -1 : (long)ticks;
}

static void reset_faults(void)
{
    u64 *entries = (u64 *)fault_entries;
    for (int i = 0; i < FAULT_PAGES; i++)
        entries[i] &= ~(u64)PTE_P;
    load_cr3(spaces[0]);
}

long nano_syscall(long number, long a)
{
    switch (number) {
    case NANO_IN: return (long)measure_in(a);
    case NANO_OUT: return (long)measure_out(a);
    case NANO_CR8: return (long)measure_cr8(a);
    case NANO_APIC_READ: return measure_apic(a, 0);
    case NANO_APIC_WRITE: return measure_apic(a, 1);
    case NANO_DEVICE_READ: return measure_device(a, 0);
    case NANO_DEVICE_WRITE: return measure_device(a, 1);
    case NANO_PTE: return measure_pte(a);
    case NANO_SPACE: load_cr3(spaces[a]); return 0;
    case NANO_FAULT_RESET: reset_faults(); return 0;
    case NANO_DIVIDE: divide_skip = (uint32_t)a; return 0;
    case NANO_TIMER: apic_timer((u64)a); return (long)(COUNT_AREA + (u64)&timer_count % PAGE);
    default: return -ENOSYS;
    }
}
