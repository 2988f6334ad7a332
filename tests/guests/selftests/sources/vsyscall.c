/* The page of old system calls at a fixed address, as the kernel's argument vsyscall= has it. */
#include "selftest.h"
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

#define AT 0xFFFFFFFFFF600000ul

/* The page's rights in /proc/self/maps, "" if there is none. */
static const char *rights(void)
{
    static char found[8];
    char line[256];
    FILE *file = fopen("/proc/self/maps", "r");
    found[0] = 0;
    while (file && fgets(line, sizeof line, file))
        if (strstr(line, "[vsyscall]"))
            sscanf(line, "%*s %7s", found);
    if (file)
        fclose(file);
    return found;
}

static int executable(void) { return rights()[0] && rights()[2] == 'x'; }

static void call(u64 address, u64 first, u64 second)
{
    void *code = CODE("call *%rax" AFTER "nop");
    struct registers c = at(code);
    c.r[RAX] = address;
    c.r[RDI] = first;
    c.r[RSI] = second;
    c.r[R12] = 0x1212;
    run(&c);
    SAME(caught.c.r[R12], 0x1212);
}

TEST(vsyscall, calls)
{
    if (!executable())
        skip("no vsyscall page");
    struct timeval before, between, after;
    time_t now = 0;
    raw_syscall(SYS_gettimeofday, (long)&before, 0, 0);
    call(AT, (u64)&between, 0);
    SAME(caught.number, SIGTRAP);
    SAME(caught.c.r[RAX], 0);
    raw_syscall(SYS_gettimeofday, (long)&after, 0, 0);
    CHECK(timercmp(&before, &between, <=) && timercmp(&between, &after, <=));
    /* time() counts the seconds of the last tick, which can lie behind gettimeofday. */
    struct timespec tick_before, tick_after;
    MUST(raw_syscall(SYS_clock_gettime, CLOCK_REALTIME_COARSE, (long)&tick_before, 0));
    call(AT + 0x400, (u64)&now, 0);
    SAME(caught.number, SIGTRAP);
    SAME(caught.c.r[RAX], (u64)now);
    MUST(raw_syscall(SYS_clock_gettime, CLOCK_REALTIME_COARSE, (long)&tick_after, 0));
    CHECK(now >= tick_before.tv_sec && now <= tick_after.tv_sec);
    u32 cpu = 99, node = 99;
    call(AT + 0x800, (u64)&cpu, (u64)&node);
    SAME(caught.number, SIGTRAP);
    SAME(caught.c.r[RAX], 0);
    unsigned known;
    MUST(raw_syscall(SYS_getcpu, (long)&known, 0, 0));
    SAME(cpu, known);
}

TEST(vsyscall, bad_pointer)
{
    if (!executable())
        skip("no vsyscall page");
    call(AT, 0x10, 0);
    SAME(caught.number, SIGSEGV);
    SAME(caught.c.rip, AT);
}

TEST(vsyscall, other_addresses)
{
    static const u64 places[] = { AT + 1, AT + 0x401, AT + 0xC00, AT + 0xFFF, AT - 1, AT + 0x1000 };
    for (size_t i = 0; i < COUNT(places); i++) {
        call(places[i], 0, 0);
        SAME(caught.number, SIGSEGV);
        SAME(caught.c.rip, places[i]);
        if (places[i] / PAGE != AT / PAGE)
            SAME(caught.trapno, V_PF);
    }
}

TEST(vsyscall, reading)
{
    void *code = CODE(MARK "mov (%rdi), %rax");
    struct registers c = at(code);
    c.r[RDI] = AT;
    run(&c);
    if (rights()[0] == 'r') {
        check_end("read", code);
    } else {
        check_pf("read", code_mark(code), PF_P | PF_U, AT);
    }
    void *store = CODE(MARK "mov %rax, (%rdi)");
    c.rip = (u64)store;
    run(&c);
    check_pf("write", code_mark(store), PF_P | PF_U | PF_W, AT);
}

TEST(vsyscall, none)
{
    if (rights()[0])
        skip("there is a vsyscall page");
    for (u64 entry = 0; entry < 3; entry++) {
        call(AT + 0x400 * entry, 0, 0);
        check_fault_at("call", AT + 0x400 * entry, SIGSEGV, V_PF, PF_P | PF_U | PF_I);
    }
}

static int stepped;

static int step(struct caught *c, ucontext_t *frame)
{
    (void)frame;
    if (c->trapno != V_DB)
        return 0;
    if (c->c.rip >= AT && c->c.rip < AT + PAGE)
        stepped++;
    return 1;
}

/* The call is emulated by the kernel; steps go on after it. */
TEST(vsyscall, stepped_over)
{
    if (!executable())
        skip("no vsyscall page");
    static u64 now;
    void *code = CODE("pushfq; orl $0x100, (%rsp); popfq; call *%rax; mov %rax, %rbx\n"
                      "pushfq; andl $~0x100, (%rsp); popfq; nop");
    struct registers c = at(code);
    c.r[RAX] = AT + 0x400;
    c.r[RDI] = (u64)&now;
    on_signal = step;
    run(&c);
    check_end("steps", code);
    SAME(stepped, 1);
    CHECK(now && caught.c.r[RBX] == now);
}
