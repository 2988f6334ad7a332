/* How an interrupt or exception is delivered in long mode: the frame, the stack, the flags, what a
   bad gate, TSS or stack comes to, and double faults (SDM 3A 6.12-6.15). */
#include "guest.h"

enum {
    N = 0x90,       /* the vector whose gate the tests bend */
    EXT = 1, IDT = 2,
    DATA = FREE_SEL, CODE_ABSENT = FREE_SEL + 8, CODE32 = FREE_SEL + 16, CONFORMING = FREE_SEL + 24,
    DATA_ABSENT = 0x70,
    ALL = F_ARITH | F_DF | F_IF | F_NT | F_AC | F_ID | F_IOPL
};

static void *int_n;

static void bend(u16 selector, int type, int dpl, int ist)
{
    set_gate(N, stub_address(N), selector, type, dpl, ist);
}

static void run_int(int cpl, u64 rsp, u64 flags)
{
    struct cpu c = at_cpl(cpl, int_n);
    if (rsp)
        c.r[RSP] = rsp;
    c.rflags |= flags;
    run(&c);
}

static void test_frame(void)
{
    for (u64 skew = 0; skew < 16; skew += 3) {
        u64 rsp = KERNEL_RSP + skew;
        bend(KCODE, GATE_INTERRUPT, 3, 0);
        run_int(0, rsp, 0);
        check_trap_at("frame.cpl0", code_after(int_n), N, 0);
        CHECK("frame.cpl0.aligned", trap.frame, (rsp & ~15ul) - 40);
        CHECK("frame.cpl0.saved-rsp", trap.c.r[RSP], rsp);
        CHECK("frame.cpl0.saved-ss", trap.c.ss, KDATA);
        CHECK("frame.cpl0.handler-ss", trap.entry_ss, KDATA);

        tss.rsp[0] = RSP0_TOP - 64 + skew;
        run_int(3, USER_RSP + skew, 0);
        CHECK("frame.cpl3.rsp0-aligned", trap.frame, ((RSP0_TOP - 64 + skew) & ~15ul) - 40);
        CHECK("frame.cpl3.saved-rsp", trap.c.r[RSP], USER_RSP + skew);
        CHECK("frame.cpl3.saved-ss", trap.c.ss, UDATA_SEL);
        CHECK("frame.cpl3.handler-ss", trap.entry_ss, 0);
    }
    tss.rsp[0] = RSP0_TOP;
    for (int ist = 1; ist <= 7; ist++)
        EACH_CPL(cpl) {
            char name[64];
            bend(KCODE, GATE_INTERRUPT, 3, ist);
            run_int(cpl, 0, 0);
            format_name(name, "frame.ist%d", ist);
            CHECK(at(name, cpl), trap.frame, tss.ist[ist - 1] - 40);
        }
    /* A fault with an error code pushes it below the same frame. */
    void *gp = CODE("mov $0x8000000000000000, %rbx;" MARK "mov (%rbx), %rax");
    set_gate(V_GP, stub_address(V_GP), KCODE, GATE_INTERRUPT, 0, 0);
    run_code(0, gp);
    check_fault("frame.error-code", gp, V_GP, 0);
    CHECK("frame.error-code.frame", trap.frame, (KERNEL_RSP & ~15ul) - 40);
    default_gate(V_GP);
}

static void test_flags(void)
{
    EACH_CPL(cpl)
        for (int type = GATE_INTERRUPT; type <= GATE_TRAP; type++) {
            char name[64];
            bend(KCODE, type, 3, 1);
            run_int(cpl, 0, ALL);
            format_name(name, "gate-flags.%s", type == GATE_TRAP ? "trap" : "interrupt");
            CHECK(at(with(name, "saved"), cpl), trap.c.rflags, ALL | F_1);
            CHECK(at(with(name, "handler"), cpl), trap.entry_rflags,
                  (ALL & ~(u64)(F_NT | (type == GATE_TRAP ? 0 : F_IF))) | F_1);
            run_int(cpl, 0, 0);
            CHECK(at(with(name, "if-stays-clear"), cpl), trap.entry_rflags, F_1);
        }
}

