/* #DB: single steps, breakpoints by DR0-DR3, general detect, DR6, DR7 and RF (SDM 3B ch. 17). */
#include "guest.h"

enum { B0 = 1, B1 = 2, B2 = 4, B3 = 8, BD = 1 << 13, BS = 1 << 14, GD = 1 << 13 };
enum { EXECUTE, WRITE, IO, ACCESS };
#define DR6_FIXED 0xFFFF0FF0ul
#define DR7_FIXED 0x400ul

static inline u64 read_dr6(void) { u64 v; asm volatile("mov %%db6, %0" : "=r"(v)); return v; }
static inline u64 read_dr7(void) { u64 v; asm volatile("mov %%db7, %0" : "=r"(v)); return v; }
static inline void write_dr6(u64 v) { asm volatile("mov %0, %%db6" :: "r"(v)); }
static inline void write_dr7(u64 v) { asm volatile("mov %0, %%db7" :: "r"(v)); }

static void set_breakpoint(int n, u64 linear, int kind, int length)
{
    switch (n) {
    case 0: asm volatile("mov %0, %%db0" :: "r"(linear)); break;
    case 1: asm volatile("mov %0, %%db1" :: "r"(linear)); break;
    case 2: asm volatile("mov %0, %%db2" :: "r"(linear)); break;
    default: asm volatile("mov %0, %%db3" :: "r"(linear));
    }
    u64 code = (u64)kind | (length == 8 ? 2 : (u64)length - 1) << 2;
    write_dr7((read_dr7() & ~(0xFul << (16 + 4 * n))) | 2ul << (2 * n) | code << (16 + 4 * n));
}

static void clear_breakpoints(void)
{
    u64 none = 0;   /* a matching address may show in DR6 even if DR7 does not enable it */
    write_dr7(DR7_FIXED);
    asm volatile("mov %0, %%db0; mov %0, %%db1; mov %0, %%db2; mov %0, %%db3" :: "r"(none));
    write_dr6(DR6_FIXED);
}

/* --- single steps: the hook writes down where each one stopped */

enum { STEPS = 32 };
static u64 steps[STEPS], step_dr6[STEPS], step_flags[STEPS];
static u32 step_count, step_limit;

static int step_hook(struct trap *t)
{
    if (t->vector != V_DB || step_count == step_limit)
        return 0;
    steps[step_count] = t->c.rip;
    step_flags[step_count] = t->c.rflags;
    step_dr6[step_count++] = read_dr6();
    write_dr6(DR6_FIXED);
    return 1;
}

static void step(int cpl, void *code, struct cpu *given)
{
    struct cpu c = given ? *given : at_cpl(cpl, code);
    c.rflags |= F_TF;
    step_count = 0;
    step_limit = STEPS;
    trap_hook = step_hook;
    run(&c);
    trap_hook = 0;
}

/* Steps stop at these offsets from the code's start. */
static void step_check(const char *name, int cpl, void *code, const u8 *offsets, u32 count)
{
    for (u32 i = 0; i < count; i++)
        if (i >= step_count || steps[i] != (u64)code + offsets[i]) {
            check_failed(at(name, cpl), "got step %u of %u at +0x%lx want +0x%x", i, step_count,
                         i < step_count ? steps[i] - (u64)code : 0, (u32)offsets[i]);
            return;
        }
    CHECK(at(name, cpl), step_count, count);
    for (u32 i = 0; i < count; i++)
        if (step_dr6[i] != (DR6_FIXED | BS)) {
            CHECK(at(with(name, "dr6"), cpl), step_dr6[i], DR6_FIXED | BS);
            return;
        }
}
#define STEP(name, cpl, code, ...) do {                                        \
        static const u8 offsets_[] = { __VA_ARGS__ };                          \
        void *step_code_ = code;                                               \
        step(cpl, step_code_, 0);                                              \
        step_check(name, cpl, step_code_, offsets_, sizeof offsets_);          \
    } while (0)

