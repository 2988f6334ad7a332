/* The timer of the local APIC, through the processor's interface: x2APIC or memory. */
#include "kernel.h"

enum { REG_EOI = 0x0b, REG_SVR = 0x0f, REG_LVT_TIMER = 0x32, REG_INITIAL = 0x38,
       REG_CURRENT = 0x39, REG_DIVIDE = 0x3e };
enum { LVT_MASKED = 1 << 16, LVT_PERIODIC = 1 << 17, SVR_ENABLED = 0x1ff, DIVIDE_BY_1 = 0xb };
enum { MSR_APIC_BASE = 0x1b, BASE_X2APIC = 1 << 10, BASE_BSP = 0x100, BASE_ENABLED = 0x900, CPUID_X2APIC = 1 << 21 };
enum { CALIBRATION = 20000000 }; /* ticks of the TSC */
#define PHYSICAL 0xfee00000

volatile uint32_t *apic_page; /* its registers, if they are in memory */
static volatile uint32_t *mapped;
static uint32_t period;

static uint32_t read(uint32_t reg)
{
    uint32_t low, high;
    if (apic_page)
        return apic_page[reg * 4];
    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(0x800 + reg));
    return low;
}

static void write(uint32_t reg, uint32_t value)
{
    if (apic_page)
        apic_page[reg * 4] = value;
    else
        write_msr(0x800 + reg, value);
}

/* Starts interrupts every `ticks` of the TSC with the vector TIMER_VECTOR. */
static void start(uint64_t ticks)
{
    if (!period) {
        write(REG_SVR, SVR_ENABLED);
        write(REG_DIVIDE, DIVIDE_BY_1);
        write(REG_LVT_TIMER, LVT_MASKED);
        write(REG_INITIAL, 0xffffffff);
        uint64_t begun = read_tsc(), gone;
        while ((gone = read_tsc() - begun) < CALIBRATION)
            ;
        period = (uint32_t)((0xffffffff - read(REG_CURRENT)) * ticks / gone);
    }
    write(REG_LVT_TIMER, TIMER_VECTOR | LVT_PERIODIC);
    write(REG_INITIAL, period);
}

void apic_timer(uint64_t ticks)
{
    if (ticks) {
        start(ticks);
    } else {
        write(REG_INITIAL, 0);
        write(REG_LVT_TIMER, LVT_MASKED);
    }
}

void apic_init(u64 space, u64 linear)
{
    uint32_t a = 1, b, c, d;
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "=c"(c), "=d"(d));
    map_page(space, linear, PHYSICAL, PTE_P | PTE_W | PTE_PCD | PTE_NX);
    mapped = (volatile uint32_t *)linear;
    if (c & CPUID_X2APIC)
        write_msr(MSR_APIC_BASE, PHYSICAL | BASE_ENABLED | BASE_X2APIC);
    else
        apic_page = mapped;
}

volatile uint32_t *apic_in_memory(int wanted)
{
    if (apic_page)
        return apic_page;
    /* The way back from x2APIC is through the disabled state, which resets the registers. */
    if (wanted) {
        write_msr(MSR_APIC_BASE, PHYSICAL | BASE_BSP);
        write_msr(MSR_APIC_BASE, PHYSICAL | BASE_ENABLED);
        period = 0;
    } else {
        write_msr(MSR_APIC_BASE, PHYSICAL | BASE_ENABLED | BASE_X2APIC);
    }
    return mapped;
}
