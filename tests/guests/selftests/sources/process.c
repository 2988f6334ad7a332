/* Processes: fork, vfork and exec, and what of memory and registers they share or inherit. */
#include "selftest.h"
#include <elf.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/personality.h>
#include <sys/syscall.h>
#include <sys/uio.h>

static volatile u64 counter;

TEST(process, copy_on_write)
{
    enum { PAGES = 64 };
    u64 *p = pages(PAGES, PROT_READ | PROT_WRITE);
    for (u64 i = 0; i < PAGES; i++)
        p[i * 512] = i;
    for (u64 round = 0; round < 20; round++) {
        pid_t child = (pid_t)MUST(fork());
        if (!child) {
            for (u64 i = 0; i < PAGES; i++) {
                same("inherited", p[i * 512], i + round);
                p[i * 512] = ~i;
            }
            sched_yield();
            for (u64 i = 0; i < PAGES; i++)
                same("the child's own", p[i * 512], ~i);
            _exit(0);
        }
        if (round % 2)
            sched_yield();
        for (u64 i = 0; i < PAGES; i++) {
            same("the parent's own", p[i * 512], i + round);
            p[i * 512]++;
        }
        join(child);
    }
}

TEST(process, shared_memory)
{
    u64 *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(p != MAP_FAILED);
    pid_t children[4];
    for (int i = 0; i < 4; i++) {
        children[i] = (pid_t)MUST(fork());
        if (children[i])
            continue;
        for (int k = 0; k < 50000; k++)
            asm volatile("lock incq %0" : "+m"(*p));
        _exit(0);
    }
    for (int i = 0; i < 4; i++)
        join(children[i]);
    SAME(*p, 200000);
}