static void test_steps(void)
{
    EACH_CPL(cpl) {
        STEP("step.plain", cpl, CODE("nop; inc %eax; mov %rax, %rbx; push %rbx; pop %rcx"),
             1, 3, 6, 7, 8);
        STEP("step.jmp", cpl, CODE("jmp 1f; nop; nop; 1: nop"), 4, 5);
        STEP("step.jcc-taken", cpl, CODE("test %eax, %eax; jz 1f; nop; 1: nop"), 2, 5, 6);
        STEP("step.jcc-not", cpl, CODE("test %eax, %eax; jnz 1f; nop; 1: nop"), 2, 4, 5, 6);
        STEP("step.call-ret", cpl, CODE("call 1f; jmp 2f; 1: ret; 2: nop"), 7, 5, 8, 9);
        STEP("step.indirect", cpl, CODE("lea 1f(%rip), %rax; jmp *%rax; nop; 1: nop"), 7, 10, 11);
        STEP("step.cpuid", cpl, CODE("cpuid; nop"), 2, 3);
        STEP("step.pushf", cpl, CODE("pushfq; pop %rax; nop"), 1, 2, 3);
        CHECK(at("step.pushf-shows-tf", cpl), trap.c.r[RAX], F_TF | F_1);
        STEP("step.sensitive", cpl, CODE("sgdt -64(%rsp); mov %cs, %eax; lar %ax, %ecx; nop"),
             5, 7, 10, 11);
        STEP("step.rep-movs", cpl, CODE("mov %rsp, %rsi; lea -64(%rsp), %rdi; mov $3, %ecx;"
                                        "rep movsb; nop"), 3, 8, 13, 13, 13, 15, 16);
        STEP("step.rep-zero", cpl, CODE("xor %ecx, %ecx; rep stosb; nop"), 2, 4, 5);
        STEP("step.loop", cpl, CODE("mov $2, %ecx; 1: loop 1b; nop"), 5, 5, 7, 8);
        /* POPF that clears TF still traps after itself; then no more. */
        STEP("step.popf-clears", cpl, CODE("push $2; popfq; nop; nop"), 2, 3);
        /* MOV SS and POP SS hold the trap back by one instruction. */
        STEP("step.mov-ss", cpl, CODE("mov %ss, %eax; mov %eax, %ss; nop; nop"), 2, 5, 6);
        /* INT n saves TF and enters the handler without a trap. */
        CHECK(at("step.int-saves-tf", cpl), trap.c.rflags & F_TF, F_TF);
        CHECK(at("step.handler-tf-clear", cpl), trap.entry_rflags & F_TF, 0);
    }
    STEP("step.sti", 0, CODE("cli; sti; nop; cli"), 1, 2, 3, 4);
    /* POPF that sets TF: the first trap is after the next instruction. */
    void *code = CODE("pushq $0x102; popfq; nop; nop" AFTER "nop");
    struct cpu c = at_cpl3(code);
    step_count = 0;
    step_limit = 1;
    trap_hook = step_hook;
    run(&c);
    trap_hook = 0;
    CHECK("step.popf-sets", steps[0] - (u64)code, 7);
    /* A fault comes instead of the step. */
    code = CODE(MARK "ud2");
    step(3, code, 0);
    check_fault("step.fault-first", code, V_UD, 0);
    CHECK("step.fault-first.steps", step_count, 0);
    CHECK("step.fault-saves-tf", trap.c.rflags & F_TF, F_TF);
}

/* Alignment checks in single steps are of the guest's accesses, and of nothing else. */
static void test_aligned_steps(void)
{
    struct { const char *name; void *code; u8 end; } const codes[] = {
        { "step.ac.register", CODE("shr $20, %al; nop"), 4 },
        { "step.ac.byte", CODE("addb $1, 1(%rdi); nop"), 5 },
        { "step.ac.aligned", CODE("addq $1, 8(%rdi); nop"), 6 },
        { "step.ac.jmp", CODE("jmp 1f; nop; 1: nop"), 4 },
        { "step.ac.push", CODE("push %rax; pop %rcx; nop"), 3 },
        { "step.ac.sensitive", CODE("mov %cs, %eax; verr %ax; nop"), 6 },
    };
    u64 cr0 = read_cr0();
    write_cr0(cr0 | CR0_AM);
    for (u64 i = 0; i < sizeof codes / sizeof *codes; i++) {
        struct cpu c = at_cpl3(codes[i].code);
        c.rflags |= F_AC;
        c.r[RDI] = (u64)user_stack;
        step(3, codes[i].code, &c);
        check_end(codes[i].name, codes[i].code);
        CHECK(with(codes[i].name, "last"), steps[step_count - 1], (u64)codes[i].code + codes[i].end);
    }
    void *unaligned = CODE("nop;" MARK "add %eax, 1(%rdi)");
    struct cpu c = at_cpl3(unaligned);
    c.rflags |= F_AC;
    c.r[RDI] = (u64)user_stack;
    step(3, unaligned, &c);
    check_fault("step.ac.unaligned", unaligned, V_AC, 0);
    write_cr0(cr0);
}

/* --- breakpoints */

static u64 watched[8] UDATA ALIGNED(64);

