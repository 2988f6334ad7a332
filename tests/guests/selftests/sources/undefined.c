/* Undefined and hidden instructions give SIGILL; what a program may ask the processor. */
#include "selftest.h"
#include <sys/prctl.h>
#include <sys/syscall.h>

static void check_undefined(const char *name, const void *code)
{
    run_code(code);
    check_fault(name, code, SIGILL, V_UD, 0);
    same(name, (u64)caught.code, ILL_ILLOPN);
    same(name, caught.address, code_mark(code));
}
#define UNDEFINED(bytes) check_undefined(bytes, CODE(MARK ".byte " bytes))

TEST(undefined, ud)
{
    check_undefined("ud2", CODE("nop; nop;" MARK "ud2"));
    UNDEFINED("0x0F, 0xB9, 0xC0");
    UNDEFINED("0x0F, 0xFF, 0xC0");
}

TEST(undefined, not_in_64_bit_code)
{
    UNDEFINED("0x06");
    UNDEFINED("0x0E");
    UNDEFINED("0x17");
    UNDEFINED("0x1F");
    UNDEFINED("0x27");
    UNDEFINED("0x2F");
    UNDEFINED("0x37");
    UNDEFINED("0x3F");
    UNDEFINED("0x60");
    UNDEFINED("0x61");
    UNDEFINED("0x82, 0xC0, 1");
    UNDEFINED("0x9A, 0, 0, 0, 0, 0, 0");
    UNDEFINED("0xCE");
    UNDEFINED("0xD4, 10");
    UNDEFINED("0xD5, 10");
    UNDEFINED("0xEA, 0, 0, 0, 0, 0, 0");
}

TEST(undefined, opcodes)
{
    UNDEFINED("0x0F, 0x04");
    UNDEFINED("0x0F, 0x0A");
    UNDEFINED("0x0F, 0x24, 0xC0");
    UNDEFINED("0x0F, 0xAA");
    UNDEFINED("0x8E, 0xC8");
    UNDEFINED("0x8C, 0xF0");
    UNDEFINED("0x8D, 0xC0");
    UNDEFINED("0xFF, 0xFF");
    UNDEFINED("0xFE, 0xD0");
    UNDEFINED("0x0F, 0x20, 0xC8");
}

TEST(undefined, lock)
{
    UNDEFINED("0xF0, 0x90");
    UNDEFINED("0xF0, 0x01, 0xC0");
    UNDEFINED("0xF0, 0x48, 0x89, 0x04, 0x24");
    UNDEFINED("0xF0, 0x03, 0x04, 0x24");
    UNDEFINED("0xF0, 0x0F, 0xA3, 0x04, 0x24");
    UNDEFINED("0xF0, 0x0F, 0xC7, 0xC9");
}

TEST(undefined, too_long)
{
    void *codes[] = { CODE(MARK ".fill 15, 1, 0x66; nop"), CODE(MARK ".fill 20, 1, 0x2E; nop") };
    for (size_t i = 0; i < COUNT(codes); i++) {
        run_code(codes[i]);
        check_fault("16 bytes", codes[i], SIGSEGV, V_GP, 0);
    }
    void *longest = CODE(".fill 14, 1, 0x66; nop");
    run_code(longest);
    check_end("15 bytes", longest);
}

/* What CPUID does not show is not there. */
TEST(undefined, not_offered)
{
    struct cpuid features = cpuid(1, 0), extended = cpuid(7, 0);
    if (!(extended.ebx >> 16 & 1))
        UNDEFINED("0x62, 0xF1, 0x7C, 0x48, 0x58, 0xC0");  /* AVX-512 */
    if (!(extended.ecx >> 4 & 1))
        UNDEFINED("0x0F, 0x01, 0xEE");                    /* RDPKRU without CR4.PKE */
    if (!(extended.ebx >> 11 & 1))
        UNDEFINED("0x0F, 0x01, 0xD6");                    /* XTEST */
    if (!(features.ecx >> 3 & 1))
        UNDEFINED("0x0F, 0x01, 0xC9");                    /* MWAIT */
    if (!has_avx())
        UNDEFINED("0xC5, 0xF8, 0x57, 0xC0");
}

