/* Far CALL, JMP and RET, INT n and IRET: they store, load and check CS with the guest's CPL.
   Call gates are in syscalls.c. */
#include "guest.h"

enum {
    DATA = FREE_SEL, ABSENT = FREE_SEL + 8, CONFORMING = FREE_SEL + 16,
    SS_ABSENT = FREE_SEL + 32, READ_ONLY = FREE_SEL + 40, L_AND_D = FREE_SEL + 48,
    KCODE_PLAIN = FREE_SEL + 56
};

/* A far pointer where ring 3 can read it, too. */
static struct { u64 offset; u16 selector; } PACKED far_pointer UDATA;
static struct { u32 offset; u16 selector; } PACKED far_pointer32 UDATA;

static void point(void *target, u16 selector)
{
    far_pointer.offset = (u64)target;
    far_pointer.selector = selector;
    far_pointer32.offset = (u32)(u64)target;
    far_pointer32.selector = selector;
}

static void run_far(int cpl, const void *code, void *target, u16 selector)
{
    point(target, selector);
    run_with(cpl, code, (u64)&far_pointer, (u64)&far_pointer32, 0);
}

static void test_jmp(void)
{
    void *target = CODE("mov %cs, %eax");
    void *jmp = CODE("mov $-1, %rax;" MARK "ljmpl *(%rcx)");
    EACH_CPL(cpl) {
        u16 cs = cpl ? UCODE : KCODE;
        run_far(cpl, jmp, target, cs);
        check_end(at("far-jmp", cpl), target);
        CHECK(at("far-jmp.cs", cpl), trap.c.r[RAX], cs);
        run_far(cpl, jmp, target, 0);
        check_fault(at("far-jmp.null", cpl), jmp, V_GP, 0);
        run_far(cpl, jmp, target, DATA | 3);
        check_fault(at("far-jmp.data", cpl), jmp, V_GP, DATA);
        run_far(cpl, jmp, target, CONFORMING | 3);
        check_end(at("far-jmp.conforming", cpl), target);
        CHECK(at("far-jmp.conforming.cs", cpl), trap.c.r[RAX], CONFORMING | cpl);
        run_far(cpl, jmp, target, L_AND_D | 3);
        check_fault(at("far-jmp.l-and-d", cpl), jmp, V_GP, L_AND_D);
        run_far(cpl, jmp, target, GDT_ENTRIES * 8 | 3);
        check_fault(at("far-jmp.beyond-gdt", cpl), jmp, V_GP, GDT_ENTRIES * 8);
        run_far(cpl, jmp, target, TSS_SEL | 3);
        check_fault(at("far-jmp.tss", cpl), jmp, V_GP, TSS_SEL);
    }
    run_far(3, jmp, target, ABSENT | 3);
    check_fault("far-jmp.not-present", jmp, V_NP, ABSENT);
    run_far(3, jmp, target, KCODE);
    check_fault("far-jmp.cpl3-to-0", jmp, V_GP, KCODE);
    run_far(3, jmp, target, KCODE | 3);
    check_fault("far-jmp.cpl3-to-0-rpl3", jmp, V_GP, KCODE);
    run_far(0, jmp, target, UCODE);
    check_fault("far-jmp.cpl0-to-3", jmp, V_GP, UCODE & ~3);
    run_far(3, jmp, target, UCODE & ~3);
    check_end("far-jmp.rpl0-at-cpl3", target);
    CHECK("far-jmp.rpl0-at-cpl3.cs", trap.c.r[RAX], UCODE);
    gdt[KCODE_PLAIN / 8] &= ~(1ul << 40);
    run_far(0, jmp, target, KCODE_PLAIN);
    CHECK("far-jmp.sets-accessed", gdt[KCODE_PLAIN / 8] >> 40 & 1, 1);
}