/* What INT n and a fault come to, whose gate is bent alike. */
static void gate_check(const char *name, u16 selector, int type, u8 vector, u16 error)
{
    EACH_CPL(cpl) {
        bend(selector, type, 3, 1);
        run_int(cpl, 0, 0);
        check_fault(at(with("gate", name), cpl), int_n, vector, error);
    }
    void *ud = CODE("ud2");
    if (error == N * 8 + IDT)
        error = V_UD * 8 + IDT;
    set_gate(V_UD, stub_address(V_UD), selector, type, 0, 1);
    run_code(3, ud);
    check_fault(with("gate-of-ud", name), ud, vector, error | EXT);
    default_gate(V_UD);
}

static void test_gates(void)
{
    gate_check("null-selector", 0, GATE_INTERRUPT, V_GP, 0);
    gate_check("data-selector", DATA, GATE_INTERRUPT, V_GP, DATA);
    gate_check("cs-not-present", CODE_ABSENT, GATE_INTERRUPT, V_NP, CODE_ABSENT);
    gate_check("cs-32-bit", CODE32, GATE_INTERRUPT, V_GP, CODE32);
    gate_check("cs-beyond-gdt", GDT_ENTRIES * 8, GATE_INTERRUPT, V_GP, GDT_ENTRIES * 8);
    gate_check("task-gate", KCODE, 5, V_GP, N * 8 + IDT);
    gate_check("call-gate", KCODE, GATE_CALL, V_GP, N * 8 + IDT);
    gate_check("type-6", KCODE, 6, V_GP, N * 8 + IDT);
    bend(UCODE, GATE_INTERRUPT, 3, 1);
    run_int(0, 0, 0);
    check_fault("gate.cs-outer", int_n, V_GP, UCODE & ~3);

    bend(KCODE, GATE_INTERRUPT, 3, 1);
    idt[N][0] &= ~(1ul << 47);
    run_int(3, 0, 0);
    check_fault("gate.not-present", int_n, V_NP, N * 8 + IDT);
    for (int dpl = 0; dpl < 3; dpl++) {
        bend(KCODE, GATE_INTERRUPT, dpl, 1);
        run_int(3, 0, 0);
        check_fault("gate.dpl", int_n, V_GP, N * 8 + IDT);
        run_int(0, 0, 0);
        check_trap_at("gate.dpl-at-cpl0", code_after(int_n), N, 0);
    }
    idt[N][0] &= ~(1ul << 47);      /* DPL 2 and not present: privilege first */
    run_int(3, 0, 0);
    check_fault("gate.dpl-before-present", int_n, V_GP, N * 8 + IDT);

    bend(KCODE, GATE_INTERRUPT, 3, 1);
    struct table_reg r = { N * 16 + 14, (u64)idt };
    asm volatile("lidt %0" :: "m"(r));
    run_code(3, int_n);
    r.limit = sizeof idt - 1;
    asm volatile("lidt %0" :: "m"(r));
    check_fault("gate.limit-one-short", int_n, V_GP, N * 8 + IDT);

    set_gate(N, 0x0001000000000000, KCODE, GATE_INTERRUPT, 3, 1);
    run_int(3, 0, 0);
    check_fault("gate.non-canonical", int_n, V_GP, 0);
}

