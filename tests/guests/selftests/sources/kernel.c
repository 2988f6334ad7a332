/* The guest's kernel on itself: it patches its own text, makes code, and sets breakpoints. */
#include "selftest.h"
#include <elf.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/hw_breakpoint.h>
#include <linux/perf_event.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>

static int number_in(const char *path)
{
    int value = -1;
    mkdir("/sys", 0755);
    if (access("/sys/kernel", F_OK))
        mount("sysfs", "/sys", "sysfs", 0, NULL);
    FILE *file = fopen(path, "r");
    if (!file || fscanf(file, "%d", &value) != 1)
        skip("no %s", path);
    fclose(file);
    return value;
}

static int perf(struct perf_event_attr *attr, pid_t process, int cpu)
{
    attr->size = sizeof *attr;
    return (int)syscall(SYS_perf_event_open, attr, process, cpu, -1, 0);
}

static u64 counted(int event)
{
    u64 value = 0;
    SAME(read(event, &value, 8), 8);
    return value;
}

static void call_getppid(int times)
{
    for (int i = 0; i < times; i++)
        SAME(raw_syscall(SYS_getppid, 0, 0, 0), getppid());
}

static u64 symbol(const char *name)
{
    char line[512], found[256];
    unsigned long address;
    FILE *file = fopen("/proc/kallsyms", "r");
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "%lx %*c %255s", &address, found) == 2 && !strcmp(found, name)) {
            fclose(file);
            return address;
        }
    skip("no address of %s", name);
}

static int probe(const char *function, u64 offset, u64 config)
{
    struct perf_event_attr attr = { .config = config };
    attr.type = (u32)number_in("/sys/bus/event_source/devices/kprobe/type");
    attr.config1 = (u64)function;
    attr.config2 = offset;
    return perf(&attr, getpid(), -1);
}

static void check_probe(int event)
{
    for (u64 round = 1; round < 5; round++) {
        call_getppid(500);
        u64 calls = counted(event);
        /* Once by call_getppid, once by its comparison. */
        SAME(calls, 1000 * round);
    }
    MUST(close(event));
    call_getppid(10);
}

TEST(kernel, probe_at_a_function)
{
    int event = (int)MUST(probe("__x64_sys_getppid", 0, 0));
    check_probe(event);
}

TEST(kernel, probe_of_a_return)
{
    int event = (int)MUST(probe("__x64_sys_getppid", 0, 1));
    check_probe(event);
}

/* Behind the function's first instructions, where the kernel puts a breakpoint, or a jump. */
TEST(kernel, probe_inside_a_function)
{
    int events = 0;
    for (u64 offset = 5; offset < 24; offset++) {
        int event = probe("__x64_sys_getppid", offset, 0);
        if (event < 0)
            continue;
        struct timespec soon = { 0, 40000000 };
        call_getppid(100);
        SAME(counted(event), 200);
        nanosleep(&soon, NULL);     /* by now the kernel may have put a jump there instead */
        call_getppid(100);
        SAME(counted(event), 400);
        MUST(close(event));
        call_getppid(1);
        events++;
    }
    CHECK(events > 0);
}

static NOINLINE __attribute__((noclone)) u64 probed(u64 n)
{
    asm volatile("" : "+r"(n));
    return n * 3 + 1;
}

/* A probe in this program's own text: a breakpoint, and a step over the copied instruction. */
TEST(kernel, probe_in_a_program)
{
    struct perf_event_attr attr = { 0 };
    attr.type = (u32)number_in("/sys/bus/event_source/devices/uprobe/type");
    const Elf64_Phdr *segment = (const Elf64_Phdr *)getauxval(AT_PHDR);
    u64 place = (u64)probed;
    while (segment->p_type != PT_LOAD || place < segment->p_vaddr
           || place >= segment->p_vaddr + segment->p_memsz)
        segment++;
    char path[256] = "";
    MUST(readlink("/proc/self/exe", path, sizeof path - 1));
    attr.config1 = (u64)path;
    attr.config2 = place - segment->p_vaddr + segment->p_offset;
    SAME(probed(1), 4);
    int event = perf(&attr, getpid(), -1);
    if (event < 0)
        skip("no probe: %s", strerror(errno));
    for (u64 i = 0; i < 500; i++)
        SAME(probed(i), 3 * i + 1);
    SAME(counted(event), 500);
    MUST(close(event));
    for (u64 i = 0; i < 10; i++)
        SAME(probed(i), 3 * i + 1);
}

static int breakpoint(u32 kind, u64 address, u64 length, pid_t process, int cpu)
{
    struct perf_event_attr attr = { .type = PERF_TYPE_BREAKPOINT, .bp_type = kind,
                                    .bp_addr = address, .bp_len = length };
    return perf(&attr, process, cpu);
}

TEST(kernel, breakpoint_in_the_kernel)
{
    u64 address = symbol("__x64_sys_getppid");
    int event = breakpoint(HW_BREAKPOINT_X, address, sizeof(long), getpid(), -1);
    if (event < 0)
        skip("no breakpoint: %s", strerror(errno));
    check_probe(event);
}

/* A variable that the kernel's clock writes, in interrupts. */
TEST(kernel, watchpoint_in_the_kernel)
{
    struct timespec soon = { 0, 100000000 };
    int event = breakpoint(HW_BREAKPOINT_W, symbol("jiffies_64"), HW_BREAKPOINT_LEN_8, -1, 0);
    if (event < 0)
        skip("no watchpoint: %s", strerror(errno));
    u64 last = counted(event);
    for (int i = 0; i < 5; i++) {
        time_t start = time(NULL);
        while (counted(event) == last && time(NULL) < start + 10)
            nanosleep(&soon, NULL);
        CHECK(counted(event) > last);
        last = counted(event);
    }
    MUST(close(event));
}