static void test_call_ret(void)
{
    void *target = CODE("mov 8(%rsp), %rdx; mov (%rsp), %rbx; mov %cs, %esi; mov %rsp, %rdi; lretq");
    void *call = CODE(MARK "rex.w lcall *(%rax)" AFTER "nop");
    void *target32 = CODE("mov 4(%rsp), %edx; mov (%rsp), %ebx; mov %cs, %esi; mov %rsp, %rdi; lretl");
    void *call32 = CODE(MARK "lcall *(%rcx)" AFTER "nop");
    EACH_CPL(cpl) {
        u16 cs = cpl ? UCODE : KCODE;
        u64 top = cpl ? USER_RSP : KERNEL_RSP;
        if (is_intel()) {   /* AMD ignores REX.W here */
            run_far(cpl, call, target, cs);
            check_end(at("far-call64", cpl), call);
            CHECK(at("far-call64.pushed-cs", cpl), trap.c.r[RDX], cs);
            CHECK(at("far-call64.pushed-rip", cpl), trap.c.r[RBX], code_after(call));
            CHECK(at("far-call64.rsp", cpl), trap.c.r[RDI], top - 16);
            CHECK(at("far-call64.cs", cpl), trap.c.r[RSI], cs);
            CHECK(at("lretq.rsp", cpl), trap.c.r[RSP], top);
        }
        run_far(cpl, call32, target32, cs);
        check_end(at("far-call32", cpl), call32);
        CHECK(at("far-call32.pushed-cs", cpl), trap.c.r[RDX] & 0xFFFF, cs);
        CHECK(at("far-call32.pushed-rip", cpl), trap.c.r[RBX], code_after(call32));
        CHECK(at("far-call32.rsp", cpl), trap.c.r[RDI], top - 8);
        CHECK(at("lretl.rsp", cpl), trap.c.r[RSP], top);
        run_far(cpl, call32, target32, 0);
        check_fault(at("far-call.null", cpl), call32, V_GP, 0);
        CHECK(at("far-call.null.rsp", cpl), trap.c.r[RSP], top);
        run_far(cpl, call32, target32, DATA | 3);
        check_fault(at("far-call.data", cpl), call32, V_GP, DATA);
        run_far(cpl, call32, target32, ABSENT | 3);
        if (cpl)
            check_fault("far-call.not-present", call32, V_NP, ABSENT);
    }
    u64 stack = WINDOW;
    map4k(stack, FREE_RAM, P_P | P_W | P_U);
    memset((void *)FREE_RAM, 0x77, 4096);
    point(target32, UCODE);
    struct cpu c = at_cpl3(call32);
    c.r[RCX] = (u64)&far_pointer32;
    c.r[RSP] = stack + 4;
    run(&c);
    check_pf("far-call.stack-fault", call32, PF_U | PF_W, stack - 4);
    CHECK("far-call.stack-fault.rsp", trap.c.r[RSP], stack + 4);
}

static void test_ret(void)
{
    void *target = CODE("mov %cs, %edx; mov %ss, %ebx; mov %rsp, %rdi");
    void *same = CODE("push %rcx; push %rax;" MARK "lretq $24");
    EACH_CPL(cpl) {
        u16 cs = cpl ? UCODE : KCODE;
        u64 top = cpl ? USER_RSP : KERNEL_RSP;
        run_with(cpl, same, (u64)target, cs, 0);
        check_end(at("lretq-imm", cpl), target);
        CHECK(at("lretq-imm.rsp", cpl), trap.c.r[RDI], top + 24);
        run_with(cpl, same, (u64)target, 0, 0);
        check_fault(at("lretq.null", cpl), same, V_GP, 0);
        CHECK(at("lretq.null.rsp", cpl), trap.c.r[RSP], top - 16);
        run_with(cpl, same, (u64)target, DATA | 3, 0);
        check_fault(at("lretq.data", cpl), same, V_GP, DATA);
        run_with(cpl, same, (u64)target, ABSENT | 3, 0);
        check_fault(at("lretq.not-present", cpl), same, V_NP, ABSENT);
        run_with(cpl, same, (u64)target, GDT_ENTRIES * 8 | 3, 0);
        check_fault(at("lretq.beyond-gdt", cpl), same, V_GP, GDT_ENTRIES * 8);
        run_with(cpl, same, 0x8000000000000000, cs, 0);
        check_fault(at("lretq.non-canonical", cpl), same, V_GP, 0);
    }
    run_with(3, same, (u64)target, KCODE, 0);
    check_fault("lretq.cpl3-to-0", same, V_GP, KCODE);
    run_with(3, same, (u64)target, UCODE & ~3, 0);
    check_fault("lretq.rpl-below-cpl", same, V_GP, UCODE & ~3);

    void *outer = CODE("push %rbx; push %rdx; push %rcx; push %rax;" MARK "lretq");
    struct cpu c = at_cpl0(outer);
    c.r[RAX] = (u64)target;
    c.r[RCX] = UCODE;
    c.r[RDX] = USER_RSP - 48;
    c.r[RBX] = UDATA_SEL;
    run(&c);
    check_end("lretq.to-cpl3", target);
    CHECK("lretq.to-cpl3.cs", trap.c.r[RDX], UCODE);
    CHECK("lretq.to-cpl3.ss", trap.c.r[RBX], UDATA_SEL);
    CHECK("lretq.to-cpl3.rsp", trap.c.r[RDI], USER_RSP - 48);
    c.r[RBX] = KDATA;
    run(&c);
    check_fault("lretq.to-cpl3.ss-dpl0", outer, V_GP, KDATA);
    c.r[RBX] = 0;
    run(&c);
    check_fault("lretq.to-cpl3.ss-null", outer, V_GP, 0);
    c.r[RBX] = SS_ABSENT | 3;
    run(&c);
    check_fault("lretq.to-cpl3.ss-not-present", outer, V_SS, SS_ABSENT);
}

