/* Measures the host services that a hypervisor in user space needs: a signal for an exception, a
 * mapping for a page.  No such hypervisor can be faster than these. */
#include "rt.h"

enum { PAGE = 4096, PAGES = 512, BATCHES = 9, SIGNALS = 5000, MAPPINGS = 2000 };
enum { SIGFPE = 8, SIGSEGV = 11, DIV_ECX_LENGTH = 2 };
enum { READ_WRITE = 3, SHARED = 1, PRIVATE = 2, FIXED = 0x10, ANONYMOUS = 0x20, POPULATE = 0x8000 };
/* SA_SIGINFO, SA_RESTORER, SA_ONSTACK, SA_NODEFER */
#define FLAGS (4ul | 0x04000000 | 0x08000000 | 0x40000000)

struct action {
    void (*handler)(int, const char *, char *);
    uint64_t flags;
    void (*restorer)(void);
    uint64_t mask;
};

/* Offsets in siginfo_t and ucontext_t. */
enum { SI_ADDR = 16, UC_RIP = 168 };

static long memory;

static long map(void *at, long size, long access, long flags, long file, long offset)
{
    return rt_syscall6(SYS_MMAP, (long)at, size, access, flags, file, offset);
}

static void show(char *at, long page)
{
    map(at, PAGE, READ_WRITE, SHARED | FIXED | POPULATE, memory, page * PAGE);
}

static void skip(int number, const char *info, char *context)
{
    (void)number, (void)info;
    *(uint64_t *)(context + UC_RIP) += DIV_ECX_LENGTH;
}

static void show_page(int number, const char *info, char *context)
{
    (void)number, (void)context;
    uint64_t at = *(const uint64_t *)(info + SI_ADDR) & -(uint64_t)PAGE;
    show((char *)at, (long)(at / PAGE % PAGES));
}

__asm__("restore: mov $15, %eax\n syscall\n");
void restore(void);

static void handle(int number, void (*handler)(int, const char *, char *))
{
    struct action action = {handler, FLAGS, restore, 0};
    rt_syscall6(SYS_SIGACTION, number, (long)&action, 0, 8, 0, 0);
}

static uint64_t run_signals(char *area)
{
    (void)area;
    uint64_t start = rt_tsc();
    for (int i = 0; i < SIGNALS; i++)
        __asm__ volatile("div %%ecx" : : "a"(1), "d"(0), "c"(0) : "cc");
    return rt_tsc() - start;
}

static uint64_t run_faults(char *area)
{
    map(area, PAGES * PAGE, 0, PRIVATE | FIXED | ANONYMOUS, -1, 0);
    uint64_t start = rt_tsc();
    for (int i = 0; i < PAGES; i++)
        *(volatile char *)(area + i * PAGE) = 1;
    return rt_tsc() - start;
}

static uint64_t run_mappings(char *area)
{
    uint64_t start = rt_tsc();
    for (int i = 0; i < MAPPINGS; i++) {
        show(area, i & 1);
        (void)*(volatile char *)area;
    }
    return rt_tsc() - start;
}

static void measure(const char *name, uint64_t (*run)(char *), char *area, long count)
{
    uint64_t best = ~0ull;
    for (int i = 0; i < BATCHES; i++) {
        uint64_t ticks = run(area);
        if (ticks < best)
            best = ticks;
    }
    rt_printf("nano %s %lu %ld\n", name, best, count);
}

void rt_floors(void)
{
    static char stack[64 * 1024];
    struct {
        void *base;
        long flags;
        size_t size;
    } alternate = {stack, 0, sizeof stack};
    memory = rt_syscall(SYS_MEMFD_CREATE, (long)"floors", 0, 0);
    rt_syscall(SYS_FTRUNCATE, memory, PAGES * PAGE, 0);
    rt_syscall(SYS_SIGALTSTACK, (long)&alternate, 0, 0);
    handle(SIGFPE, skip);
    handle(SIGSEGV, show_page);
    char *area = (char *)map(0, 2 * PAGES * PAGE, READ_WRITE, PRIVATE | ANONYMOUS, -1, 0);
    area += -(uint64_t)area % (PAGES * PAGE);
    map(area, PAGES * PAGE, READ_WRITE, SHARED | FIXED | POPULATE, memory, 0);
    measure("divide", run_signals, area, SIGNALS);
    measure("pagefault", run_faults, area, PAGES);
    measure("pte", run_mappings, area, MAPPINGS);
}