/* A conforming handler runs at the interrupted level, on the same stack. */
static void test_conforming(void)
{
    void *handler = CODE("pushfq; mov %cs, %eax; mov %rsp, %rbx; mov (%rsp), %rdx; nop");
    set_gate(N, (u64)handler, CONFORMING, GATE_INTERRUPT, 3, 0);
    run_int(3, USER_RSP + 5, F_CF);
    check_end("conforming.handler", handler);
    CHECK("conforming.cs", trap.c.r[RAX], CONFORMING | 3);
    CHECK("conforming.rsp", trap.c.r[RBX], (USER_RSP & ~15ul) - 48);
    CHECK("conforming.saved-rip", *(u64 *)(trap.c.r[RBX] + 8), code_after(int_n));
    CHECK("conforming.saved-cs", *(u64 *)(trap.c.r[RBX] + 16), UCODE);
    CHECK("conforming.saved-flags", *(u64 *)(trap.c.r[RBX] + 24), F_CF | F_1);
    CHECK("conforming.saved-rsp", *(u64 *)(trap.c.r[RBX] + 32), USER_RSP + 5);
    CHECK("conforming.saved-ss", *(u64 *)(trap.c.r[RBX] + 40), UDATA_SEL);
    /* IRETQ takes it back. */
    handler = CODE("lea 7(%rcx), %rcx; iretq");
    set_gate(N, (u64)handler, CONFORMING, GATE_INTERRUPT, 3, 0);
    run_int(3, USER_RSP + 5, 0);
    check_end("conforming.iretq", int_n);
    CHECK("conforming.iretq.rcx", trap.c.r[RCX], 7);
    CHECK("conforming.iretq.rsp", trap.c.r[RSP], USER_RSP + 5);
}

/* The new stack is bad: its selector, its limit, its page. */
static void test_stacks(void)
{
    u64 window = WINDOW + 0x1000, saved = tss.ist[2];
    bend(KCODE, GATE_INTERRUPT, 3, 3);
    tss.ist[2] = 0x0000900000000000;
    EACH_CPL(cpl) {
        run_int(cpl, 0, 0);
        check_fault(at("stack.ist-non-canonical", cpl), int_n, V_SS, 0);
    }
    tss.ist[2] = window;            /* nothing mapped there */
    EACH_CPL(cpl) {
        run_int(cpl, 0, 0);
        check_pf(at("stack.ist-unmapped", cpl), int_n, PF_W, window - 8);
        CHECK(at("stack.ist-unmapped.rsp", cpl), trap.c.r[RSP], cpl ? USER_RSP : KERNEL_RSP);
        CHECK(at("stack.ist-unmapped.cs", cpl), trap.c.cs, cpl ? UCODE : KCODE);
    }
    tss.ist[2] = saved;
    tss.rsp[0] = window;
    bend(KCODE, GATE_INTERRUPT, 3, 0);
    run_int(3, 0, 0);
    check_pf("stack.rsp0-unmapped", int_n, PF_W, window - 8);
    /* A user page is good enough as a stack for CPL 0. */
    map4k(window - 0x1000, FREE_RAM, P_P | P_W | P_U);
    run_int(3, 0, 0);
    check_trap_at("stack.rsp0-user-page", code_after(int_n), N, 0);
    map4k(window - 0x1000, FREE_RAM, P_P);
    run_int(3, 0, 0);
    check_pf("stack.rsp0-read-only", int_n, PF_P | PF_W, window - 8);
    map4k(window - 0x1000, 0, 0);
    tss.rsp[0] = RSP0_TOP;

    reload_tss(91 - 8);             /* IST7 is at 84..91 */
    bend(KCODE, GATE_INTERRUPT, 3, 7);
    run_int(3, 0, 0);
    check_fault("stack.ist-beyond-tss", int_n, V_TS, TSS_SEL);
    set_gate(V_UD, stub_address(V_UD), KCODE, GATE_INTERRUPT, 0, 7);
    void *ud = CODE("ud2");
    run_code(3, ud);
    check_fault("stack.ist-beyond-tss.of-ud", ud, V_TS, TSS_SEL | EXT);
    default_gate(V_UD);
    reload_tss(91);
    run_int(3, 0, 0);
    check_trap_at("stack.ist-just-in-tss", code_after(int_n), N, 0);
    reload_tss(103);
}

struct second {
    const char *name;
    void *code;
    u8 first;       /* vector whose gate leads to nowhere */
    u8 vector;      /* what arrives */
    u16 error;
};