struct iret {
    const char *name;
    u64 cs, ss;
    u8 vector;
    u16 error;
};

static const struct iret irets[] = {
    { "to-cpl0", KCODE, KDATA, 0, 0 }, { "to-cpl3", UCODE, UDATA_SEL, 0, 0 },
    { "to-cpl0-null-ss", KCODE, 0, 0, 0 },
    { "null-cs", 0, KDATA, V_GP, 0 }, { "data-cs", DATA, KDATA, V_GP, DATA },
    { "cs-not-present", ABSENT | 3, UDATA_SEL, V_NP, ABSENT },
    { "cs-beyond-gdt", GDT_ENTRIES * 8, KDATA, V_GP, GDT_ENTRIES * 8 },
    { "cs-dpl0-rpl3", KCODE | 3, UDATA_SEL, V_GP, KCODE },
    { "cs-dpl3-rpl0", UCODE & ~3, KDATA, V_GP, UCODE & ~3 },
    { "cs-l-and-d", L_AND_D | 3, UDATA_SEL, V_GP, L_AND_D },
    { "to-cpl3-null-ss", UCODE, 0, V_GP, 0 }, { "to-cpl3-null-ss-rpl3", UCODE, 3, V_GP, 0 },
    { "to-cpl3-ss-dpl0", UCODE, KDATA, V_GP, KDATA },
    { "to-cpl3-ss-rpl0", UCODE, UDATA_SEL & ~3, V_GP, UDATA_SEL & ~3 },
    { "to-cpl3-ss-read-only", UCODE, READ_ONLY | 3, V_GP, READ_ONLY },
    { "to-cpl3-ss-not-present", UCODE, SS_ABSENT | 3, V_SS, SS_ABSENT },
    { "to-cpl0-ss-dpl3", KCODE, UDATA_SEL, V_GP, UDATA_SEL & ~3 },
    { "to-conforming-cpl3", CONFORMING | 3, UDATA_SEL, 0, 0 },
};

static void test_iret(void)
{
    void *target = CODE("mov %cs, %eax; mov %ss, %ebx; pushfq; pop %rcx; mov %rsp, %rdi");
    void *iretq = CODE("push %rbx; push %rdx; push %rsi; push %rcx; push %rax;" MARK "iretq");
    struct cpu c = at_cpl0(iretq);
    for (u64 i = 0; i < sizeof irets / sizeof *irets; i++) {
        const struct iret *t = &irets[i];
        char name[64];
        format_name(name, "iretq.%s", t->name);
        c.r[RAX] = (u64)target;
        c.r[RCX] = t->cs;
        c.r[RSI] = F_1 | F_ARITH | F_ID;
        c.r[RDX] = USER_RSP - 72;
        c.r[RBX] = t->ss;
        run(&c);
        if (t->vector) {
            check_fault(name, iretq, t->vector, t->error);
            CHECK(with(name, "rsp"), trap.c.r[RSP], KERNEL_RSP - 40);
            continue;
        }
        check_end(name, target);
        CHECK(with(name, "cs"), trap.c.r[RAX], t->cs);
        CHECK(with(name, "ss"), trap.c.r[RBX], t->ss);
        CHECK(with(name, "rsp"), trap.c.r[RDI], USER_RSP - 72);
        CHECK(with(name, "flags"), trap.c.r[RCX], F_1 | F_ARITH | F_ID);
    }
    c.r[RCX] = UCODE;
    c.r[RBX] = UDATA_SEL;
    c.r[RAX] = 0x0001000000000000;
    run(&c);
    check_fault("iretq.non-canonical", iretq, V_GP, 0);
    c.r[RAX] = (u64)target;
    c.rflags = F_NT | F_1;
    run(&c);
    check_fault("iretq.nt", iretq, V_GP, 0);
}