static NOINLINE __attribute__((noclone)) u64 fib(u64 n)
{
    return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

/* Processes that run the same text and libraries at the same addresses, on data of their own. */
TEST(process, shared_text)
{
    pid_t children[6];
    for (u64 i = 0; i < 6; i++) {
        children[i] = (pid_t)MUST(fork());
        if (children[i])
            continue;
        counter = i;
        for (int k = 0; k < 20; k++) {
            same("fib", fib(15 + i % 3), i % 3 == 0 ? 610 : i % 3 == 1 ? 987 : 1597);
            same("counter", counter, i);
            sched_yield();
        }
        _exit(0);
    }
    for (int i = 0; i < 6; i++)
        join(children[i]);
}

/* Other code at the same address in parent and child. */
TEST(process, own_code_at_one_address)
{
    u8 *p = page(PROT_READ | PROT_WRITE | PROT_EXEC);
    u8 code[] = { 0xB8, 0, 0, 0, 0, 0xC3 };
    pid_t children[4];
    for (u8 i = 0; i < 4; i++) {
        children[i] = (pid_t)MUST(fork());
        if (children[i])
            continue;
        code[1] = i;
        memcpy(p, code, sizeof code);
        for (int k = 0; k < 300; k++) {
            u64 got;
            asm volatile("call *%1" : "=a"(got) : "r"(p) : "memory", "rcx");
            same("the child's code", got, i);
            sched_yield();
        }
        _exit(0);
    }
    for (int i = 0; i < 4; i++)
        join(children[i]);
}

TEST(process, many)
{
    for (int i = 0; i < 100; i++) {
        pid_t child = (pid_t)MUST(fork());
        if (!child)
            _exit(i);
        SAME(status_of(child), i << 8);
    }
}

/* A fork in the middle of registers that only assembly sees. */
TEST(process, registers_after_fork)
{
    static u8 image[FP_SIZE] ALIGNED(64);
    void *code = CODE(FP_RESTORE "mov $57, %eax; syscall");
    struct registers c = at(code);
    fill_fp(image, 0x3C);
    for (int i = 0; i < 16; i++)
        if (i != RSP)
            c.r[i] = 0x1000100010001000ul * (u64)i;
    c.r[RDI] = (u64)image;
    c.r[RAX] = fp_mask();
    c.r[RDX] = 0;
    c.rflags |= F_CF | F_DF;
    run(&c);
    check_end("fork", code);
    for (int i = 0; i < 16; i++)
        if (i != RAX && i != RCX && i != R11)
            same("a register", caught.c.r[i], c.r[i]);
    SAME(caught.c.rflags, c.rflags);
    check_fp("fork", caught.fp, image);
    if (!caught.c.r[RAX])
        _exit(0);
    CHECK((long)caught.c.r[RAX] > 0);
    join((pid_t)caught.c.r[RAX]);
}

TEST(process, memory_of_another)
{
    u64 *p = page(PROT_READ | PROT_WRITE);
    int ends[2];
    MUST(pipe(ends));
    *p = 1;
    pid_t child = (pid_t)MUST(fork());
    if (!child) {
        char c;
        if (read(ends[0], &c, 1) != 1)
            fail("read");
        same("written by the parent", *p, 0x77);
        _exit(0);
    }
    u64 value = 0x77;
    struct iovec here = { &value, 8 }, there = { p, 8 };
    SAME(syscall(SYS_process_vm_writev, child, &here, 1ul, &there, 1ul, 0ul), 8);
    SAME(write(ends[1], "x", 1), 1);
    join(child);
    SAME(*p, 1);
}

/* --- exec: this program anew, in another mode */

/* Arguments and environment as `exec_self` gives them. */
static int check_arguments(int count, char **arguments)
{
    if (count != 103 || strcmp(arguments[2], "arguments"))
        return 3;
    for (int i = 3; i < count; i++)
        if (strlen(arguments[i]) != (size_t)i * 37 || arguments[i][0] != 'a' + i % 26)
            return 4;
    return getenv("ONE") && !strcmp(getenv("ONE"), "1") ? 0 : 5;
}

int exec_mode(int count, char **arguments)
{
    const char *mode = count > 2 ? arguments[2] : "";
    if (!strcmp(mode, "arguments"))
        return check_arguments(count, arguments);
    if (!strcmp(mode, "count")) {
        int left = atoi(arguments[3]);
        char next[16];
        snprintf(next, sizeof next, "%d", left - 1);
        if (!left)
            return 0;
        execl("/proc/self/exe", "selftests", "--exec", "count", next, NULL);
    }
    return 2;
}

TEST(process, arguments_of_exec)
{
    char *arguments[104] = { "selftests", "--exec", "arguments" }, *environment[] = { "ONE=1", NULL };
    for (int i = 3; i < 103; i++) {
        arguments[i] = malloc((size_t)i * 37 + 1);
        memset(arguments[i], 'a' + i % 26, (size_t)i * 37);
        arguments[i][i * 37] = 0;
    }
    for (int i = 0; i < 3; i++) {
        pid_t child = (pid_t)MUST(fork());
        if (!child) {
            execve("/proc/self/exe", arguments, environment);
            _exit(99);
        }
        SAME(status_of(child), 0);
    }
}

TEST(process, exec_again_and_again)
{
    pid_t child = (pid_t)MUST(fork());
    if (!child) {
        execl("/proc/self/exe", "selftests", "--exec", "count", "30", NULL);
        _exit(99);
    }
    SAME(status_of(child), 0);
}

/* VFORK: the parent sleeps, and the child writes in its memory. */
TEST(process, vfork_and_exec)
{
    for (u64 i = 0; i < 30; i++) {
        volatile u64 written = 0;
        pid_t child = vfork();
        if (!child) {
            written = i + 1;
            if (i % 2)
                execl("/proc/self/exe", "selftests", "--exec", "count", "0", NULL);
            _exit(0);
        }
        SAME(written, i + 1);
        SAME(status_of(child), 0);
    }
}

/* A program of a few bytes, made here, that tells by its status whether its registers are clear. */
struct image {
    Elf64_Ehdr header;
    Elf64_Phdr segment;
    u8 code[64];
};

TEST(process, registers_of_a_new_program)
{
    static const u8 code[] = {
        0x48, 0x09, 0xD8, 0x48, 0x09, 0xC8, 0x48, 0x09, 0xD0, 0x48, 0x09, 0xF0,  /* or rbx rcx rdx rsi */
        0x48, 0x09, 0xF8, 0x48, 0x09, 0xE8, 0x4C, 0x09, 0xC0, 0x4C, 0x09, 0xC8,  /* rdi rbp r8 r9 */
        0x4C, 0x09, 0xD0, 0x4C, 0x09, 0xD8, 0x4C, 0x09, 0xE0, 0x4C, 0x09, 0xE8,  /* r10 r11 r12 r13 */
        0x4C, 0x09, 0xF0, 0x4C, 0x09, 0xF8,                                      /* r14 r15 */
        0x0F, 0x95, 0xC0, 0x0F, 0xB6, 0xF8, 0xB8, 60, 0, 0, 0, 0x0F, 0x05,       /* exit(rax != 0) */
    };
    struct image image = {
        .header = { .e_type = ET_EXEC, .e_machine = EM_X86_64, .e_version = EV_CURRENT,
                    .e_phoff = offsetof(struct image, segment), .e_ehsize = sizeof(Elf64_Ehdr),
                    .e_entry = 0x10000000 + offsetof(struct image, code),
                    .e_phentsize = sizeof(Elf64_Phdr), .e_phnum = 1 },
        .segment = { .p_type = PT_LOAD, .p_flags = 4 | 1, .p_vaddr = 0x10000000,
                     .p_filesz = sizeof image, .p_memsz = sizeof image, .p_align = PAGE },
    };
    memcpy(image.header.e_ident, ELFMAG "\2\1\1", 7);
    memcpy(image.code, code, sizeof code);
    int file = (int)MUST(raw_syscall(SYS_memfd_create, (long)"program", 0, 0));
    SAME(write(file, &image, sizeof image), sizeof image);
    for (int i = 0; i < 20; i++) {
        pid_t child = (pid_t)MUST(fork());
        if (!child) {
            char *arguments[] = { "program", NULL };
            fexecve(file, arguments, arguments + 1);
            _exit(99);
        }
        SAME(status_of(child), 0);
    }
}

TEST(process, not_a_program)
{
    int file = (int)MUST(open("/tmp/selftest-program", O_WRONLY | O_CREAT | O_TRUNC, 0700));
    SAME(write(file, "\x7f" "ELF nothing", 12), 12);
    MUST(close(file));
    SAME(execl("/tmp/selftest-program", "program", NULL), -1);
    SAME(errno, ENOEXEC);
    MUST(unlink("/tmp/selftest-program"));
}

/* Deep recursion in a child that shares nothing, and a stack that grows downwards for it. */
static NOINLINE u64 deep(u64 n)
{
    volatile u64 room[64];
    room[n % 64] = n;
    return n ? deep(n - 1) + room[n % 64] : 0;
}

static void recurse(void)
{
    same("sum", deep(10000), 10000ul * 10001 / 2);
}

TEST(process, growing_stack)
{
    for (int i = 0; i < 5; i++)
        SAME(in_child(recurse), 0);
}