/* SDM table 6-5: benign, contributory, page fault. */
static void test_double(void)
{
    void *pf = CODE("mov 0x12345678(%rax), %rcx");
    void *gp = CODE("mov %rax, %cr3");
    const struct second seconds[] = {
        { "ud-then-np", CODE("ud2"), V_UD, V_NP, V_UD * 8 + IDT + EXT },
        { "int3-then-np", CODE("int3"), V_BP, V_NP, V_BP * 8 + IDT },
        { "nm-then-np", CODE("fnop"), V_NM, V_NP, V_NM * 8 + IDT + EXT },
        { "de-then-np", CODE("div %ecx"), V_DE, V_DF, 0 },
        { "gp-then-np", gp, V_GP, V_DF, 0 },
        { "pf-then-np", pf, V_PF, V_DF, 0 },
        { "np-then-np", CODE("mov $0x70, %ecx;" MARK "mov %ecx, %ds"), V_NP, V_DF, 0 },
    };
    u64 cr0 = read_cr0();
    for (u64 i = 0; i < sizeof seconds / sizeof *seconds; i++)
        EACH_CPL(cpl) {
            const struct second *s = &seconds[i];
            if (s->code == gp && cpl == 0)
                continue;
            char name[64];
            write_cr0(s->first == V_NM ? cr0 | CR0_TS : cr0);
            set_gate(s->first, stub_address(s->first), KCODE, GATE_INTERRUPT, 3, 1);
            idt[s->first][0] &= ~(1ul << 47);
            write_cr2(0x77777000);
            run_with(cpl, s->code, WINDOW, 0, 0);
            format_name(name, "double.%s", s->name);
            check_fault(at(name, cpl), s->code, s->vector, s->error);
            if (s->first == V_PF)
                CHECK(at(with(name, "cr2"), cpl), trap.cr2, WINDOW + 0x12345678);
            default_gate(s->first);
        }
    write_cr0(cr0);

    /* Page faults met while delivering, on an unmapped stack. */
    u64 saved = tss.ist[2];
    tss.ist[2] = WINDOW + 0x5000;
    EACH_CPL(cpl) {
        void *ud = CODE("ud2");
        set_gate(V_UD, stub_address(V_UD), KCODE, GATE_INTERRUPT, 0, 3);
        run_code(cpl, ud);
        check_pf(at("double.ud-then-pf", cpl), ud, PF_W, WINDOW + 0x4FF8);
        default_gate(V_UD);
        set_gate(V_PF, stub_address(V_PF), KCODE, GATE_INTERRUPT, 0, 3);
        run_with(cpl, pf, WINDOW, 0, 0);
        check_fault(at("double.pf-then-pf", cpl), pf, V_DF, 0);
        CHECK(at("double.pf-then-pf.cr2", cpl), trap.cr2, WINDOW + 0x4FF8);
        default_gate(V_PF);
        /* A contributory fault, then a page fault: one after the other. */
        void *de = CODE("div %ecx");
        set_gate(V_DE, stub_address(V_DE), KCODE, GATE_INTERRUPT, 0, 3);
        run_code(cpl, de);
        check_pf(at("double.de-then-pf", cpl), de, PF_W, WINDOW + 0x4FF8);
        default_gate(V_DE);
    }
    tss.ist[2] = saved;
}

void guest_main(void)
{
    int_n = CODE(MARK "int $0x90" AFTER "nop");
    set_segment(DATA, 0, 0xFFFFF, 0xC0F3);
    set_segment(CODE_ABSENT, 0, 0xFFFFF, 0xA01B);
    set_segment(CODE32, 0, 0xFFFFF, 0xC09B);
    set_segment(CONFORMING, 0, 0xFFFFF, 0xA09F);
    set_segment(DATA_ABSENT, 0, 0xFFFFF, 0xC073);
    test_frame();
    test_flags();
    test_gates();
    test_conforming();
    test_stacks();
    test_double();
}
