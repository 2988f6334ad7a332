/* What gdb is tried on: calls, a variable that changes, an endless loop, a way to die. */
#include <stdint.h>

volatile uint64_t counter;
volatile uint64_t turns;
volatile int spinning = 1;
volatile int dying = 0;
const char constant[] = "read only";

static inline void out8(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

__attribute__((noinline)) int leaf(int n)
{
    counter += n;
    return n * 3;
}

__attribute__((noinline)) int middle(int n)
{
    return leaf(n) + 1;
}

void _start(void)
{
    int sum = 0;
    for (int i = 1; i <= 4; i++)
        sum += middle(i);
    out8(0x3F8, 'A' + sum % 26);
    while (spinning)
        turns++;
    if (dying)
        __asm__ volatile("ud2");
    out8(0xF4, counter);
    for (;;)
        __asm__ volatile("hlt");
}
