/* Measures operations that are slow under virtual machine monitors, one primitive at a time, and
 * prints "nano NAME TICKS COUNT": the best of a few batches of COUNT. */
#include "nano.h"
#include "rt.h"

enum { BATCHES = 9, PAIRS = 40, WINDOW = 50000000, GAP = 2000, PERIOD = 2600000 };

typedef uint64_t batch(long count);

static void fail(const char *what)
{
    rt_printf("nano: %s gave a wrong result\n", what);
    rt_exit(3);
}

static uint64_t run_syscall(long count)
{
    uint64_t start = rt_tsc();
    while (count--)
        rt_syscall(SYS_GETPPID, 0, 0, 0);
    return rt_tsc() - start;
}

static uint64_t run_int80(long count)
{
    uint64_t start = rt_tsc();
    while (count--)
        __asm__ volatile("int $0x80" : : "a"(0) : "memory");
    return rt_tsc() - start;
}

static uint64_t run_call(long count)
{
    uint64_t start = rt_tsc();
    __asm__ volatile("jmp 2f\n"
                     ".balign 64\n"
                     "1: ret\n"
                     ".balign 64\n"
                     "2: call 1b\n"
                     "dec %0\n"
                     "jnz 2b"
                     : "+r"(count)
                     :
                     : "memory", "cc");
    return rt_tsc() - start;
}

static uint64_t run_divide(long count)
{
    rt_syscall(NANO_DIVIDE, 2, 0, 0); /* the length of DIV ECX */
    uint64_t start = rt_tsc();
    while (count--)
        __asm__ volatile("div %%ecx" : : "a"(1), "d"(0), "c"(0) : "cc");
    uint64_t ticks = rt_tsc() - start;
    rt_syscall(NANO_DIVIDE, 0, 0, 0);
    return ticks;
}

static uint64_t run_page_fault(long count)
{
    rt_syscall(NANO_FAULT_RESET, 0, 0, 0);
    volatile char *page = (volatile char *)FAULT_AREA;
    uint64_t start = rt_tsc();
    for (long i = 0; i < count; i++, page += PAGE)
        *page = 1;
    return rt_tsc() - start;
}

static uint64_t run_kernel(long number, long count, const char *name)
{
    long ticks = rt_syscall(number, count, 0, 0);
    if (ticks < 0)
        fail(name);
    return (uint64_t)ticks;
}

static uint64_t run_in(long count)
{
    return run_kernel(NANO_IN, count, "in");
}

static uint64_t run_out(long count)
{
    return run_kernel(NANO_OUT, count, "out");
}

static uint64_t run_cr8(long count)
{
    return run_kernel(NANO_CR8, count, "cr8");
}

static uint64_t run_apic_read(long count)
{
    return run_kernel(NANO_APIC_READ, count, "apicread");
}

static uint64_t run_apic_write(long count)
{
    return run_kernel(NANO_APIC_WRITE, count, "apicwrite");
}

static uint64_t run_device_read(long count)
{
    return run_kernel(NANO_DEVICE_READ, count, "deviceread");
}

static uint64_t run_device_write(long count)
{
    return run_kernel(NANO_DEVICE_WRITE, count, "devicewrite");
}

static uint64_t run_pte(long count)
{
    return run_kernel(NANO_PTE, count, "pte");
}

/* A system call that loads CR3, then a read of every page of the address space. */
static uint64_t run_switch(long count)
{
    uint64_t sum = 0, start = rt_tsc();
    for (long i = 0; i < count; i++) {
        rt_syscall(NANO_SPACE, 1 + (i & 1), 0, 0);
        volatile uint64_t *page = (volatile uint64_t *)SPACE_AREA;
        for (int n = 0; n < SPACE_PAGES; n++, page += PAGE / 8)
            sum += *page;
    }
    uint64_t ticks = rt_tsc() - start;
    rt_syscall(NANO_SPACE, 0, 0, 0);
    if (sum != (uint64_t)count * SPACE_PAGES * 3 / 2)
        fail("cr3");
    return ticks;
}