static void test_execute(void)
{
    void *code = CODE("inc %eax;" MARK "add $16, %eax; nop; inc %eax" AFTER "nop");
    EACH_CPL(cpl)
        for (int n = 0; n < 4; n++) {
            char name[64];
            clear_breakpoints();
            set_breakpoint(n, code_mark(code), EXECUTE, 1);
            run_code(cpl, code);
            format_name(name, "break.execute.dr%d", n);
            check_fault(at(name, cpl), code, V_DB, 0);
            CHECK(at(with(name, "dr6"), cpl), read_dr6(), DR6_FIXED | 1ul << n);
            CHECK(at(with(name, "before"), cpl), trap.c.r[RAX], 1);
            write_dr6(DR6_FIXED);
            /* With RF set the instruction runs; the breakpoint is then live again. */
            struct cpu c = trap.c;
            c.rflags |= F_RF;
            run(&c);
            check_end(at(with(name, "resumed-by-rf"), cpl), code);
            CHECK(at(with(name, "after"), cpl), trap.c.r[RAX], 18);
            c.rflags &= ~(u64)F_RF;
            run(&c);
            check_fault(at(with(name, "again-without-rf"), cpl), code, V_DB, 0);
            write_dr7(read_dr7() & ~0xFFul);
            run_code(cpl, code);
            check_end(at(with(name, "disabled"), cpl), code);
        }
    /* Not the instruction's first byte: no breakpoint. */
    clear_breakpoints();
    set_breakpoint(0, code_mark(code) + 1, EXECUTE, 1);
    run_code(3, code);
    check_end("break.execute.inside", code);
    /* Two at once. */
    set_breakpoint(0, code_mark(code), EXECUTE, 1);
    set_breakpoint(3, code_mark(code), EXECUTE, 1);
    run_code(3, code);
    CHECK("break.execute.two", read_dr6(), DR6_FIXED | B0 | B3);
    clear_breakpoints();
}

static void watch_check(const char *name, int cpl, void *code, int hit)
{
    write_dr6(DR6_FIXED);
    run_with(cpl, code, (u64)watched, 0, 0);
    if (hit) {
        check_trap_at(at(name, cpl), code_after(code), V_DB, 0);
        CHECK(at(with(name, "dr6"), cpl), read_dr6(), DR6_FIXED | B2);
    } else {
        check_end(at(name, cpl), code);
    }
}

static void test_watch(void)
{
    static const u8 lengths[] = { 1, 2, 4, 8 };
    EACH_CPL(cpl)
        for (int kind = WRITE; kind <= ACCESS; kind += 2)
            for (int l = 0; l < 4; l++) {
                char name[64];
                clear_breakpoints();
                set_breakpoint(2, (u64)watched + 8, kind, lengths[l]);
                format_name(name, "watch.%s%d.", kind == WRITE ? "write" : "access", lengths[l]);
                watch_check(with(name, "store"), cpl,
                            CODE("nop; movb $1, 8(%rax)" AFTER "nop"), 1);
                watch_check(with(name, "load"), cpl,
                            CODE("nop; mov 8(%rax), %cl" AFTER "nop"), kind == ACCESS);
                watch_check(with(name, "add"), cpl, CODE("addq $1, 8(%rax)" AFTER "nop"), 1);
                watch_check(with(name, "wide-store"), cpl,
                            CODE("movups %xmm0, (%rax)" AFTER "nop"), 1);
                watch_check(with(name, "before"), cpl, CODE("movq $1, (%rax)" AFTER "nop"), 0);
                watch_check(with(name, "after"), cpl, CODE("movq $1, 16(%rax)" AFTER "nop"), 0);
                watch_check(with(name, "overlap-below"), cpl,
                            CODE("movq $1, 1(%rax)" AFTER "nop"), 1);
                watch_check(with(name, "last-byte"), cpl,
                            CODE("movb $1, 15(%rax)" AFTER "nop"), lengths[l] == 8);
            }
    EACH_CPL(cpl) {
        clear_breakpoints();
        set_breakpoint(2, (u64)watched + 8, WRITE, 8);
        watch_check("watch.push", cpl, CODE("lea 16(%rax), %rsp; push %rax" AFTER "nop"), 1);
        watch_check("watch.movs", cpl,
                    CODE("mov %rax, %rsi; lea 8(%rax), %rdi; movsb" AFTER "nop"), 1);
        watch_check("watch.lea", cpl, CODE("lea 8(%rax), %rcx; nopl 8(%rax)" AFTER "nop"), 0);
        /* A repeated store stops after the iteration that hits. */
        void *rep = CODE("mov %rax, %rdi; mov $3, %ecx;" MARK "rep stosq" AFTER "nop");
        run_with(cpl, rep, (u64)watched, 0, 0);
        check_fault(at("watch.rep-stos", cpl), rep, V_DB, 0);
        CHECK(at("watch.rep-stos.rcx", cpl), trap.c.r[RCX], 1);
        CHECK(at("watch.rep-stos.rdi", cpl), trap.c.r[RDI], (u64)watched + 16);
    }
    clear_breakpoints();
}

