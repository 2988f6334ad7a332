/* The kernel of the 32-bit guest: descriptors, two-level page tables, system calls. */
#include <stdint.h>

#include "../bare/ports.h"
#include "../lib/system.h"
#include "kernel.h"

enum { PTE_P = 1, PTE_W = 2, PTE_U = 4, PTE_PS = 0x80 };
enum { PAGE = 4096, PROGRAM_TABLES = 16 };
enum { GATE_KERNEL = 0x8e00, GATE_USER = 0xee00 };
enum { CR0_MP = 2, CR0_NE = 0x20, CR0_WP = 0x10000, CR0_EM_TS = 0xc };
#define CR0_PG 0x80000000
enum { CR4_PSE = 0x10 };
enum { PIC = 0x21, PIC2 = 0xa1 }; /* the masks of the two 8259s */

struct table_register {
    uint16_t limit;
    uint32_t base;
} __attribute__((packed));

static uint64_t gdt[8], idt[256];
static uint32_t tss[26];
static uint32_t directory[1024] __attribute__((aligned(PAGE)));
static uint32_t tables[PROGRAM_TABLES][1024] __attribute__((aligned(PAGE)));

extern char kernel_stack_top[], int80_entry[], exception_stubs[];
extern char user_start[], user_data[], user_end[];
long real_mode(long section);
void load_descriptors(const struct table_register *gdtr, const struct table_register *idtr);

_Noreturn void kernel_panic(const uint32_t *frame)
{
    panic(frame[0], frame[1], frame[2]);
}

long kernel_syscall(long number, long a, long b, long c)
{
    switch (number) {
    case SYS_WRITE:
        serial_write((const char *)b, c);
        return c;
    case SYS_EXIT:
        stop((uint8_t)a);
    case SYS_REAL:
        return real_mode(a);
    default:
        return -38; /* ENOSYS */
    }
}

static void set_gate(unsigned vector, const char *entry, unsigned attributes)
{
    uint32_t offset = (uint32_t)entry;
    idt[vector] = (uint64_t)((offset & 0xffff0000) | attributes) << 32 | KERNEL_CODE << 16 |
                  (offset & 0xffff);
}

static void init_descriptors(void)
{
    uint64_t task = (uint32_t)tss;
    tss[1] = (uint32_t)kernel_stack_top; /* ESP0 */
    tss[2] = KERNEL_DATA;
    tss[25] = sizeof tss << 16; /* no I/O permission bitmap */
    gdt[KERNEL_CODE >> 3] = 0x00cf9b000000ffff;
    gdt[KERNEL_DATA >> 3] = 0x00cf93000000ffff;
    gdt[USER_CODE >> 3] = 0x00cffb000000ffff;
    gdt[USER_DATA >> 3] = 0x00cff3000000ffff;
    gdt[REAL_CODE >> 3] = 0x00009b010000ffff;
    gdt[REAL_DATA >> 3] = 0x000093000000ffff;
    gdt[TASK >> 3] = (sizeof tss - 1) | (task & 0xffffff) << 16 | 0x89ull << 40 |
                     (task >> 24 & 0xff) << 56;
    for (unsigned vector = 0; vector < 32; vector++)
        set_gate(vector, exception_stubs + 16 * vector, GATE_KERNEL);
    set_gate(0x80, int80_entry, GATE_USER);
    struct table_register gdtr = {sizeof gdt - 1, (uint32_t)gdt};
    struct table_register idtr = {sizeof idt - 1, (uint32_t)idt};
    load_descriptors(&gdtr, &idtr);
}

/* The kernel is in one page of 4 MiB, the ring-3 program in pages of 4 KiB above that. */
static void init_paging(void)
{
    directory[0] = PTE_P | PTE_W | PTE_PS;
    for (unsigned i = 1; i < PROGRAM_TABLES; i++)
        directory[i] = (uint32_t)tables[i] | PTE_P | PTE_W | PTE_U;
    uint32_t data = (uint32_t)user_data, end = (uint32_t)user_end;
    for (uint32_t page = (uint32_t)user_start; page < end; page += PAGE)
        tables[page >> 22][page >> 12 & 1023] = page | PTE_P | PTE_U | (page < data ? 0 : PTE_W);
    uint32_t cr0, cr4;
    __asm__ volatile("mov %%cr4, %0" : "=r"(cr4));
    __asm__ volatile("mov %0, %%cr4" : : "r"(cr4 | CR4_PSE));
    __asm__ volatile("mov %0, %%cr3" : : "r"(directory) : "memory");
    __asm__ volatile("mov %%cr0, %0" : "=r"(cr0));
    cr0 = (cr0 & ~CR0_EM_TS) | CR0_PG | CR0_WP | CR0_NE | CR0_MP;
    __asm__ volatile("mov %0, %%cr0" : : "r"(cr0) : "memory");
}

void kernel_init(void)
{
    init_descriptors();
    init_paging();
    outb(PIC, 0xff); /* no interrupts at all */
    outb(PIC2, 0xff);
    __asm__ volatile("fninit");
}
