/* Runs a row's script: its function `prepare` without a clock, then `run` with one. */
#include <asm/signal.h>
#include <linux/fcntl.h>
#include <linux/prctl.h>
#include <linux/time.h>
#include <linux/wait.h>

#include "driver.h"

enum { CHUNK = 65536, SAID = 160, LATE = -1 };
/* struct rusage as longs */
enum { USER_S, USER_US, SYSTEM_S, SYSTEM_US, MINOR_FAULTS = 8, MAJOR_FAULTS = 9, USAGE = 18 };

static uint64_t now(void)
{
    uint64_t time[2];
    check("clock_gettime", call(__NR_clock_gettime, CLOCK_MONOTONIC, (long)time, 0));
    return time[0] * 1000000000u + time[1];
}

static void redirect(const char *path, int flags, int descriptor)
{
    long file = check(path, call(__NR_open, (long)path, flags, 0644));
    if (file != descriptor) {
        check("dup2", call(__NR_dup2, file, descriptor, 0));
        call(__NR_close, file, 0, 0);
    }
}

_Noreturn static void become_row(const struct row *row, const char *function)
{
    char size[32], port[32];
    fmt_snprintf(size, sizeof size, "N=%s", row->size);
    fmt_snprintf(port, sizeof port, "PORT=%s", row->port);
    char *const arguments[] = {"sh", "-ec", ". \"/bench/rows/$0.sh\"; \"$1\"", (char *)row->name,
                               (char *)function, NULL};
    char *world = is_guest ? "WORLD=guest" : "WORLD=native";
    char *const environment[] = {size, port, world, "HOME=/tmp", "LC_ALL=C.UTF-8", "TERM=dumb",
                                 "PATH=/usr/sbin:/usr/bin:/sbin:/bin", NULL};
    call(__NR_execve, (long)"/bin/sh", (long)arguments, (long)environment);
    rt_exit(127);
}

long start_row(const struct row *row, const char *function, int traced, int *go)
{
    int pipe[2];
    check("pipe2", call(__NR_pipe2, (long)pipe, O_CLOEXEC, 0));
    long child = check("fork", call(__NR_fork, 0, 0, 0));
    if (!child) {
        char byte;
        uint64_t none = 0;
        call(__NR_close, pipe[1], 0, 0);
        call(__NR_setsid, 0, 0, 0);
        call4(__NR_rt_sigprocmask, SIG_SETMASK, (long)&none, 0, sizeof none);
        redirect("/dev/null", O_RDONLY, 0);
        redirect("/tmp/out", O_WRONLY | O_CREAT | O_APPEND, 1);
        redirect("/tmp/err", O_WRONLY | O_CREAT | O_APPEND, 2);
        check("chdir", call(__NR_chdir, (long)"/tmp/row", 0, 0));
        call(__NR_read, pipe[0], (long)&byte, 1);
        if (traced)
            trap_calls();
        become_row(row, function);
    }
    call(__NR_close, pipe[0], 0, 0);
    *go = pipe[1];
    return child;
}

/* Waits for a child for at most `limit` seconds; SIGCHLD is blocked. */
static int wait_for(long child, long limit, long *usage)
{
    uint64_t deadline = now() + (uint64_t)limit * 1000000000u, mask = 1ull << (SIGCHLD - 1);
    int status;
    for (;;) {
        long ended = call4(__NR_wait4, child, (long)&status, WNOHANG, (long)usage);
        if (check("wait4", ended) == child)
            return status;
        uint64_t time = now();
        if (time >= deadline)
            return LATE;
        uint64_t left[2] = {(deadline - time) / 1000000000u, (deadline - time) % 1000000000u};
        call4(__NR_rt_sigtimedwait, (long)&mask, 0, (long)left, sizeof mask);
    }
}