/* --- the registers themselves */

static void test_registers(void)
{
    clear_breakpoints();
    CHECK("dr6.after-write", read_dr6(), DR6_FIXED);
    write_dr6(0);
    CHECK("dr6.zeroes", read_dr6(), DR6_FIXED);
    write_dr6(0xFFFFFFFF);
    CHECK("dr6.ones", read_dr6() & ~0x1000ul, 0xFFFFEFFF); /* bit 12 reads as 0 */
    write_dr6(DR6_FIXED);
    write_dr7(0);
    CHECK("dr7.bit10", read_dr7(), DR7_FIXED);
    for (int n = 0; n < 4; n++)
        set_breakpoint(n, 0x123456789ABC0 + (u64)n, WRITE, 1);
    u64 v[4];
    asm volatile("mov %%db0, %0; mov %%db1, %1; mov %%db2, %2; mov %%db3, %3"
                 : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3]));
    for (u64 n = 0; n < 4; n++)
        CHECK("dr0-3.kept", v[n], 0x123456789ABC0 + n);
    write_dr7(0);
    void *high7 = CODE("mov %rax, %db7"), *high6 = CODE("mov %rax, %db6");
    run_with(0, high7, 1ul << 32, 0, 0);
    check_fault("dr7.high-half", high7, V_GP, 0);
    run_with(0, high6, 1ul << 32, 0, 0);
    check_fault("dr6.high-half", high6, V_GP, 0);

    void *dr4 = CODE("mov %db4, %rax"), *dr5 = CODE("mov %db5, %rcx");
    write_cr4(read_cr4() & ~(u64)CR4_DE);
    run_code(0, dr4);
    CHECK("dr4.is-dr6", trap.c.r[RAX], DR6_FIXED);
    run_code(0, dr5);
    CHECK("dr5.is-dr7", trap.c.r[RCX], DR7_FIXED);
    write_cr4(read_cr4() | CR4_DE);
    run_code(0, dr4);
    check_fault("dr4.with-de", dr4, V_UD, 0);
    run_code(0, dr5);
    check_fault("dr5.with-de", dr5, V_UD, 0);
    write_cr4(read_cr4() & ~(u64)CR4_DE);

    /* General detect: any access of a debug register, before it happens; GD is then clear. */
    void *detect = CODE("nop;" MARK "mov %db0, %rax");
    write_dr7(GD);
    run_with(0, detect, 5, 0, 0);
    u64 dr7 = read_dr7(), dr6 = read_dr6();
    check_fault("gd.fault", detect, V_DB, 0);
    CHECK("gd.not-done", trap.c.r[RAX], 5);
    CHECK("gd.dr6", dr6 & BD, BD);
    CHECK("gd.cleared", dr7, DR7_FIXED);
    clear_breakpoints();
}

/* RF in the saved flags: set by faults, clear for traps and INT n. */
static void test_rf(void)
{
    void *ud = CODE("ud2"), *gp = CODE("mov $0x8000000000000000, %rbx;" MARK "mov (%rbx), %rax");
    void *pf = CODE("mov $0x123456789000, %rbx;" MARK "mov (%rbx), %rax"), *end = CODE("nop");
    void *de = CODE("div %ecx");
    EACH_CPL(cpl) {
        run_code(cpl, ud);
        CHECK(at("rf.ud", cpl), trap.c.rflags & F_RF, F_RF);
        run_code(cpl, gp);
        CHECK(at("rf.gp", cpl), trap.c.rflags & F_RF, F_RF);
        run_code(cpl, pf);
        CHECK(at("rf.pf", cpl), trap.c.rflags & F_RF, F_RF);
        run_code(cpl, de);
        CHECK(at("rf.de", cpl), trap.c.rflags & F_RF, F_RF);
        run_code(cpl, end);
        CHECK(at("rf.int", cpl), trap.c.rflags & F_RF, 0);
        /* Set by IRETQ, cleared by the first instruction. */
        run_flags(cpl, end, F_RF);
        CHECK(at("rf.one-instruction", cpl), trap.c.rflags & F_RF, 0);
        step(cpl, end, 0);
        CHECK(at("rf.step", cpl), step_flags[0] & F_RF, 0);
    }
}

void guest_main(void)
{
    clear_breakpoints();
    test_steps();
    test_aligned_steps();
    test_execute();
    test_watch();
    test_registers();
    test_rf();
}
