/* LAR, LSL, VERR, VERW and the loads and stores of segment registers: they see the guest's own
   descriptors, its CPL, and its LDT. */
#include "guest.h"

enum {
    KC = FREE_SEL, KD = FREE_SEL + 8, UC = FREE_SEL + 16, UD = FREE_SEL + 24,
    CONFORMING = FREE_SEL + 32, EXEC_ONLY = FREE_SEL + 40, READ_ONLY = FREE_SEL + 48,
    DOWN = FREE_SEL + 56, ABSENT = FREE_SEL + 64, GATE = FREE_SEL + 72, /* 16 bytes */
    BYTES = FREE_SEL + 88, BASED = FREE_SEL + 96, TSS_FREE = FREE_SEL + 104, /* 16 bytes */
    ZERO = FREE_SEL + 120, LDT_DATA = 0x0C, LDT_ABSENT = 0x14
};

/* What each instruction makes of a selector at CPL 0 and 3; 0 in `ar` or -1 in `limit`: ZF = 0. */
struct view {
    const char *name;
    u16 selector;
    u32 ar0, ar3;
    i64 limit0, limit3;
    u8 read0, read3, write0, write3;
};

static const struct view views[] = {
    { "null", 0, 0, 0, -1, -1, 0, 0, 0, 0 },
    { "null-rpl3", 3, 0, 0, -1, -1, 0, 0, 0, 0 },
    { "kernel-code", KC, 0xA09A00, 0, 0xFFFFFFFF, -1, 1, 0, 0, 0 },
    { "kernel-data", KD, 0xC09200, 0, 0xFFFFFFFF, -1, 1, 0, 1, 0 },
    { "kernel-data-rpl3", KD | 3, 0, 0, -1, -1, 0, 0, 0, 0 },
    { "user-code", UC | 3, 0xA0FA00, 0xA0FA00, 0x12345FFF, 0x12345FFF, 1, 1, 0, 0 },
    { "user-data", UD | 3, 0xC0F200, 0xC0F200, 0x54321FFF, 0x54321FFF, 1, 1, 1, 1 },
    { "user-data-rpl0", UD, 0xC0F200, 0xC0F200, 0x54321FFF, 0x54321FFF, 1, 1, 1, 1 },
    { "conforming", CONFORMING | 3, 0xA09E00, 0xA09E00, 0xFFFFFFFF, 0xFFFFFFFF, 1, 1, 0, 0 },
    { "execute-only", EXEC_ONLY | 3, 0xA0F800, 0xA0F800, 0xFFFFFFFF, 0xFFFFFFFF, 0, 0, 0, 0 },
    { "read-only", READ_ONLY | 3, 0xC0F000, 0xC0F000, 0xFFFFFFFF, 0xFFFFFFFF, 1, 1, 0, 0 },
    { "expand-down", DOWN | 3, 0x40F600, 0x40F600, 0x00777, 0x00777, 1, 1, 1, 1 },
    { "byte-limit", BYTES | 3, 0x40F200, 0x40F200, 0xABCDE, 0xABCDE, 1, 1, 1, 1 },
    { "not-present", ABSENT | 3, 0xC07200, 0xC07200, 0xFFFFFFFF, 0xFFFFFFFF, 1, 1, 1, 1 },
    { "call-gate", GATE | 3, 0x20EC00, 0x20EC00, /* 2: of its target */ -1, -1, 0, 0, 0, 0 },
    { "busy-tss", TSS_SEL, 0x008B00, 0, 103, -1, 0, 0, 0, 0 },
    { "available-tss", TSS_FREE, 0x008900, 0, 0x99, -1, 0, 0, 0, 0 },
    { "ldt", LDT_SEL, 0x008200, 0, 0x1F, -1, 0, 0, 0, 0 },
    { "type-0", ZERO, 0, 0, -1, -1, 0, 0, 0, 0 },
    { "beyond-gdt", GDT_ENTRIES * 8, 0, 0, -1, -1, 0, 0, 0, 0 },
    { "ldt-data", LDT_DATA | 3, 0x40F200, 0x40F200, 0x4321, 0x4321, 1, 1, 1, 1 },
    { "beyond-ldt", 0x24 | 3, 0, 0, -1, -1, 0, 0, 0, 0 },
};

static u64 ldt[4];
static u16 operand UDATA;