static volatile uint8_t *code;

/* MOV EAX, imm32; RET.  The immediate is stored anew before each call. */
static uint64_t run_self_modifying(long count)
{
    long sum = 0;
    code[0] = 0xb8;
    code[5] = 0xc3;
    uint64_t start = rt_tsc();
    for (long i = 0; i < count; i++) {
        *(volatile uint32_t *)(code + 1) = (uint32_t)i;
        sum += ((int (*)(void))(uintptr_t)code)();
    }
    uint64_t ticks = rt_tsc() - start;
    if (sum != count * (count - 1) / 2)
        fail("smc");
    return ticks;
}

static volatile uint8_t *code_page(void)
{
    if (rt_is_guest)
        return (volatile uint8_t *)CODE_AREA;
    /* private, anonymous */
    long result = rt_syscall6(SYS_MMAP, 0, PAGE, 7, 0x22, -1, 0);
    return result > 0 ? (volatile uint8_t *)result : 0;
}

/* Ticks that the program loses in a window of time: the sum of all gaps between two readings of the
 * clock that are longer than a reading takes. */
static uint64_t lost(uint64_t window)
{
    uint64_t start = rt_tsc(), last = start, sum = 0;
    while (last - start < window) {
        uint64_t now = rt_tsc();
        if (now - last > GAP)
            sum += now - last;
        last = now;
    }
    return sum;
}

/* The lower quartile, because the host's other work only adds time. */
static uint64_t quartile(uint64_t *values, int count)
{
    for (int i = 1; i < count; i++)
        for (int j = i; j > 0 && values[j] < values[j - 1]; j--) {
            uint64_t t = values[j];
            values[j] = values[j - 1];
            values[j - 1] = t;
        }
    return values[count / 4];
}

/* The cost of a timer interrupt: the time that the guest loses in windows with the timer, less the
 * time that it loses in windows without it, per interrupt.  The two kinds of windows alternate;
 * their lower quartiles count. */
static void timer(void)
{
    static uint64_t busy[PAIRS], quiet[PAIRS];
    uint64_t count = 0;
    for (int i = 0; i < PAIRS; i++) {
        quiet[i] = lost(WINDOW);
        const volatile uint64_t *handled =
            (const volatile uint64_t *)rt_syscall(NANO_TIMER, PERIOD, 0, 0);
        uint64_t before = *handled;
        busy[i] = lost(WINDOW);
        count += *handled - before;
        rt_syscall(NANO_TIMER, 0, 0, 0);
    }
    uint64_t with = quartile(busy, PAIRS), without = quartile(quiet, PAIRS);
    /* There is no timer, or the host is so busy that what interrupts cost cannot be told. */
    if (count < PAIRS || with <= without)
        with = without = count = 0;
    rt_printf("nano timer %lu %lu\n", (with - without) * PAIRS, count);
}

static void measure(const char *name, batch *run, long count)
{
    uint64_t best = ~0ull;
    for (int i = 0; i < BATCHES; i++) {
        uint64_t ticks = run(count);
        if (ticks < best)
            best = ticks;
    }
    rt_printf("nano %s %lu %ld\n", name, best, count);
}

int program_main(void)
{
    measure("syscall", run_syscall, 20000);
    measure("call", run_call, 1000000);
    code = code_page();
    if (code)
        measure("smc", run_self_modifying, 1000);
    if (rt_floors) {
        rt_floors();
        return 0;
    }
    measure("int80", run_int80, 20000);
    measure("in", run_in, 2000);
    measure("out", run_out, 2000);
    measure("cr8", run_cr8, 20000);
    measure("apicread", run_apic_read, 20000);
    measure("apicwrite", run_apic_write, 20000);
    measure("deviceread", run_device_read, 2000);
    measure("devicewrite", run_device_write, 2000);
    measure("divide", run_divide, 5000);
    measure("pagefault", run_page_fault, FAULT_PAGES);
    measure("pte", run_pte, 2000);
    measure("cr3", run_switch, 20);
    timer();
    return 0;
}