TEST(undefined, cpuid_in_a_program)
{
    void *code = CODE("cpuid");
    struct registers c = at(code);
    c.r[RAX] = c.r[RCX] = c.r[RDX] = c.r[RBX] = 0xFFFFFFFF00000000;
    run(&c);
    check_end("cpuid", code);
    struct cpuid here = cpuid(0, 0);
    SAME(caught.c.r[RAX], here.eax);
    SAME(caught.c.r[RBX], here.ebx);
    SAME(caught.c.r[RCX], here.ecx);
    SAME(caught.c.r[RDX], here.edx);

    char vendor[13] = { 0 }, line[256], told[64] = "";
    memcpy(vendor, &here.ebx, 4);
    memcpy(vendor + 4, &here.edx, 4);
    memcpy(vendor + 8, &here.ecx, 4);
    FILE *file = fopen("/proc/cpuinfo", "r");
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "vendor_id : %63s", told) == 1)
            break;
    if (strcmp(vendor, told))
        fail("the vendor is %s, to the kernel %s", vendor, told);
}

TEST(undefined, xgetbv)
{
    if (!(cpuid(1, 0).ecx >> 27 & 1))
        skip("no XSAVE");
    void *code = CODE("xgetbv"), *beyond = CODE(MARK "xgetbv");
    run_code(code);
    check_end("xgetbv", code);
    SAME(caught.c.r[RAX] & ~(u64)cpuid(0xD, 0).eax, 0);
    CHECK((caught.c.r[RAX] & 3) == 3);
    struct registers c = at(beyond);
    c.r[RCX] = 17;
    run(&c);
    check_fault("xgetbv 17", beyond, SIGSEGV, V_GP, 0);
}

/* Where a program may read the descriptor tables at all, it learns nothing of the host's. */
TEST(undefined, descriptor_tables)
{
    void *code = CODE("sgdt (%rsp); sidt 16(%rsp); smsw %rax; str %ecx; sldt %edx");
    run_code(code);
    check_end("sgdt", code);
    CHECK(*(u64 *)(WORK_RSP + 2) >= 0xFFFF800000000000);
    CHECK(*(u64 *)(WORK_RSP + 18) >= 0xFFFF800000000000);
    SAME(caught.c.r[RAX] & 1, 1);
}

TEST(undefined, time_stamp_counter)
{
    void *code = CODE("rdtsc; shl $32, %rdx; or %rdx, %rax; mov %rax, %rbx; mov $100000, %edi\n"
                      "1: rdtsc; shl $32, %rdx; or %rdx, %rax; cmp %rbx, %rax; jb 2f\n"
                      "mov %rax, %rbx; dec %edi; jnz 1b; 2: rdtscp");
    run_code(code);
    check_end("rdtsc", code);
    SAME(caught.c.r[RDI], 0);
    unsigned cpu, node;
    MUST(raw_syscall(SYS_getcpu, (long)&cpu, (long)&node, 0));
    SAME(caught.c.r[RCX], cpu | node << 12);
    if (cpuid(7, 0).ecx >> 22 & 1) {
        void *identity = CODE("rdpid %rax");
        run_code(identity);
        check_end("rdpid", identity);
        SAME(caught.c.r[RAX], cpu | node << 12);
    }
}

TEST(undefined, time_stamp_counter_withheld)
{
    MUST(prctl(PR_SET_TSC, PR_TSC_SIGSEGV));
    void *codes[] = { CODE(MARK "rdtsc"), CODE(MARK "rdtscp") };
    for (size_t i = 0; i < COUNT(codes); i++) {
        run_code(codes[i]);
        check_fault("rdtsc", codes[i], SIGSEGV, V_GP, 0);
    }
    pid_t child = (pid_t)MUST(fork());
    if (!child) {
        prctl(PR_SET_TSC, PR_TSC_ENABLE);
        asm volatile("rdtsc" ::: "rax", "rdx");
        _exit(0);
    }
    join(child);
    run_code(codes[0]);
    check_fault("rdtsc again", codes[0], SIGSEGV, V_GP, 0);
    MUST(prctl(PR_SET_TSC, PR_TSC_ENABLE));
    run_code(codes[0]);
    check_end("rdtsc", codes[0]);
}
