/* System calls as the processor performs them: SYSCALL and SYSRET, and INT 80h. */
#include "selftest.h"
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>

static u8 image[FP_SIZE] ALIGNED(64);

static struct registers with_patterns(const void *code)
{
    struct registers c = at(code);
    for (int i = 0; i < 16; i++)
        if (i != RSP)
            c.r[i] = 0xA5A5000000000000ul + 0x111 * (u64)i;
    return c;
}

/* All but RAX, RCX and R11 are kept, and these have the result, RIP and the flags. */
TEST(syscalls, registers_kept)
{
    void *code = CODE("syscall" AFTER "nop");
    for (u64 bits = 0; bits < 16; bits++) {
        struct registers c = with_patterns(code);
        c.r[RAX] = SYS_getpid;
        c.rflags |= (bits & 1) * F_CF | (bits >> 1 & 1) * F_DF | (bits >> 2 & 1) * (F_OF | F_ZF)
            | (bits >> 3 & 1) * (F_AF | F_SF | F_PF | F_ID);
        run(&c);
        check_end("getpid", code);
        SAME(caught.c.rflags, c.rflags);
        SAME(caught.c.r[R11], c.rflags);
        SAME(caught.c.r[RCX], code_after(code));
        SAME(caught.c.r[RAX], getpid());
        for (int i = 0; i < 16; i++)
            if (i != RAX && i != RCX && i != R11)
                same("a register", caught.c.r[i], c.r[i]);
        SAME(caught.cs, USER_CS);
        SAME(caught.ss, USER_SS);
    }
}

TEST(syscalls, vector_state_kept)
{
    void *code = CODE(FP_RESTORE "mov $39, %eax; syscall");
    for (int i = 0; i < 200; i++) {
        fill_fp(image, (u8)i);
        struct registers c = at(code);
        c.r[RDI] = (u64)image;
        c.r[RAX] = fp_mask();
        run(&c);
        check_end("getpid", code);
        check_fp("after", caught.fp, image);
    }
}

TEST(syscalls, number)
{
    void *code = CODE("syscall");
    static const struct { u64 rax; long result; } cases[] = {
        { 0xFFFFFFFF00000000ul + SYS_getuid, 0 },       /* only EAX counts */
        { 0x1234567800000000ul + SYS_getuid, 0 },
        { ~0ul, -ENOSYS }, { 0x7FFFFFFF, -ENOSYS }, { 0x80000000, -ENOSYS },
        { 0x40000000ul + SYS_getuid, -ENOSYS },         /* no x32 */
        { 0x10000, -ENOSYS }, { 0x1FFFFFFFF, -ENOSYS },
    };
    if (getuid())
        skip("not root");
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct registers c = at(code);
        c.r[RAX] = cases[i].rax;
        run(&c);
        check_end("syscall", code);
        SAME(caught.c.r[RAX], cases[i].result);
    }
}

/* All six arguments reach the kernel with all their bits: seccomp's signal shows them. */
TEST(syscalls, six_arguments)
{
    struct sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x3FF, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = { COUNT(program), program };
    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter));
    void *code = CODE("syscall" AFTER "nop");
    struct registers c = with_patterns(code);
    c.r[RAX] = 0x3FF;
    run(&c);
    SAME(caught.number, SIGSYS);
    SAME(caught.c.rip, code_after(code));
    SAME(caught.address, code_after(code));
    for (int i = 0; i < 16; i++)
        if (i != RCX && i != R11)
            same("a register", caught.c.r[i], c.r[i]);
}

TEST(syscalls, mmap_with_six_arguments)
{
    int file = (int)MUST(raw_syscall(SYS_memfd_create, (long)"file", 0, 0));
    u64 far = 0x100000000000;
    MUST(ftruncate(file, (off_t)far + 2 * (off_t)PAGE));
    SAME(pwrite(file, "far away", 8, (off_t)far + (off_t)PAGE), 8);
    u8 *hint = page(PROT_NONE);
    u8 *p = mmap(hint, PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, file, (off_t)far + (off_t)PAGE);
    SAME((u64)p, (u64)hint);
    SAME(memcmp(p, "far away", 8), 0);
}

