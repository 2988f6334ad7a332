/* Selectors in a program's hands: what LAR, LSL and VERR tell, loads, far transfers, the LDT.
   32-bit code segments are left out: Ringlet does not run any yet. */
#include "selftest.h"
#include <asm/ldt.h>
#include <sys/syscall.h>

enum { CPU_NODE = 0x7B, KERNEL_CS = 0x10, KERNEL_SS = 0x18 };

static void query(u64 selector)
{
    void *code = CODE("lar %ecx, %eax; setz %r8b; lsl %ecx, %edx; setz %r9b; verr %cx; setz %r10b\n"
                      "verw %cx; setz %r11b");
    struct registers c = at(code);
    c.r[RCX] = selector;
    c.r[RAX] = c.r[RDX] = 0x5555;
    run(&c);
    check_end("queries", code);
}

static void check_nothing(u64 selector)
{
    query(selector);
    SAME(caught.c.r[RAX], 0x5555);
    SAME(caught.c.r[RDX], 0x5555);
    SAME(caught.c.r[R8] | caught.c.r[R9] | caught.c.r[R10] | caught.c.r[R11], 0);
}

TEST(segments, queries)
{
    query(USER_CS);
    SAME(caught.c.r[RAX] & 0xF0FE00, 0xA0FA00);         /* G L, present, DPL 3, code, readable */
    SAME(caught.c.r[RDX], 0xFFFFFFFF);
    SAME(caught.c.r[R10], 1);
    SAME(caught.c.r[R11], 0);
    query(USER_SS);
    SAME(caught.c.r[RAX] & 0xF0FE00, 0xC0F200);         /* G B, present, DPL 3, data, writable */
    SAME(caught.c.r[R10], 1);
    SAME(caught.c.r[R11], 1);
    check_nothing(0);
    check_nothing(3);
    check_nothing(KERNEL_CS);
    check_nothing(KERNEL_SS | 3);
    check_nothing(0x40);                                /* the TSS, of DPL 0 */
    check_nothing(0xFFF8);
    check_nothing(0xFFFC);
}

/* Linux keeps the processor's number in a limit. */
TEST(segments, number_of_the_processor)
{
    unsigned cpu, node;
    MUST(raw_syscall(SYS_getcpu, (long)&cpu, (long)&node, 0));
    query(CPU_NODE);
    SAME(caught.c.r[R9], 1);
    SAME(caught.c.r[RDX], node << 12 | cpu);
}

TEST(segments, stored)
{
    void *code = CODE("mov %cs, %eax; mov %ss, %ecx; mov %ds, %edx; mov %es, %ebx; mov %fs, %esi\n"
                      "mov %cs, (%rsp); push %fs; pop %r8; push %gs; pop %r9");
    struct registers c = at(code);
    for (int i = 0; i < 16; i++)
        if (i != RSP)
            c.r[i] = ~0ul;
    run(&c);
    check_end("mov", code);
    SAME(caught.c.r[RAX], USER_CS);
    SAME(caught.c.r[RCX], USER_SS);
    SAME(caught.c.r[RDX], 0);
    SAME(caught.c.r[RBX], 0);
    SAME(caught.c.r[RSI], 0);
    SAME(caught.c.r[R8], 0);
    SAME(caught.c.r[R9], 0);
}

static void load(const char *name, void *code, u64 selector, u64 error)
{
    struct registers c = at(code);
    c.r[RCX] = selector;
    run(&c);
    if (error != ~0ul)
        check_fault(name, code, SIGSEGV, V_GP, error);
    else
        check_end(name, code);
}

TEST(segments, loads)
{
    void *codes[] = {
        CODE(MARK "mov %ecx, %ds; xor %ecx, %ecx; mov %ecx, %ds"),
        CODE(MARK "mov %ecx, %es; xor %ecx, %ecx; mov %ecx, %es"),
        CODE(MARK "mov %ecx, %gs; xor %ecx, %ecx; mov %ecx, %gs"),
        CODE("push %rcx;" MARK "pop %gs; pushq $0; pop %gs"),
        CODE("movl $0, (%rsp); mov %cx, 4(%rsp);" MARK "lgs (%rsp), %eax; xor %ecx, %ecx; mov %ecx, %gs"),
    };
    for (size_t i = 0; i < COUNT(codes); i++) {
        load("null", codes[i], 0, ~0ul);
        load("null 3", codes[i], 3, ~0ul);
        load("data", codes[i], USER_SS, ~0ul);
        load("code", codes[i], USER_CS, ~0ul);
        load("kernel", codes[i], KERNEL_SS, KERNEL_SS);
        load("kernel 3", codes[i], KERNEL_SS | 3, KERNEL_SS);
        load("tss", codes[i], 0x43, 0x40);
        load("beyond", codes[i], 0x87, 0x84);
        load("far beyond", codes[i], 0xFFFF, 0xFFFC);
    }
    void *ss = CODE(MARK "mov %ecx, %ss");
    load("ss", ss, USER_SS, ~0ul);
    load("null ss", ss, 0, 0);
    load("null ss", ss, 3, 0);
    load("code as ss", ss, USER_CS, USER_CS & ~3);
    load("rpl", ss, USER_SS & ~3, USER_SS & ~3);
    load("kernel ss", ss, KERNEL_SS | 3, KERNEL_SS);
}