static void set_descriptors(void)
{
    set_segment(KC, 0, 0xFFFFF, 0xA09A);
    set_segment(KD, 0, 0xFFFFF, 0xC092);
    set_segment(UC, 0, 0x12345, 0xA0FA);
    set_segment(UD, 0, 0x54321, 0xC0F2);
    set_segment(CONFORMING, 0, 0xFFFFF, 0xA09E);
    set_segment(EXEC_ONLY, 0, 0xFFFFF, 0xA0F8);
    set_segment(READ_ONLY, 0, 0xFFFFF, 0xC0F0);
    set_segment(DOWN, 0, 0x777, 0x40F6);
    set_segment(ABSENT, 0, 0xFFFFF, 0xC072);
    set_segment(BYTES, 0, 0xABCDE, 0x40F2);
    set_segment(BASED, 0x87654320, 0xFFFFF, 0xC0F2);
    set_call_gate(GATE, 0x200000, KCODE, 3);
    set_system(TSS_FREE, (u64)&tss, 0x99, 0x0089);
    set_ldt((u64)ldt, sizeof ldt - 1);
    ldt[1] = 0x0040F20000004321;            /* 0x0C: user data, base 0 */
    ldt[2] = 0x0040720000004321;            /* 0x14: not present */
}

static void view_check(const struct view *v, int cpl)
{
    u64 garbage = 0x1122334455667788, zf;
    u32 ar = cpl ? v->ar3 : v->ar0;
    i64 limit = cpl ? v->limit3 : v->limit0;
    char name[64];

    format_name(name, "lar.%s", v->name);
    run_with(cpl, CODE("lar %rcx, %rax"), garbage, v->selector, 0);
    zf = trap.c.rflags & F_ZF ? 1 : 0;
    CHECK(at(with(name, "zf"), cpl), zf, ar != 0);
    u64 got = trap.c.r[RAX] & (zf ? 0xFFFFFFFF00F0FE00 : ~0ul);  /* bit 8: accessed */
    CHECK(at(with(name, "rights"), cpl), got, ar ? ar & ~0x100u : garbage);
    run_with(cpl, CODE("lar %cx, %ax"), garbage, v->selector, 0);
    got = trap.c.r[RAX] & ~(ar ? 0x1FFul : 0);
    CHECK(at(with(name, "r16"), cpl), got, ar ? (garbage & ~0xFFFFul) | (ar & 0xFE00) : garbage);

    format_name(name, "lsl.%s", v->name);
    run_with(cpl, CODE("lsl %rcx, %rax"), garbage, v->selector, 0);
    CHECK(at(with(name, "zf"), cpl), trap.c.rflags & F_ZF ? 1 : 0, limit >= 0);
    CHECK(at(with(name, "limit"), cpl), trap.c.r[RAX], limit >= 0 ? (u64)limit : garbage);
    operand = v->selector;
    struct cpu c = at_cpl(cpl, CODE("lsl (%rdx), %eax"));
    c.r[RDX] = (u64)&operand;
    c.rflags |= F_ARITH & ~F_ZF;
    run(&c);
    CHECK(at(with(name, "m16-flags"), cpl), trap.c.rflags,
          F_1 | (F_ARITH & ~F_ZF) | (limit >= 0 ? F_ZF : 0));

    format_name(name, "verr.%s", v->name);
    run_with(cpl, CODE("verr %cx"), 0, v->selector, 0);
    CHECK(at(name, cpl), trap.c.rflags & F_ZF ? 1 : 0, cpl ? v->read3 : v->read0);
    format_name(name, "verw.%s", v->name);
    run_with(cpl, CODE("verw (%rdx)"), 0, 0, (u64)&operand);
    CHECK(at(name, cpl), trap.c.rflags & F_ZF ? 1 : 0, cpl ? v->write3 : v->write0);
}

static void test_moves_from(void)
{
    void *code = CODE("mov $-1, %rax; mov %cs, %rax; mov $-1, %rcx; mov %ss, %ecx;"
                      "mov $-1, %rdx; mov %cs, %dx");
    run_code(0, code);
    CHECK("mov-from-cs.cpl0", trap.c.r[RAX], KCODE);
    CHECK("mov-from-ss.cpl0", trap.c.r[RCX], KDATA);
    run_code(3, code);
    CHECK("mov-from-cs.cpl3", trap.c.r[RAX], UCODE);
    CHECK("mov-from-ss.cpl3", trap.c.r[RCX], UDATA_SEL);
    CHECK("mov-from-cs.word.cpl3", trap.c.r[RDX], ~0xFFFFul | UCODE);
    code = CODE("movl $-1, -64(%rsp); mov %cs, -64(%rsp); mov -64(%rsp), %eax");
    run_code(3, code);
    CHECK("mov-from-cs.memory.cpl3", trap.c.r[RAX], 0xFFFF0000 | UCODE);
    code = CODE("mov $0x2b, %eax;" MARK ".byte 0x8E, 0xC8");
    run_code(0, code);
    check_fault("mov-to-cs.cpl0", code, V_UD, 0);
    code = CODE(".byte 0x8E, 0xF0");
    run_code(0, code);
    check_fault("mov-to-segment-6", code, V_UD, 0);
}

