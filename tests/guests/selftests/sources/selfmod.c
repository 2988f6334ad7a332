/* Code that changes: by its own stores, through other mappings, by the kernel. */
#include "selftest.h"
#include <fcntl.h>
#include <sys/syscall.h>

static u8 *code_page(void)
{
    return page(PROT_READ | PROT_WRITE | PROT_EXEC);
}

static u8 *put(u8 *p, u32 value)
{
    *p++ = 0xB8;                    /* mov $value, %eax */
    memcpy(p, &value, 4);
    p[4] = 0xCC;
    return p + 5;
}

static void check_code(const u8 *p, u32 value)
{
    run_bytes(p);
    SAME(caught.number, SIGTRAP);
    SAME(caught.c.r[RAX], value);
}

TEST(selfmod, written_in_place)
{
    u8 *p = code_page();
    for (u32 i = 0; i < 3000; i++) {
        put(p, i);
        check_code(p, i);
    }
}

/* Data beside code in one page: stores to the one leave the other as it is. */
TEST(selfmod, data_in_the_page)
{
    u8 *p = code_page();
    volatile u64 *data = (u64 *)(p + 1024);
    put(p, 42);
    for (u64 i = 0; i < 3000; i++) {
        *data = i;
        check_code(p, 42);
        SAME(*data, i);
    }
}

/* Two mappings of one page: one to write, one to execute. */
TEST(selfmod, two_mappings)
{
    int file = (int)MUST(raw_syscall(SYS_memfd_create, (long)"code", 0, 0));
    MUST(ftruncate(file, 2 * PAGE));
    u8 *w = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    u8 *x = mmap(NULL, 2 * PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, file, 0);
    CHECK(w != MAP_FAILED && x != MAP_FAILED);
    for (u32 i = 0; i < 1000; i++) {
        u64 offset = i % 3 ? 64 : PAGE - 3;     /* and across the two pages */
        put(w + offset, i);
        check_code(x + offset, i);
    }
    MUST(close(file));
}

/* The same from another process. */
TEST(selfmod, by_another_process)
{
    u8 *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(p != MAP_FAILED);
    for (u32 i = 0; i < 20; i++) {
        put(p, i);
        check_code(p, i);
        pid_t child = (pid_t)MUST(fork());
        if (!child) {
            put(p, 1000 + i);
            _exit(0);
        }
        join(child);
        check_code(p, 1000 + i);
    }
}

/* A store to the instruction that comes next, in a loop. */
TEST(selfmod, next_instruction)
{
    u8 *p = code_page();
    /* 1: movb %cl, 2f+1(%rip); 2: mov $0, %al; movzbl %al, %eax; add %eax, %ebx; dec %ecx; jnz 1b */
    static const u8 loop[] = {
        0x88, 0x0D, 1, 0, 0, 0, 0xB0, 0, 0x0F, 0xB6, 0xC0, 0x01, 0xC3, 0xFF, 0xC9, 0x75, 0xEF, 0xCC,
    };
    memcpy(p, loop, sizeof loop);
    struct registers c = at(p);
    c.r[RCX] = 200;
    run(&c);
    SAME(caught.number, SIGTRAP);
    SAME(caught.c.r[RBX], 200 * 201 / 2);
}

/* A string store over the code after it. */
TEST(selfmod, string_store)
{
    u8 *p = code_page();
    /* rep stosb; then ud2s that become nops */
    static const u8 store[] = { 0xF3, 0xAA };
    memcpy(p, store, sizeof store);
    for (int i = 0; i < 100; i++) {
        for (int k = 0; k < 16; k++) {
            p[2 + 2 * k] = 0x0F;
            p[3 + 2 * k] = 0x0B;
        }
        p[34] = 0xCC;
        struct registers c = at(p);
        c.r[RAX] = 0x90;
        c.r[RDI] = (u64)p + 2;
        c.r[RCX] = 32;
        run(&c);
        SAME(caught.number, SIGTRAP);
        SAME(caught.c.rip, (u64)p + 35);
    }
}

/* The kernel writes the code: by read(), and by force through /proc/self/mem. */
TEST(selfmod, by_the_kernel)
{
    u8 *p = code_page(), buffer[16];
    int ends[2];
    MUST(pipe(ends));
    for (u32 i = 0; i < 300; i++) {
        put(buffer, i);
        SAME(write(ends[1], buffer, 6), 6);
        SAME(read(ends[0], p, 6), 6);
        check_code(p, i);
    }
    int memory = (int)MUST(open("/proc/self/mem", O_RDWR));
    MUST(mprotect(p, PAGE, PROT_READ | PROT_EXEC));
    for (u32 i = 0; i < 300; i++) {
        put(buffer, ~i);
        SAME(pwrite(memory, buffer, 6, (off_t)(u64)p), 6);
        check_code(p, ~i);
    }
}

/* The program's own text, which is a private mapping of a file: a write makes a copy. */
static NOINLINE __attribute__((noclone)) int answer(void)
{
    asm volatile("");
    return 42;
}

TEST(selfmod, own_text)
{
    int memory = (int)MUST(open("/proc/self/mem", O_RDWR));
    u8 before[16], changed[16] = { 0xB8, 43, 0, 0, 0, 0xC3 };
    int (*volatile call)(void) = answer;
    memcpy(before, (void *)answer, sizeof before);
    for (int i = 0; i < 50; i++) {
        SAME(call(), 42);
        SAME(pwrite(memory, changed, 6, (off_t)(u64)answer), 6);
        SAME(call(), 43);
        pid_t child = (pid_t)MUST(fork());
        if (!child) {
            SAME(call(), 43);
            changed[1] = 44;
            SAME(pwrite(memory, changed, 6, (off_t)(u64)answer), 6);
            /* This descriptor is of the parent's memory. */
            SAME(call(), 43);
            _exit(0);
        }
        join(child);
        SAME(call(), 44);
        SAME(pwrite(memory, before, 16, (off_t)(u64)answer), 16);
    }
}

/* Parent and child run one page of code; each then has its own. */
TEST(selfmod, private_after_fork)
{
    u8 *p = code_page();
    for (u32 i = 0; i < 30; i++) {
        put(p, i);
        check_code(p, i);
        pid_t child = (pid_t)MUST(fork());
        if (!child) {
            check_code(p, i);
            put(p, i + 1000);
            check_code(p, i + 1000);
            _exit(0);
        }
        if (i % 2)
            put(p, i + 500);
        check_code(p, i % 2 ? i + 500 : i);
        join(child);
        check_code(p, i % 2 ? i + 500 : i);
    }
}

/* Many small functions made, called and made anew, each filling several pages. */
TEST(selfmod, many_pages)
{
    enum { PAGES = 64 };
    u8 *p = pages(PAGES, PROT_READ | PROT_WRITE | PROT_EXEC);
    for (u32 round = 0; round < 4; round++) {
        for (u32 i = 0; i < PAGES * 16; i++)
            put(p + i * (PAGE / 16), round * 10000 + i);
        for (u32 i = 0; i < PAGES * 16; i++) {
            int got;
            u8 *f = p + i * (PAGE / 16);
            f[5] = 0xC3;
            asm volatile("call *%1" : "=a"(got) : "r"(f) : "memory", "rcx");
            SAME(got, round * 10000 + i);
        }
    }
}
