/* The kernel of the bare guest: descriptors, vectors, system calls. */
#include "../lib/system.h"
#include "kernel.h"

enum { MSR_STAR = 0xc0000081, MSR_LSTAR = 0xc0000082, MSR_SFMASK = 0xc0000084 };
enum { GATE_KERNEL = 0x8e, GATE_USER = 0xee };

struct gate {
    uint16_t offset_low, selector;
    uint8_t stack, attributes;
    uint16_t offset_middle;
    uint32_t offset_high, zero;
};

struct table_register {
    uint16_t limit;
    u64 base;
} __attribute__((packed));

static u64 gdt[9];
static struct gate idt[256];
static uint32_t tss[26];

extern char kernel_stack_top[], syscall_entry[], int80_entry[], timer_entry[], divide_entry[],
    page_fault_entry[], exception_stubs[];
void load_segments(const struct table_register *gdtr);

_Noreturn void kernel_panic(const u64 *frame)
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
    default:
        return nano_syscall(number, a);
    }
}

static void set_gate(unsigned vector, const char *entry, uint8_t attributes)
{
    u64 offset = (u64)entry;
    idt[vector] = (struct gate){
        .offset_low = (uint16_t)offset,
        .selector = KERNEL_CODE,
        .attributes = attributes,
        .offset_middle = (uint16_t)(offset >> 16),
        .offset_high = (uint32_t)(offset >> 32),
    };
}

static void init_descriptors(void)
{
    u64 task = (u64)tss, stack = (u64)kernel_stack_top;
    tss[1] = (uint32_t)stack; /* RSP0 */
    tss[2] = (uint32_t)(stack >> 32);
    tss[25] = sizeof tss << 16; /* no I/O permission bitmap */
    gdt[KERNEL_CODE >> 3] = 0x00af9b000000ffff;
    gdt[KERNEL_DATA >> 3] = 0x00cf93000000ffff;
    gdt[USER_DATA >> 3] = 0x00cff3000000ffff;
    gdt[USER_CODE >> 3] = 0x00affb000000ffff;
    gdt[TASK >> 3] = (sizeof tss - 1) | (task & 0xffffff) << 16 | 0x89ull << 40 |
                     (task >> 24 & 0xff) << 56;
    gdt[(TASK >> 3) + 1] = task >> 32;
    struct table_register gdtr = {sizeof gdt - 1, (u64)gdt};
    load_segments(&gdtr);

    for (unsigned vector = 0; vector < 48; vector++)
        set_gate(vector, exception_stubs + 16 * vector, GATE_KERNEL);
    set_gate(0, divide_entry, GATE_KERNEL);
    set_gate(14, page_fault_entry, GATE_KERNEL);
    set_gate(TIMER_VECTOR, timer_entry, GATE_KERNEL);
    set_gate(TIMER_VECTOR + 7, int80_entry, GATE_KERNEL); /* spurious: nothing to do */
    set_gate(0x80, int80_entry, GATE_USER);
    struct table_register idtr = {sizeof idt - 1, (u64)idt};
    __asm__ volatile("lidt %0" : : "m"(idtr));

    write_msr(MSR_STAR, (u64)USER_BASE << 48 | (u64)KERNEL_CODE << 32 | 3ull << 48);
    write_msr(MSR_LSTAR, (u64)syscall_entry);
    write_msr(MSR_SFMASK, 0x40700); /* AC, DF, IF, TF */
}

/* The two 8259s: vectors from TIMER_VECTOR, all lines masked. */
static void init_interrupts(void)
{
    static const uint8_t words[][2] = {
        {0x20, 0x11}, {0xa0, 0x11}, {0x21, TIMER_VECTOR}, {0xa1, TIMER_VECTOR + 8},
        {0x21, 0x04}, {0xa1, 0x02}, {0x21, 0x01},         {0xa1, 0x01},
        {0x21, 0xff}, {0xa1, 0xff},
    };
    for (unsigned i = 0; i < sizeof words / sizeof *words; i++)
        outb(words[i][0], words[i][1]);
}

void kernel_init(void)
{
    tables_moved();
    init_descriptors();
    init_interrupts();
    outb(UART + 1, 0); /* no interrupts from the UART */
    nano_init();
}