static void test_push_pop(void)
{
    EACH_CPL(cpl) {
        u64 top = cpl ? USER_RSP : KERNEL_RSP;
        void *code = CODE("mov %ecx, %fs; mov %edx, %gs; push %fs; push %gs; pop %rax; pop %rbx;"
                          "push %fs; pop %gs; mov %gs, %esi; pushw %gs; mov %rsp, %rdi;"
                          "popw %fs; mov %fs, %ebp");
        run_with(cpl, code, 0, UD | 3, BYTES | 3);
        check_end(at("push-segment", cpl), code);
        CHECK(at("push-fs", cpl), trap.c.r[RBX], UD | 3);
        CHECK(at("push-gs", cpl), trap.c.r[RAX], BYTES | 3);
        CHECK(at("pop-gs", cpl), trap.c.r[RSI], UD | 3);
        CHECK(at("pushw-gs.rsp", cpl), trap.c.r[RDI], top - 2);
        CHECK(at("popw-fs", cpl), trap.c.r[RBP], UD | 3);
        CHECK(at("popw-fs.rsp", cpl), trap.c.r[RSP], top);
        /* REX before another prefix, also before REX, is ignored. */
        code = CODE("push %rcx; .byte 0x48, 0x48, 0x0F, 0xA1; mov %fs, %eax; mov %cs, %ebx; push %rdx;"
                    ".byte 0x48, 0x2E, 0x0F, 0xA9; mov %gs, %esi; .byte 0x4C, 0x48, 0x0F, 0xA0; pop %rdi");
        run_with(cpl, code, 0, UD | 3, BYTES | 3);
        check_end(at("rex-twice", cpl), code);
        CHECK(at("rex-twice.fs", cpl), trap.c.r[RAX], UD | 3);
        CHECK(at("rex-twice.cs", cpl), trap.c.r[RBX], cpl ? UCODE : KCODE);
        CHECK(at("rex-twice.gs", cpl), trap.c.r[RSI], BYTES | 3);
        CHECK(at("rex-twice.push-fs", cpl), trap.c.r[RDI], UD | 3);
    }
    static const u8 opcodes[] = { 0x06, 0x07, 0x0E, 0x16, 0x17, 0x1E, 0x1F };
    u8 *code = CODE("nop");
    for (u64 i = 0; i < sizeof opcodes; i++) {
        code[0] = opcodes[i];
        run_code(0, code);
        char name[64];
        format_name(name, "push-pop-opcode.%x", (u32)opcodes[i]);
        check_fault(name, code, V_UD, 0);
    }
}

struct load {
    const char *name;
    u16 selector;
    u8 cpl, vector;     /* 0: loads */
    u16 error;
};

static void *load_code(int segment)
{
    switch (segment) {
    case 0: return CODE(MARK "mov %ecx, %ds; mov %ds, %eax; mov %edx, %ds");
    case 1: return CODE(MARK "mov %ecx, %es; mov %es, %eax; mov %edx, %es");
    case 2: return CODE(MARK "mov %ecx, %fs; mov %fs, %eax; mov %edx, %fs");
    case 3: return CODE("push %rcx;" MARK "pop %gs; mov %gs, %eax");
    default: return CODE(MARK "mov %ecx, %ss; mov %ss, %eax");
    }
}

static void load_check(const struct load *l, int segment)
{
    static const char *const segments[] = { "ds", "es", "fs", "pop-gs", "ss" };
    char name[64];
    void *code = load_code(segment);
    format_name(name, "load.%s.%s.cpl%d", segments[segment], l->name, l->cpl);
    run_with(l->cpl, code, 0, l->selector, 0);
    if (l->vector)
        check_fault(name, code, l->vector, l->error);
    else if (trap.vector != V_END)
        check_fault(name, code, V_END, 0);
    else
        CHECK(name, trap.c.r[RAX], l->selector);
}