/* The kernel's copies to a program's memory meet the program's own watchpoint. */
TEST(kernel, watchpoint_on_a_buffer)
{
    static char buffer[64] ALIGNED(64);
    int ends[2];
    MUST(pipe(ends));
    int event = breakpoint(HW_BREAKPOINT_W, (u64)buffer + 8, HW_BREAKPOINT_LEN_8, getpid(), -1);
    if (event < 0)
        skip("no watchpoint: %s", strerror(errno));
    for (u64 i = 1; i < 100; i++) {
        SAME(write(ends[1], "0123456789abcdef0123456789abcdef", 32), 32);
        SAME(read(ends[0], buffer, 32), 32);
        CHECK(counted(event) >= i);
        SAME(memcmp(buffer, "0123456789abcdef0123456789abcdef", 32), 0);
    }
    MUST(close(event));
}

static int put(const char *path, const char *text)
{
    int file = open(path, O_WRONLY);
    ssize_t written = file < 0 ? -1 : write(file, text, strlen(text));
    if (file >= 0)
        close(file);
    return written == (ssize_t)strlen(text);
}

/* A static key: branches in the scheduler turn into no-operations and back. */
TEST(kernel, branches_patched)
{
    static const char path[] = "/proc/sys/kernel/sched_schedstats";
    if (!put(path, "1"))
        skip("no %s", path);
    for (int i = 0; i < 40; i++) {
        CHECK(put(path, i % 2 ? "1" : "0"));
        SAME(in_child((void (*)(void))sync), 0);
    }
    CHECK(put(path, "0"));
}

/* The function tracer turns the calls at the start of all functions on and off again. */
TEST(kernel, function_tracer)
{
    static const char directory[] = "/tmp/tracing";
    char line[512];
    int found = 0;
    mkdir(directory, 0700);
    if (mount("tracefs", directory, "tracefs", 0, NULL))
        skip("no tracefs");
    if (!put("/tmp/tracing/set_ftrace_filter", "*getp*")
        || !put("/tmp/tracing/current_tracer", "function"))
        skip("no function tracer");
    for (int i = 0; i < 3; i++) {
        call_getppid(20);
        CHECK(put("/tmp/tracing/current_tracer", i % 2 ? "function" : "function_graph"));
    }
    call_getppid(20);
    FILE *file = fopen("/tmp/tracing/trace", "r");
    while (file && fgets(line, sizeof line, file))
        found += strstr(line, "getppid") != NULL;
    CHECK(put("/tmp/tracing/current_tracer", "nop"));
    CHECK(put("/tmp/tracing/set_ftrace_filter", "\n"));
    CHECK(found >= 20);
    call_getppid(20);
}

/* Filters that the kernel turns into code: each computes how much of a message passes. */
static u32 pass_length(u32 seed, struct sock_filter *code, u16 *length)
{
    u32 a = seed, x = seed % 7 + 2;
    u16 n = 0;
    code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_IMM, a);
    code[n++] = (struct sock_filter)BPF_STMT(BPF_LDX | BPF_IMM, x);
    for (u32 i = 0; i < 20; i++) {
        u32 k = (seed >> (i % 13)) + i + 1;
        switch ((seed + i) % 8) {
        case 0:
            code[n++] = (struct sock_filter)BPF_STMT(BPF_ALU | BPF_ADD | BPF_K, k);
            a += k;
            break;
        case 1:
            code[n++] = (struct sock_filter)BPF_STMT(BPF_ALU | BPF_MUL | BPF_X, 0);
            a *= x;
            break;
        case 2:
            code[n++] = (struct sock_filter)BPF_STMT(BPF_ALU | BPF_XOR | BPF_K, k);
            a ^= k;
            break;
        case 3:
            code[n++] = (struct sock_filter)BPF_STMT(BPF_ALU | BPF_RSH | BPF_K, k % 5);
            a >>= k % 5;
            break;
        case 4:
            code[n++] = (struct sock_filter)BPF_STMT(BPF_ALU | BPF_LSH | BPF_X, 0);
            a <<= x;
            break;
        case 5:
            code[n++] = (struct sock_filter)BPF_STMT(BPF_ALU | BPF_DIV | BPF_X, 0);
            a /= x;
            break;
        case 6:
            code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, k * 1000, 0, 1);
            code[n++] = (struct sock_filter)BPF_STMT(BPF_ALU | BPF_SUB | BPF_K, k);
            a = a > k * 1000 ? a - k : a;
            break;
        default:
            code[n++] = (struct sock_filter)BPF_STMT(BPF_ALU | BPF_NEG, 0);
            a = -a;
        }
    }
    code[n++] = (struct sock_filter)BPF_STMT(BPF_ALU | BPF_MOD | BPF_K, 1000);
    code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_A, 0);
    *length = n;
    return a % 1000;
}

TEST(kernel, filters_compiled)
{
    static u8 message[1000], got[1000];
    int ends[2];
    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, ends));
    for (u32 i = 0; i < 300; i++) {
        struct sock_filter code[64];
        struct sock_fprog program = { 0, code };
        u32 passing = pass_length(i * 2654435761u, code, &program.len);
        MUST(setsockopt(ends[1], SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program));
        ssize_t sent = send(ends[0], message, sizeof message, 0);
        if (!passing) {
            CHECK(sent == -1 && errno == EPERM);
            continue;
        }
        SAME(sent, sizeof message);
        SAME(recv(ends[1], got, sizeof got, 0), passing);
    }
}
