/* Runs programs in a guest, as its init, and natively in the same Debian tree.
 *
 *   driver ROWS LIMIT                     as a guest's init
 *   driver native TREE BENCH ROWS LIMIT [DIRECTORY]
 *                                         in TREE, with the directory BENCH at /bench; with
 *                                         DIRECTORY at /mnt and the caller's network, else without
 *   driver count TREE BENCH ROWS LIMIT [DIRECTORY]
 *                                         the same, but counts system calls
 *   driver getppid COUNT                  a row's program: null system calls
 *   driver fault COUNT                    a row's program: page faults on new memory
 *
 * ROWS is NAME:SIZE or NAME:SIZE:PORT, with commas between them; LIMIT is the number of seconds that
 * a row may take.  The driver prints, with times in ns:
 *
 *   row NAME begin
 *   row NAME end STATUS WALL USER SYSTEM FAULTS SUM [COUNT SECONDS]
 *   row NAME calls COUNT
 *   row NAME said TEXT           why a row failed
 *   driver: done                 after the last row
 *   driver: WHAT failed ...
 *
 * STATUS is that of wait(2), or "late"; SUM is the FNV-1a hash of the row's standard output; COUNT
 * and SECONDS are the content of the file "rate", with which a row may measure itself. */
#include <linux/prctl.h>
#include <linux/reboot.h>

#include "driver.h"

enum { TCSBRK = 0x5409, SIGKILL = 9, PAGE = 4096, CHUNK = 2048 };
enum { READ_WRITE = 3, PRIVATE_ANONYMOUS = 0x22, MADV_NOHUGEPAGE = 15 };

const int rt_is_guest = 0;
int is_guest;

_Noreturn void rt_exit(int status)
{
    for (;;)
        call(__NR_exit_group, status, 0, 0);
}

_Noreturn void leave(int status)
{
    if (is_guest) {
        call(__NR_ioctl, 1, TCSBRK, 1);
        call4(__NR_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_POWER_OFF, 0);
    }
    rt_exit(status);
}

long check(const char *what, long result)
{
    if (result < 0) {
        rt_printf("driver: %s failed with error %ld\n", what, -result);
        leave(3);
    }
    return result;
}

static long number(const char *text)
{
    long value = 0;
    while (*text >= '0' && *text <= '9')
        value = value * 10 + *text++ - '0';
    return value;
}

/* Copies up to `end` or the end of the text; returns the rest. */
static const char *word(const char *from, char end, char *to, size_t room)
{
    size_t length = 0;
    for (; *from && *from != end; from++)
        if (length + 1 < room)
            to[length++] = *from;
    to[length] = 0;
    return *from ? from + 1 : from;
}

static void run_rows(const char *rows, const char *limit, int counting)
{
    while (*rows) {
        struct row row;
        char one[sizeof row];
        rows = word(rows, ',', one, sizeof one);
        const char *rest = word(one, ':', row.name, sizeof row.name);
        rest = word(rest, ':', row.size, sizeof row.size);
        word(rest, ':', row.port, sizeof row.port);
        run_row(&row, number(limit), counting);
    }
    rt_printf("driver: done\n");
}

/* A guest has one processor, so native programs get one too. */
static void stay_on_one_processor(void)
{
    unsigned processor = 0;
    uint64_t mask[16] = {0};
    call(__NR_getcpu, (long)&processor, 0, 0);
    mask[processor / 64 % 16] = 1ull << processor % 64;
    check("sched_setaffinity", call(__NR_sched_setaffinity, 0, sizeof mask, (long)mask));
}

/* The first process of new namespaces runs the rows; when it ends, so does all that is left. */
static void run_native(char **arguments, const char *work, int counting)
{
    long user = call(__NR_geteuid, 0, 0, 0), group = call(__NR_getegid, 0, 0, 0);
    stay_on_one_processor();
    enter_namespaces(user, group, work);
    long first = check("fork", call(__NR_fork, 0, 0, 0));
    if (first) {
        int status = -1;
        check("wait4", call4(__NR_wait4, first, (long)&status, 0, 0));
        rt_exit(status ? 3 : 0);
    }
    check("prctl", call(__NR_prctl, PR_SET_PDEATHSIG, SIGKILL, 0));
    enter_tree(arguments[2], arguments[3], work);
    run_rows(arguments[4], arguments[5], counting);
}

static void run_getppid(long count)
{
    for (long i = 0; i < count; i++)
        call(__NR_getppid, 0, 0, 0);
}

static void run_fault(long count)
{
    for (long done = 0; done < count; done += CHUNK) {
        long size = CHUNK * PAGE;
        long area = rt_syscall6(__NR_mmap, 0, size, READ_WRITE, PRIVATE_ANONYMOUS, -1, 0);
        check("mmap", area);
        call(__NR_madvise, area, size, MADV_NOHUGEPAGE);
        for (long i = 0; i < CHUNK; i++)
            *(volatile char *)(area + i * PAGE) = 1;
        check("munmap", call(__NR_munmap, area, size, 0));
    }
}

/* Prints the count and the seconds of `run`. */
static void measure(void (*run)(long), long count)
{
    uint64_t begin[2], end[2];
    check("clock_gettime", call(__NR_clock_gettime, 1, (long)begin, 0));
    run(count);
    check("clock_gettime", call(__NR_clock_gettime, 1, (long)end, 0));
    uint64_t ns = (end[0] - begin[0]) * 1000000000u + end[1] - begin[1];
    rt_printf("%ld %lu.%09lu\n", count, ns / 1000000000u, ns % 1000000000u);
}

__attribute__((noreturn, used)) static void start(long count, char **arguments)
{
    const char *first = count > 1 ? arguments[1] : "";
    if (count == 3 && !strcmp(first, "getppid")) {
        measure(run_getppid, number(arguments[2]));
    } else if (count == 3 && !strcmp(first, "fault")) {
        measure(run_fault, number(arguments[2]));
    } else if ((count == 6 || count == 7) &&
               (!strcmp(first, "native") || !strcmp(first, "count"))) {
        run_native(arguments, count == 7 ? arguments[6] : NULL, !strcmp(first, "count"));
    } else if (count == 3 && call(__NR_getpid, 0, 0, 0) == 1) {
        is_guest = 1;
        enter_guest();
        run_rows(first, arguments[2], 0);
    } else {
        rt_printf("driver: start.c has the arguments\n");
        leave(2);
    }
    leave(0);
}

__asm__(".globl _start\n"
        "_start: xor %ebp, %ebp\n"
        " mov (%rsp), %rdi\n"
        " lea 8(%rsp), %rsi\n"
        " and $-16, %rsp\n"
        " call start\n");