static const struct load data_loads[] = {
    { "null", 0, 0, 0, 0 }, { "null", 0, 3, 0, 0 }, { "null-rpl3", 3, 3, 0, 0 },
    { "user-data", UD | 3, 3, 0, 0 }, { "user-data", UD | 3, 0, 0, 0 },
    { "user-data-rpl0", UD, 3, 0, 0 },
    { "kernel-data", KD, 0, 0, 0 }, { "kernel-data", KD, 3, V_GP, KD },
    { "kernel-data-rpl3", KD | 3, 0, V_GP, KD },
    { "user-code", UC | 3, 3, 0, 0 }, { "conforming", CONFORMING | 3, 3, 0, 0 },
    { "execute-only", EXEC_ONLY | 3, 3, V_GP, EXEC_ONLY },
    { "read-only", READ_ONLY | 3, 3, 0, 0 }, { "not-present", ABSENT | 3, 3, V_NP, ABSENT },
    { "call-gate", GATE | 3, 3, V_GP, GATE }, { "tss", TSS_SEL, 0, V_GP, TSS_SEL },
    { "beyond-gdt", GDT_ENTRIES * 8 + 3, 3, V_GP, GDT_ENTRIES * 8 },
    { "ldt-data", LDT_DATA | 3, 3, 0, 0 }, { "beyond-ldt", 0x27, 3, V_GP, 0x24 },
    { "ldt-not-present", LDT_ABSENT | 3, 3, V_NP, LDT_ABSENT },
};

static const struct load stack_loads[] = {
    { "kernel-data", KD, 0, 0, 0 }, { "null", 0, 0, 0, 0 }, { "null", 0, 3, V_GP, 0 },
    { "null-rpl3", 3, 3, V_GP, 0 }, { "null-rpl3", 3, 0, V_GP, 0 },
    { "user-data", UD | 3, 3, 0, 0 }, { "user-data", UD | 3, 0, V_GP, UD },
    { "user-data-rpl0", UD, 3, V_GP, UD }, { "user-data-rpl0", UD, 0, V_GP, UD },
    { "kernel-data", KD | 3, 3, V_GP, KD }, { "read-only", READ_ONLY | 3, 3, V_GP, READ_ONLY },
    { "user-code", UC | 3, 3, V_GP, UC }, { "not-present", ABSENT | 3, 3, V_SS, ABSENT },
    { "beyond-gdt", GDT_ENTRIES * 8 + 3, 3, V_GP, GDT_ENTRIES * 8 },
    { "ldt-data", LDT_DATA | 3, 3, 0, 0 },
};

static void test_bases(void)
{
    void *code = CODE("mov %ecx, %fs; mov %edx, %gs");
    run_with(0, code, 0, BASED | 3, UD | 3);
    CHECK("load.fs.base", read_msr(MSR_FS_BASE), 0x87654320);
    CHECK("load.gs.base", read_msr(MSR_GS_BASE), 0);
    run_with(3, code, 0, UD | 3, BASED | 3);
    CHECK("load.fs.base.cpl3", read_msr(MSR_FS_BASE), 0);
    CHECK("load.gs.base.cpl3", read_msr(MSR_GS_BASE), 0x87654320);
    set_segment(BASED, 0x1000, 0xFFFFF, 0xC0F2);
    CHECK("load.gs.base-is-cached", read_msr(MSR_GS_BASE), 0x87654320);
    CHECK("load.not-accessed", gdt[BASED / 8] >> 40 & 1, 0);
    run_with(0, code, 0, BASED | 3, 0);
    CHECK("load.fs.base-new", read_msr(MSR_FS_BASE), 0x1000);
    CHECK("load.sets-accessed", gdt[BASED / 8] >> 40 & 1, 1);
    run_with(0, code, 0, 0, 0);
}

/* IRETQ to a lower privilege nulls the data segments that it may not keep. */
static void test_return_nulls(void)
{
    void *code = CODE("mov %ds, %eax; mov %es, %ecx; mov %fs, %edx; mov %gs, %ebx");
    asm volatile("mov %0, %%ds; mov %1, %%es; mov %0, %%fs; mov %2, %%gs"
                 :: "r"(KD), "r"(UD | 3), "r"(CONFORMING));
    run_code(3, code);
    CHECK("iret-nulls.ds", trap.c.r[RAX], 0);
    CHECK("iret-keeps.es", trap.c.r[RCX], UD | 3);
    CHECK("iret-nulls.fs", trap.c.r[RDX], 0);
    CHECK("iret-keeps.gs-conforming", trap.c.r[RBX], CONFORMING);
    asm volatile("mov %0, %%ds; mov %0, %%es; mov %0, %%fs; mov %0, %%gs" :: "r"(0));
}

void guest_main(void)
{
    for (u64 i = 0; i < sizeof views / sizeof *views; i++)
        EACH_CPL(cpl) {
            set_descriptors();
            view_check(&views[i], cpl);
        }
    test_moves_from();
    test_push_pop();
    set_descriptors();
    for (u64 i = 0; i < sizeof data_loads / sizeof *data_loads; i++)
        for (int segment = 0; segment < 4; segment++)
            load_check(&data_loads[i], segment);
    for (u64 i = 0; i < sizeof stack_loads / sizeof *stack_loads; i++)
        load_check(&stack_loads[i], 4);
    test_bases();
    test_return_nulls();
}