TEST(syscalls, bad_pointers)
{
    struct timespec t;
    static const u64 wrong[] = { 8, KERNEL_ADDRESS, NON_CANONICAL, 0x7FFFFFFFF000, ~0ul,
                                 0x8000000000000000, 0x7FFFFFFFEFFF + 0x1000000000000 };
    for (size_t i = 0; i < COUNT(wrong); i++) {
        SAME(raw_syscall(SYS_uname, (long)wrong[i], 0, 0), -EFAULT);
        SAME(raw_syscall(SYS_open, (long)wrong[i], 0, 0), -EFAULT);
        SAME(raw_syscall(SYS_rt_sigprocmask, SIG_BLOCK, (long)wrong[i], 0), -EINVAL);
        SAME(raw_syscall(SYS_nanosleep, (long)wrong[i], (long)&t, 0), -EFAULT);
    }
    /* Copies that run into an absent page are told how far they came. */
    u8 *p = pages(2, PROT_READ | PROT_WRITE);
    int ends[2];
    MUST(pipe(ends));
    memset(p, 'a', PAGE);
    MUST(mprotect(p + PAGE, PAGE, PROT_NONE));
    int file = (int)MUST(raw_syscall(SYS_memfd_create, (long)"file", 0, 0));
    SAME(raw_syscall(SYS_write, file, (long)p + 4000, 500), 96);
    MUST(mprotect(p, PAGE, PROT_READ));
    SAME(write(ends[1], "x", 1), 1);
    SAME(raw_syscall(SYS_read, ends[0], (long)p, 10), -EFAULT);
    struct iovec parts[] = { { p, 10 }, { p + PAGE, 10 } };
    SAME(raw_syscall(SYS_writev, file, (long)parts, 2), 10);
}

/* Clocks by the shared page and by system calls agree. */
TEST(syscalls, clocks)
{
    static const clockid_t clocks[] = { CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME };
    for (size_t i = 0; i < COUNT(clocks); i++)
        for (int turn = 0; turn < 2000; turn++) {
            struct timespec t[3];
            raw_syscall(SYS_clock_gettime, clocks[i], (long)&t[0], 0);
            clock_gettime(clocks[i], &t[1]);
            raw_syscall(SYS_clock_gettime, clocks[i], (long)&t[2], 0);
            for (int k = 0; k < 2; k++)
                if (t[k].tv_sec > t[k + 1].tv_sec
                    || (t[k].tv_sec == t[k + 1].tv_sec && t[k].tv_nsec > t[k + 1].tv_nsec))
                    fail("clock %d went back in turn %d, reading %d", clocks[i], turn, k);
        }
}

/* INT 80h from 64-bit code: 32-bit numbers, and arguments cut to 32 bits. */
TEST(syscalls, int80)
{
    void *code = CODE("int $0x80");
    struct registers c = with_patterns(code);
    c.r[RAX] = 20;                                      /* getpid */
    run(&c);
    if (caught.number == SIGSEGV)
        skip("the kernel has no INT 80h");
    check_end("getpid", code);
    SAME(caught.c.r[RAX], getpid());
    for (int i = RCX; i < 16; i++)
        same("a register", caught.c.r[i], c.r[i]);
    int ends[2];
    MUST(pipe(ends));
    static u8 low[] = "low", *high;
    high = page(PROT_READ | PROT_WRITE);
    c = at(code);
    c.r[RAX] = 0xFFFFFFFF00000004;                      /* write */
    c.r[RBX] = 0xFFFFFFFF00000000 + (u64)ends[1];
    c.r[RCX] = 0xABCD000000000000 + (u64)low;           /* static data are below 4 GiB */
    c.r[RDX] = 0x100000003;
    run(&c);
    check_end("write", code);
    SAME(caught.c.r[RAX], 3);
    char got[4] = "";
    SAME(read(ends[0], got, 3), 3);
    SAME(strcmp(got, "low"), 0);
    c.r[RAX] = 4;
    c.r[RCX] = (u64)high;
    c.r[RDX] = 1;
    run(&c);
    check_end("write", code);
    SAME((int)caught.c.r[RAX], -EFAULT);
    c = at(code);
    c.r[RAX] = 9999;
    run(&c);
    SAME((int)caught.c.r[RAX], -ENOSYS);
}

/* Two hundred thousand calls, some of which sleep or fail, between accesses to memory. */
TEST(syscalls, many)
{
    u64 sum = 0, pid = (u64)getpid();
    for (u64 i = 0; i < 100000; i++) {
        sum += (u64)raw_syscall(SYS_getpid, 0, 0, 0);
        if (i % 1000 == 0)
            SAME(raw_syscall(SYS_close, -1, 0, 0), -EBADF);
    }
    SAME(sum, 100000 * pid);
}