/* At CPL 3: returns to the same level, keeps IF and IOPL as POPF does. */
static void test_iret_cpl3(void)
{
    void *target = CODE("mov %cs, %eax");
    void *iretq = CODE("push %rbx; push %rdx; push %rsi; push %rcx; push %rax;" MARK "iretq");
    struct cpu c = at_cpl3(iretq);
    c.r[RAX] = (u64)target;
    c.r[RCX] = UCODE;
    c.r[RSI] = F_1 | F_ARITH | F_IOPL | F_IF | F_AC | F_ID | F_NT;
    c.r[RDX] = USER_RSP - 96;
    c.r[RBX] = UDATA_SEL;
    run(&c);
    check_end("iretq.cpl3", target);
    CHECK("iretq.cpl3.rsp", trap.c.r[RSP], USER_RSP - 96);
    CHECK("iretq.cpl3.flags", trap.c.rflags, F_1 | F_ARITH | F_AC | F_ID | F_NT);
    c.r[RSI] = F_1;
    c.rflags = F_1 | F_IF;
    run(&c);
    CHECK("iretq.cpl3.keeps-if", trap.c.rflags, F_1 | F_IF);
    c.r[RCX] = KCODE;
    c.r[RBX] = KDATA;
    run(&c);
    check_fault("iretq.cpl3-to-0", iretq, V_GP, KCODE);

    void *iretl = CODE("sub $20, %rsp; mov %eax, (%rsp); mov %ecx, 4(%rsp); mov %esi, 8(%rsp);"
                       "mov %edx, 12(%rsp); mov %ebx, 16(%rsp); iretl");
    c = at_cpl3(iretl);
    c.r[RAX] = (u64)target;
    c.r[RCX] = UCODE;
    c.r[RSI] = F_1 | F_ARITH;
    c.r[RDX] = USER_RSP - 96;
    c.r[RBX] = UDATA_SEL;
    run(&c);
    check_end("iretl.cpl3", target);
    CHECK("iretl.cpl3.rsp", trap.c.r[RSP], USER_RSP - 96);
    CHECK("iretl.cpl3.flags", trap.c.rflags, F_1 | F_ARITH);
}

/* INT n through gates of each DPL; the frame at both privileges. */
static void test_int(void)
{
    enum { LOW = 0x50, HIGH = 0x90 };
    void *low = CODE(MARK "int $0x50" AFTER "nop"), *high = CODE("nop; int $0x90" AFTER "nop");
    EACH_CPL(cpl) {
        run_flags(cpl, high, F_ARITH | F_AC);
        check_trap_at(at("int.dpl3", cpl), code_after(high), HIGH, 0);
        CHECK(at("int.dpl3.flags", cpl), trap.c.rflags, F_1 | F_ARITH | F_AC);
        CHECK(at("int.dpl3.cs", cpl), trap.c.cs, cpl ? UCODE : KCODE);
        CHECK(at("int.dpl3.ss", cpl), trap.c.ss, cpl ? UDATA_SEL : KDATA);
        CHECK(at("int.handler-cs", cpl), trap.entry_cs, KCODE);
        if (cpl)
            CHECK("int.handler-ss.cpl3", trap.entry_ss, 0);
    }
    run_code(0, low);
    check_trap_at("int.dpl0.cpl0", code_after(low), LOW, 0);
    run_code(3, low);
    check_fault("int.dpl0.cpl3", low, V_GP, LOW * 8 + 2);
}

void guest_main(void)
{
    set_segment(DATA, 0, 0xFFFFF, 0xC0F3);
    set_segment(ABSENT, 0, 0xFFFFF, 0xA07B);
    set_segment(CONFORMING, 0, 0xFFFFF, 0xA09F);
    set_segment(SS_ABSENT, 0, 0xFFFFF, 0xC073);
    set_segment(READ_ONLY, 0, 0xFFFFF, 0xC0F1);
    set_segment(L_AND_D, 0, 0xFFFFF, 0xE0FB);
    set_segment(KCODE_PLAIN, 0, 0xFFFFF, 0xA09B);
    test_jmp();
    test_call_ret();
    test_ret();
    test_iret();
    test_iret_cpl3();
    test_int();
}