TEST(segments, far_transfers)
{
    void *ret = CODE("mov %rsp, %rbx; push %rcx; lea 1f(%rip), %rax; push %rax;" MARK "lretq; ud2; 1: nop");
    load("lret", ret, USER_CS, ~0ul);
    SAME(caught.c.r[RSP], WORK_RSP);
    load("lret", ret, KERNEL_CS, KERNEL_CS);
    load("lret", ret, 0, 0);
    load("lret to data", ret, USER_SS, USER_SS & ~3);
    void *jump = CODE("lea 1f(%rip), %rax; mov %eax, (%rsp); mov %cx, 4(%rsp);"
                      MARK "ljmp *(%rsp); ud2; 1: nop");
    load("ljmp", jump, USER_CS, ~0ul);
    load("ljmp", jump, KERNEL_CS, KERNEL_CS);
    load("ljmp", jump, 3, 0);
    void *iret = CODE("mov %rsp, %rbx; pushq $0x2B; push %rbx; pushq $0x202; push %rcx;"
                      "lea 1f(%rip), %rax; push %rax;" MARK "iretq; ud2; 1: nop");
    load("iret", iret, USER_CS, ~0ul);
    SAME(caught.c.r[RSP], WORK_RSP);
    load("iret", iret, KERNEL_CS, KERNEL_CS);
    load("iret", iret, 0, 0);
}

/* --- the LDT */

static u16 ldt_selector(unsigned entry) { return (u16)(entry << 3 | 7); }

static long write_ldt(struct user_desc *entry)
{
    return syscall(SYS_modify_ldt, 0x11, entry, sizeof *entry);
}

static void need_ldt(void)
{
    struct user_desc none = { .read_exec_only = 1, .seg_not_present = 1 };
    if (write_ldt(&none) == -1 && errno == ENOSYS)
        skip("no modify_ldt");
}

TEST(segments, ldt)
{
    need_ldt();
    static u64 value = 0x1122334455667788;             /* static data are below 4 GiB */
    struct user_desc entry = { .entry_number = 3, .base_addr = (u32)(u64)&value - 16,
                               .limit = 0xFFF, .seg_32bit = 1, .useable = 1 };
    SAME(write_ldt(&entry), 0);
    query(ldt_selector(3));
    SAME(caught.c.r[RAX] & 0xFE00, 0xF200);
    SAME(caught.c.r[RDX], 0xFFF);
    SAME(caught.c.r[R11], 1);
    void *code = CODE(MARK "mov %ecx, %gs; mov %gs:16, %rax; mov $0, %ecx; mov %ecx, %gs");
    for (int i = 0; i < 3; i++) {
        load("entry", code, ldt_selector(3), ~0ul);
        SAME(caught.c.r[RAX], value);
        raw_syscall(SYS_sched_yield, 0, 0, 0);
    }
    entry.read_exec_only = 1;
    entry.limit_in_pages = 1;
    SAME(write_ldt(&entry), 0);
    query(ldt_selector(3));
    SAME(caught.c.r[RDX], 0xFFFFFF);
    SAME(caught.c.r[R10], 1);
    SAME(caught.c.r[R11], 0);
    entry.seg_not_present = 1;
    SAME(write_ldt(&entry), 0);
    struct registers c = at(code);
    c.r[RCX] = ldt_selector(3);
    run(&c);
    check_fault("not present", code, SIGBUS, V_NP, ldt_selector(3) & ~3u);
    struct user_desc none = { .entry_number = 3, .read_exec_only = 1, .seg_not_present = 1 };
    SAME(write_ldt(&none), 0);
    check_nothing(ldt_selector(3));
    load("gone", code, ldt_selector(3), ldt_selector(3) & ~3u);
    load("beyond", code, ldt_selector(100), ldt_selector(100) & ~3u);
}

TEST(segments, ldt_of_a_child)
{
    need_ldt();
    static u64 value = 77;
    struct user_desc entry = { .entry_number = 0, .base_addr = (u32)(u64)&value, .limit = 7,
                               .seg_32bit = 1, .useable = 1 };
    SAME(write_ldt(&entry), 0);
    void *code = CODE(MARK "mov %ecx, %gs; mov %gs:0, %rax; mov $0, %ecx; mov %ecx, %gs");
    pid_t child = (pid_t)MUST(fork());
    if (!child) {
        load("inherited", code, ldt_selector(0), ~0ul);
        SAME(caught.c.r[RAX], 77);
        struct user_desc none = { .read_exec_only = 1, .seg_not_present = 1 };
        SAME(write_ldt(&none), 0);
        load("gone", code, ldt_selector(0), ldt_selector(0) & ~3u);
        _exit(0);
    }
    join(child);
    load("kept", code, ldt_selector(0), ~0ul);
    SAME(caught.c.r[RAX], 77);
}

/* A limit means nothing in 64-bit code, nor does the base of DS. */
TEST(segments, no_limits)
{
    need_ldt();
    static u64 value = 99;
    struct user_desc entry = { .entry_number = 1, .base_addr = 0x1000, .limit = 0, .seg_32bit = 1,
                               .useable = 1 };
    SAME(write_ldt(&entry), 0);
    void *code = CODE("mov %ecx, %ds; mov %ecx, %es; mov (%rdi), %rax; mov $0, %ecx; mov %ecx, %ds\n"
                      "mov %ecx, %es");
    struct registers c = at(code);
    c.r[RCX] = ldt_selector(1);
    c.r[RDI] = (u64)&value;
    run(&c);
    check_end("ds", code);
    SAME(caught.c.r[RAX], 99);
    entry.base_addr = (u32)(u64)&value - 0x2000;
    SAME(write_ldt(&entry), 0);
    void *beyond = CODE("mov %ecx, %gs; mov %gs:0x2000, %rax; mov $0, %ecx; mov %ecx, %gs");
    c = at(beyond);
    c.r[RCX] = ldt_selector(1);
    run(&c);
    check_end("gs", beyond);
    SAME(caught.c.r[RAX], 99);
}