/* Process 1 of its namespace ends all others. */
static void end_all(void)
{
    call(__NR_kill, -1, SIGKILL, 0);
    while (call4(__NR_wait4, -1, 0, __WALL, 0) > 0)
        ;
}

static char buffer[CHUNK];

static uint64_t hash_of(const char *path)
{
    uint64_t hash = 0xcbf29ce484222325u;
    long file = check(path, call(__NR_open, (long)path, O_RDONLY, 0)), got;
    while ((got = check("read", call(__NR_read, file, (long)buffer, CHUNK))) > 0)
        for (long i = 0; i < got; i++)
            hash = (hash ^ (uint8_t)buffer[i]) * 0x100000001b3u;
    call(__NR_close, file, 0, 0);
    return hash;
}

/* Returns the first `room` characters of a small file, printable and without the last newline. */
static const char *text_of(const char *path, long room, int last_line)
{
    long file = call(__NR_open, (long)path, O_RDONLY, 0), length = 0, start = 0;
    if (file >= 0) {
        length = call(__NR_read, file, (long)buffer, CHUNK - 1);
        call(__NR_close, file, 0, 0);
    }
    while (length > 0 && buffer[length - 1] == '\n')
        length--;
    for (long i = 0; i < length; i++) {
        if (last_line && buffer[i] == '\n')
            start = i + 1;
        if (buffer[i] < ' ' || buffer[i] > '~')
            buffer[i] = ' ';
    }
    if (length < 0 || start > length)
        length = start = 0;
    buffer[length - start > room ? start + room : length] = 0;
    return buffer + start;
}

static void print_failure(const struct row *row, const char *function)
{
    const char *text = text_of("/tmp/err", SAID, 1);
    if (!*text)
        text = text_of("/tmp/out", SAID, 1);
    rt_printf("row %s said %s: %s\n", row->name, function, text);
}

static int prepare(const struct row *row, long limit)
{
    long usage[USAGE];
    int go;
    long child = start_row(row, "prepare", 0, &go);
    call(__NR_close, go, 0, 0);
    int status = wait_for(child, limit, usage);
    end_all();
    return status;
}

static void time_row(const struct row *row, long limit)
{
    long usage[USAGE] = {0};
    int go;
    long child = start_row(row, "run", 0, &go);
    rt_printf("row %s begin\n", row->name);
    uint64_t begin = now();
    call(__NR_close, go, 0, 0);
    int status = wait_for(child, limit, usage);
    uint64_t wall = now() - begin;
    char result[16];
    fmt_snprintf(result, sizeof result, status == LATE ? "late" : "%d", status);
    end_all();
    uint64_t sum = hash_of("/tmp/out");
    rt_printf("row %s end %s %lu %ld %ld %ld %lx %s\n", row->name, result, wall,
              usage[USER_S] * 1000000000 + usage[USER_US] * 1000,
              usage[SYSTEM_S] * 1000000000 + usage[SYSTEM_US] * 1000,
              usage[MINOR_FAULTS] + usage[MAJOR_FAULTS], sum,
              text_of("/tmp/row/rate", 48, 0));
    if (status && status != LATE)
        print_failure(row, "run");
}

static void count_row(const struct row *row)
{
    int go, status;
    long child = start_row(row, "run", 1, &go);
    long calls = count_calls(child, go, &status);
    if (status)
        print_failure(row, "run, counted,");
    else
        rt_printf("row %s calls %ld\n", row->name, calls);
}

void run_row(const struct row *row, long limit, int counting)
{
    uint64_t mask = 1ull << (SIGCHLD - 1);
    call4(__NR_rt_sigprocmask, SIG_BLOCK, (long)&mask, 0, sizeof mask);
    empty_tmp();
    check("mkdir", call(__NR_mkdir, (long)"/tmp/row", 0755, 0));
    int status = prepare(row, limit);
    if (status) {
        print_failure(row, "prepare");
        return;
    }
    if (counting)
        count_row(row);
    else
        time_row(row, limit);
}
