/* Runs the tests, each in a process of its own, and prints a verdict for each.

   As a guest's first process it runs all of them, or those whose names begin with the words of
   the kernel's argument `selftests=`, separated by commas, and of these, with `after=NAME`, only
   the ones behind that test; then it turns the machine off. As a program it runs those whose names
   begin with its arguments. */
#include "selftest.h"
#include <fcntl.h>
#include <stdarg.h>
#include <sys/klog.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <time.h>

enum { PATIENCE = 30 }; /* seconds for a test */

extern const struct selftest __start_selftests[], __stop_selftests[];

/* What the test's process, or a child of it, has to say; the first to speak is heard. */
static struct verdict {
    int said, skipped;
    char text[400];
} *verdict;

static void __attribute__((noreturn)) say(int skipped, const char *format, va_list values)
{
    if (!__atomic_exchange_n(&verdict->said, 1, __ATOMIC_SEQ_CST)) {
        verdict->skipped = skipped;
        vsnprintf(verdict->text, sizeof verdict->text, format, values);
    }
    _exit(1);
}

void fail(const char *format, ...)
{
    va_list values;
    va_start(values, format);
    say(0, format, values);
}

void skip(const char *format, ...)
{
    va_list values;
    va_start(values, format);
    say(1, format, values);
}

void same(const char *what, u64 got, u64 want)
{
    if (got != want)
        fail("%s: %#lx for %#lx", what, got, want);
}

int status_of(pid_t child)
{
    int status;
    while (waitpid(child, &status, __WALL) < 0)
        if (errno != EINTR)
            fail("waitpid: %s", strerror(errno));
    return status;
}

void join(pid_t child)
{
    int status = status_of(child);
    if (status)
        fail("a child ended with wait status %#x", (unsigned)status);
}

int in_child(void (*body)(void))
{
    pid_t child = (pid_t)MUST(fork());
    if (!child) {
        body();
        _exit(0);
    }
    return status_of(child);
}

int has_avx(void)
{
    struct cpuid c = cpuid(1, 0);
    return c.ecx >> 27 & 1 && c.ecx >> 28 & 1;
}

int has_fsgsbase(void)
{
    return cpuid(7, 0).ebx & 1;
}

void *pages(u64 count, int protection)
{
    void *at = mmap(NULL, count * PAGE, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        fail("mmap: %s", strerror(errno));
    return at;
}

void *page(int protection)
{
    return pages(1, protection);
}

/* --- the run */

/* Wait for a test's process, but not for ever. */
static int wait_for(pid_t child)
{
    sigset_t ended;
    sigemptyset(&ended);
    sigaddset(&ended, SIGCHLD);
    time_t end = time(NULL) + PATIENCE;
    int status;
    pid_t found;
    while ((found = waitpid(child, &status, WNOHANG)) == 0) {
        struct timespec second = { 1, 0 };
        if (time(NULL) > end)
            return -1;
        sigtimedwait(&ended, NULL, &second);
    }
    return status;
}

static int run_test(const struct selftest *test)
{
    memset(verdict, 0, sizeof *verdict);
    pid_t child = fork();
    if (child < 0) {
        printf("%s: FAIL fork: %s\n", test->name, strerror(errno));
        return 1;
    }
    if (!child) {
        setpgid(0, 0);
        sigset_t none;
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        test->run();
        _exit(0);
    }
    int status = wait_for(child);
    kill(-child, SIGKILL);
    kill(child, SIGKILL);
    while (waitpid(-1, NULL, WNOHANG | __WALL) > 0)
        ;
    if (verdict->said && verdict->skipped) {
        printf("%s: skip %s\n", test->name, verdict->text);
        return 0;
    }
    if (!verdict->said && status == 0) {
        printf("%s: ok\n", test->name);
        return 0;
    }
    if (verdict->said)
        printf("%s: FAIL %s\n", test->name, verdict->text);
    else if (status == -1)
        printf("%s: FAIL not done after %d s\n", test->name, PATIENCE);
    else if (WIFSIGNALED(status))
        printf("%s: FAIL ended by signal %d\n", test->name, WTERMSIG(status));
    else
        printf("%s: FAIL wait status %#x\n", test->name, (unsigned)status);
    return 1;
}

/* What the kernel must never have to say, whatever a program does. */
static int check_log(void)
{
    static const char *const words[] = {
        "WARNING:", "BUG:", "Oops", "Call Trace", "unchecked MSR", "soft lockup", "stall",
    };
    static char log[1 << 20];
    int size = klogctl(3, log, sizeof log - 1);
    if (size < 0) {
        printf("kernel.log: FAIL cannot be read: %s\n", strerror(errno));
        return 1;
    }
    log[size] = 0;
    for (char *line = strtok(log, "\n"); line; line = strtok(NULL, "\n"))
        for (size_t i = 0; i < COUNT(words); i++)
            if (strstr(line, words[i])) {
                printf("kernel.log: FAIL %s\n", line);
                return 1;
            }
    printf("kernel.log: ok\n");
    return 0;
}

static int begins(const char *name, const char *word)
{
    return !strncmp(name, word, strlen(word));
}

static int chosen(const char *name, char **words)
{
    if (!*words)
        return 1;
    for (; *words; words++)
        if (begins(name, *words))
            return 1;
    return 0;
}

static int run_all(char **words, const char *after)
{
    int failed = 0;
    for (const struct selftest *test = __start_selftests; test < __stop_selftests; test++) {
        if (after)
            after = strcmp(test->name, after) ? after : NULL;
        else if (chosen(test->name, words))
            failed += run_test(test);
        fflush(stdout);
    }
    return failed;
}

/* A guest's whole life. */
static void __attribute__((noreturn)) be_init(void)
{
    static char *words[64];
    char *list = getenv("selftests");
    int count = 0;
    if (list)
        for (char *w = strtok(list, ","); w && count < 63; w = strtok(NULL, ","))
            words[count++] = w;
    mkdir("/proc", 0755);
    mkdir("/tmp", 0777);
    mount("proc", "/proc", "proc", 0, NULL);
    mount("tmpfs", "/tmp", "tmpfs", 0, NULL);
    run_all(words, getenv("after"));
    if (!list)
        check_log();
    puts("done");
    fflush(stdout);
    fsync(1);
    sync();
    reboot(RB_POWER_OFF);
    for (;;)
        pause();
}

int main(int count, char **arguments)
{
    if (count > 1 && !strcmp(arguments[1], "--exec"))
        return exec_mode(count, arguments);
    verdict = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (verdict == MAP_FAILED) {
        perror("mmap");
        return 2;
    }
    sigset_t ended;
    sigemptyset(&ended);
    sigaddset(&ended, SIGCHLD);
    sigprocmask(SIG_BLOCK, &ended, NULL);
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (getpid() == 1)
        be_init();
    int failed = run_all(arguments + 1, NULL);
    puts("done");
    return failed > 0;
}
