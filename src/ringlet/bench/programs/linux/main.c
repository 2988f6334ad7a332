/* Measures services of Linux and some sections of `cpu`, natively and as the init of a guest.
 *
 * Prints "section NAME TICKS CHECKSUM" for the sections and "linux NAME TICKS COUNT" for the rest:
 * the best of a few batches of COUNT. */
#include "../cpu/section.h"
#include "rt.h"

enum { BATCHES = 9, PAGE = 4096, FAULT_PAGES = 2048, OWN_PAGES = 256 };
enum { READ_WRITE = 3, PRIVATE_ANONYMOUS = 0x22, TCSBRK = 0x5409 };

typedef uint64_t batch(long count);

static const struct section *const sections[] = {
    &section_chase, &section_heapsort, &section_qsort, &section_fib, &section_matmul,
    &section_crc32,
};

static int is_init;
static char *self;

/* A program with an argument is what the section `exec` starts. */
int rt_begin(char **arguments)
{
    if (arguments[0] && arguments[1])
        rt_exit(0);
    self = arguments[0];
    is_init = rt_syscall(SYS_GETPID, 0, 0, 0) == 1;
    return !is_init;
}

/* A guest's init turns the machine off once the console has sent everything. */
void rt_end(void)
{
    if (!is_init)
        return;
    rt_syscall(SYS_IOCTL, 1, TCSBRK, 1);
    rt_syscall6(SYS_REBOOT, 0xfee1dead, 0x28121969, 0x4321fedc, 0, 0, 0);
}

static long check(const char *what, long result)
{
    if ((unsigned long)result > (unsigned long)-PAGE) {
        rt_printf("linux: %s failed with error %ld\n", what, -result);
        rt_end();
        rt_exit(3);
    }
    return result;
}

static long fork(void)
{
    return check("fork", rt_syscall(SYS_FORK, 0, 0, 0));
}

static void wait_for(long child)
{
    int status = -1;
    check("wait", rt_syscall6(SYS_WAIT4, child, (long)&status, 0, 0, 0, 0));
    if (status)
        check("a child", -status);
}

static char *map(long size)
{
    long area = rt_syscall6(SYS_MMAP, 0, size, READ_WRITE, PRIVATE_ANONYMOUS, -1, 0);
    return (char *)check("mmap", area);
}

static void touch(char *area, long pages)
{
    for (long i = 0; i < pages; i++)
        *(volatile char *)(area + i * PAGE) = 1;
}

static uint64_t run_getppid(long count)
{
    uint64_t start = rt_tsc();
    while (count--)
        rt_syscall(SYS_GETPPID, 0, 0, 0);
    return rt_tsc() - start;
}

static void echo(int from, int to)
{
    char byte;
    while (rt_syscall(SYS_READ, from, (long)&byte, 1) == 1)
        rt_syscall(SYS_WRITE, to, (long)&byte, 1);
    rt_exit(0);
}

/* Sends a byte to another process and back, on one processor. */
static uint64_t run_pipe(long count)
{
    int there[2], back[2];
    char byte = 1;
    check("pipe", rt_syscall(SYS_PIPE, (long)there, 0, 0));
    check("pipe", rt_syscall(SYS_PIPE, (long)back, 0, 0));
    long child = fork();
    if (!child) {
        rt_syscall(SYS_CLOSE, there[1], 0, 0);
        echo(there[0], back[1]);
    }
    uint64_t start = rt_tsc();
    for (long i = 0; i < count; i++) {
        rt_syscall(SYS_WRITE, there[1], (long)&byte, 1);
        check("read", rt_syscall(SYS_READ, back[0], (long)&byte, 1));
    }
    uint64_t ticks = rt_tsc() - start;
    for (int i = 0; i < 2; i++) {
        rt_syscall(SYS_CLOSE, there[i], 0, 0);
        rt_syscall(SYS_CLOSE, back[i], 0, 0);
    }
    wait_for(child);
    return ticks;
}

static uint64_t run_page_fault(long count)
{
    char *area = map(count * PAGE);
    uint64_t start = rt_tsc();
    touch(area, count);
    uint64_t ticks = rt_tsc() - start;
    check("munmap", rt_syscall(SYS_MUNMAP, (long)area, count * PAGE, 0));
    return ticks;
}

/* Forks from a process with 1 MiB of memory; the child exits at once, or executes a program that
 * does. */
static uint64_t run_children(long count, int exec)
{
    char *arguments[] = {self, "end", NULL}, *environment[] = {NULL};
    char *own = map(OWN_PAGES * PAGE);
    touch(own, OWN_PAGES);
    uint64_t start = rt_tsc();
    while (count--) {
        long child = fork();
        if (!child) {
            if (exec)
                rt_syscall(SYS_EXECVE, (long)self, (long)arguments, (long)environment);
            rt_exit(exec);
        }
        wait_for(child);
    }
    uint64_t ticks = rt_tsc() - start;
    check("munmap", rt_syscall(SYS_MUNMAP, (long)own, OWN_PAGES * PAGE, 0));
    return ticks;
}

static uint64_t run_fork(long count)
{
    return run_children(count, 0);
}

static uint64_t run_exec(long count)
{
    return run_children(count, 1);
}

static void measure(const char *name, batch *run, long count)
{
    uint64_t best = ~0ull;
    for (int i = 0; i < BATCHES; i++) {
        uint64_t ticks = run(count);
        if (ticks < best)
            best = ticks;
    }
    rt_printf("linux %s %" L64 "u %ld\n", name, best, count);
}

/* Both ends of the pipe share one processor, because the guest has only one. */
static void stay_on_one_processor(void)
{
    unsigned processor = 0;
    uint64_t mask[16] = {0};
    rt_syscall(SYS_GETCPU, (long)&processor, 0, 0);
    mask[processor / 64 % 16] = 1ull << processor % 64;
    rt_syscall(SYS_SCHED_SETAFFINITY, 0, sizeof mask, (long)mask);
}

int program_main(void)
{
    stay_on_one_processor();
    /* In a child, so that later forks do not copy the memory of the sections. */
    long child = fork();
    if (!child) {
        measure_sections(sections, sizeof sections / sizeof *sections);
        rt_exit(0);
    }
    wait_for(child);
    measure("getppid", run_getppid, 20000);
    measure("pipe", run_pipe, 5000);
    measure("fault", run_page_fault, FAULT_PAGES);
    measure("fork", run_fork, 40);
    measure("exec", run_exec, 20);
    return 0;
}
