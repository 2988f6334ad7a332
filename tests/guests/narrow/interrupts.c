/* INT n and exceptions through interrupt, trap and task gates of 16 and 32 bits: frames, flags,
   rings, error codes, faults of the delivery and their order (SDM 3A 6.12, 6.13; 2A INT n). */
#include "narrow.h"

enum { VECTOR = 0x40, C16 = FREE, C32 = FREE + 8, OTHER = FREE + 16, CONF = FREE + 24 };

#define GATE (idt + 2 * VECTOR)
#define FRAME(i, size) ((size) == 4 ? DATA32(frame + 4 * (i)) : DATA16(frame + 2 * (i)))

static struct code end16, end32, int32, int16;

/* The frame of a handler at the end of `frame`, whose registers are `in`'s. */
static void frames(int cpl)
{
    static const u32 kinds[] = { INT16, TRAP16, INT32, TRAP32 };
    for (u32 i = 0; i < COUNT(kinds); i++)
        for (u32 narrow = 0; narrow < 2; narrow++) {
            u32 size = kinds[i] & 8 ? 4 : 2, traps = kinds[i] & 1;
            const char *what = name("int.%s%u.from%u.cpl%u", traps ? "trap" : "interrupt", size * 8,
                                    narrow ? 16 : 32, cpl);
            struct code code = narrow ? int16 : int32;
            u32 target = size == 4 ? end32.start : end16.start - SNIPPETS;
            set_gate(GATE, size == 4 ? KCODE : C16, target, kinds[i] | RING3);
            if (narrow)
                in_16(cpl, code);
            else
                in_flat(cpl, code);
            in.eflags = 0x3ED7 | F_NT;          /* IF, IOPL 3, the arithmetic flags, NT */
            u32 cs = in.cs, ss = in.ss, esp = in.esp, next = offset_of(code.mark) + 2;
            run();
            check_end(what);
            u32 count = cpl ? 5 : 3, top = cpl ? INNER : DATA + STACK;
            u32 frame = top - count * size;
            check(name("%s.esp", what), cpl ? in.esp : in.esp + (narrow ? DATA : 0), frame);
            check(name("%s.cs", what), in.cs, size == 4 ? KCODE : C16);
            check(name("%s.ss", what), in.ss, cpl ? KDATA : ss);
            check(name("%s.flags", what), in.eflags & 0x7FD7, traps ? 0x3ED7 : 0x3CD7);
            check(name("%s.pushed-ip", what), FRAME(0, size), size == 4 ? next : next & 0xFFFF);
            check(name("%s.pushed-cs", what), FRAME(1, size) & 0xFFFF, cs);
            check(name("%s.pushed-flags", what), FRAME(2, size), 0x3ED7 | F_NT);
            if (cpl) {
                check(name("%s.pushed-sp", what), FRAME(3, size), size == 4 ? esp : esp & 0xFFFF);
                check(name("%s.pushed-ss", what), FRAME(4, size) & 0xFFFF, ss);
            }
        }
}

static void from_v86(void)
{
    for (u32 wide = 0; wide < 2; wide++) {
        u32 size = wide ? 4 : 2;
        const char *what = name("v86.int%u", size * 8);
        set_gate(GATE, wide ? KCODE : C16, wide ? end32.start : end16.start - SNIPPETS,
                 (wide ? INT32 : INT16) | RING3);
        in_v86(3, int16);
        in.es = 0x1111, in.fs = 0x2222, in.gs = 0x3333;
        in.esp = 0xABCD6000;
        run();
        check_end(what);
        u32 frame = INNER - 9 * size, v86 = LOW / 16, data = DATA_V86 / 16;
        u32 want[9] = { int16.mark - SNIPPETS + 2, v86, 0x3002 | (wide ? F_VM : 0),
                        wide ? 0xABCD6000 : 0x6000, data, 0x1111, data, 0x2222, 0x3333 };
        for (u32 i = 0; i < 9; i++)
            check(name("%s.word%u", what, i), i == 1 || i > 3 ? FRAME(i, size) & 0xFFFF
                                                             : FRAME(i, size), want[i]);
        check(name("%s.esp", what), in.esp, frame);
        check(name("%s.null", what), in.ds | in.es | in.fs | in.gs, 0);
        check(name("%s.flags", what), in.eflags & (F_VM | F_NT | F_TF | F_IOPL), F_IOPL);
    }
    in_v86(0, int16);
    run();
    check_fault("v86.int.iopl0", V_GP, 0);
    set_segment(OTHER, 0, 0xFFFFF, XR | FLAT | RING3);
    set_gate(GATE, OTHER, end32.start, INT32 | RING3);
    in_v86(3, int16);
    run();
    check_fault("v86.int.handler-ring3", V_GP, OTHER);
    set_segment(CONF, 0, 0xFFFFF, XR_CONF | FLAT);
    set_gate(GATE, CONF, end32.start, INT32 | RING3);
    in_v86(3, int16);
    run();
    check_fault("v86.int.handler-conforming", V_GP, CONF);
}

static void faults(void)
{
    static const struct { const char *name; u32 selector, access, code, vector, error; } rows[] = {
        { "dpl", C32, INT32, XR | FLAT, V_GP, VECTOR * 8 + 2 },
        { "dpl-before-present", C32, INT32 & ~PRESENT, XR | FLAT, V_GP, VECTOR * 8 + 2 },
        { "not-present", C32, (INT32 | RING3) & ~PRESENT, XR | FLAT, V_NP, VECTOR * 8 + 2 },
        { "call-gate", C32, CALL32 | RING3, XR | FLAT, V_GP, VECTOR * 8 + 2 },
        { "type-0", C32, 0x80 | RING3, XR | FLAT, V_GP, VECTOR * 8 + 2 },
        { "null", 3, INT32 | RING3, XR | FLAT, V_GP, 0 },
        { "beyond", 0xFFF8, INT32 | RING3, XR | FLAT, V_GP, 0xFFF8 },
        { "data", KDATA, INT32 | RING3, XR | FLAT, V_GP, KDATA },
        { "code-not-present", C32, INT32 | RING3, (XR | FLAT) & ~PRESENT, V_NP, C32 },
        { "task-gate-ldt", 4, TASK_GATE | RING3, XR | FLAT, V_GP, 4 },
        { "task-gate-busy", TSS_SNIPPET, TASK_GATE | RING3, XR | FLAT, V_GP, TSS_SNIPPET },
        { "conforming", C32, INT32 | RING3, XR_CONF | FLAT, 0, 0 },
    };
    for (u32 i = 0; i < COUNT(rows); i++) {
        const char *what = name("gate.%s", rows[i].name);
        set_segment(C32, 0, 0xFFFFF, rows[i].code);
        set_gate(GATE, rows[i].selector, end32.start, rows[i].access);
        in_flat(3, int32);
        run();
        if (rows[i].vector)
            check_fault(what, rows[i].vector, rows[i].error);
        else
            check_end(what);
    }
    check("gate.conforming.cs", in.cs, C32 | 3);
    check("gate.conforming.esp", in.esp, DATA + STACK - 12);
    set_segment(C32, 0, 0xFFFFF, XR | FLAT | RING3);
    set_gate(GATE, C32, end32.start, INT32 | RING3);
    in_flat(0, int32);                  /* an outer ring's handler */
    run();
    check_fault("gate.outer-ring", V_GP, C32);

    static const struct { const char *name; u32 selector, access, esp, vector, error; } stacks[] = {
        { "null", 0, RW | FLAT, INNER, V_TS, 0 },
        { "rpl", OTHER | 3, RW | FLAT, INNER, V_TS, OTHER },
        { "dpl", OTHER, RW | FLAT | RING3, INNER, V_TS, OTHER },
        { "read-only", OTHER, RO | FLAT, INNER, V_TS, OTHER },
        { "not-present", OTHER, (RW | FLAT) & ~PRESENT, INNER, V_SS, OTHER },
        { "no-room", OTHER, RW | BIG, 16, V_SS, OTHER },
        { "exact-room", OTHER, RW | BIG, 20, 0, 0 },
    };
    set_segment(C32, 0, 0xFFFFF, XR | FLAT);
    set_gate(GATE, C32, end32.start, INT32 | RING3);
    for (u32 i = 0; i < COUNT(stacks); i++) {
        const char *what = name("int.stack.%s", stacks[i].name);
        u32 flat = stacks[i].access & PAGES;
        set_segment(OTHER, flat ? 0 : DATA, flat ? 0xFFFFF : 0xFFF, stacks[i].access);
        in_flat(3, int32);
        in.ss0 = stacks[i].selector;
        in.esp0 = stacks[i].esp;
        run();
        if (stacks[i].vector)
            check_fault(what, stacks[i].vector, stacks[i].error);
        else
            check_end(what);
    }
    set_segment(C32, 0, 0x1000, XR | BIG);      /* the target is beyond the limit */
    set_segment(OTHER, DATA, 0xFFF, RW | BIG);
    for (u32 room = 0; room < 2; room++) {
        in_flat(3, int32);
        in.ss0 = OTHER;
        in.esp0 = room ? 0x1000 : 16;
        run();
        check_fault(name("int.order.room%u", room), room ? V_GP : V_SS, room ? 0 : OTHER);
    }
}

/* An exception whose own gate is wrong: EXT is set in the error code of the second. */
static void of_exceptions(void)
{
    struct code ud = CODE32(MARK "ud2");
    u32 *gate = idt + 2 * V_UD, saved[2] = { gate[0], gate[1] };
    set_gate(gate, KCODE, end32.start, INT32 & ~PRESENT);
    in_flat(3, ud);
    run();
    check_fault("ud.gate-not-present", V_NP, V_UD * 8 + 3);
    set_gate(gate, 0, end32.start, INT32);
    in_flat(3, ud);
    run();
    check_fault("ud.null-handler", V_GP, 1);
    set_gate(gate, KCODE, end32.start, INT32);
    set_segment(OTHER, 0, 0xFFFFF, (RW | FLAT) & ~PRESENT);
    in_flat(3, ud);
    in.ss0 = OTHER;
    run();
    check_fault("ud.stack-not-present", V_SS, OTHER | 1);
    in_flat(3, ud);
    run();
    check_end("ud.handler");
    u32 frame = INNER - 20;
    check("ud.handler.eip", FRAME(0, 4), ud.mark);
    check("ud.handler.flags", FRAME(2, 4) & F_RF, F_RF);
    gate[0] = saved[0];
    gate[1] = saved[1];

    struct code gp = CODE32(MARK "mov %eax, %ds");  /* #GP by a 16-bit gate: 16-bit error code */
    gate = idt + 2 * V_GP;
    saved[0] = gate[0], saved[1] = gate[1];
    set_gate(gate, C16, end16.start - SNIPPETS, INT16);
    in_flat(3, gp);
    in.eax = 0xFFF8;
    run();
    check_end("gp.16");
    frame = INNER - 12;
    check("gp.16.esp", in.esp, frame);
    check("gp.16.error", FRAME(0, 2), 0xFFF8);
    check("gp.16.ip", FRAME(1, 2), gp.mark & 0xFFFF);
    set_gate(gate, KCODE, end32.start, INT32 & ~PRESENT);
    in_flat(3, gp);
    in.eax = 0xFFF8;
    run();
    check("double-fault", vector << 16 | error, V_DF << 16);
    check("double-fault.eip", in.eip, offset_of(gp.mark));
    gate[0] = saved[0];
    gate[1] = saved[1];
}

static void breakpoints(void)
{
    struct code int3 = CODE32("int3" MARK), icebp = CODE32(".byte 0xF1" MARK);
    set_gate(idt + 2 * V_BP, TSS_HANDLERS + 8 * V_BP, 0, TASK_GATE | RING3);
    in_flat(3, int3);
    run();
    check_fault("int3", V_BP, 0);
    in_v86(0, CODE16("int3" MARK));     /* IOPL does not count for INT3 */
    run();
    check_fault("int3.v86", V_BP, 0);
    in_v86(0, CODE16("into" MARK));
    in.eflags |= F_OF;
    set_gate(idt + 2 * V_OF, TSS_HANDLERS + 8 * V_OF, 0, TASK_GATE | RING3);
    run();
    check_fault("into.v86", V_OF, 0);
    set_gate(idt + 2 * V_BP, TSS_HANDLERS + 8 * V_BP, 0, TASK_GATE);
    struct code dpl = CODE32(MARK "int3");
    in_flat(3, dpl);
    run();
    check_fault("int3.dpl0", V_GP, V_BP * 8 + 2);
    in_flat(3, icebp);
    run();
    check_fault("icebp", V_DB, 0);      /* the gate's DPL does not count for INT1 */
}

static void table_limit(void)
{
    struct { u16 limit; u32 base; } __attribute__((packed)) r = { 0x82 * 8 + 6, (u32)idt }, old;
    struct code code = CODE32(MARK "int $0x82");
    set_gate(idt + 2 * 0x82, KCODE, end32.start, INT32 | RING3);
    asm volatile("sidt %0" : "=m"(old));
    asm volatile("lidt %0" :: "m"(r));
    in_flat(3, code);
    run();
    asm volatile("lidt %0" :: "m"(old));
    check_fault("idt.limit", V_GP, 0x82 * 8 + 2);
    in_flat(3, code);
    run();
    check_end("idt.within");
}

void guest_main(void)
{
    end16 = CODE16("nop");
    end32 = CODE32("nop");
    int16 = CODE16(MARK "int $0x40");
    int32 = CODE32(MARK "int $0x40");
    set_segment(C16, SNIPPETS, 0xFFFF, XR);
    frames(0);
    frames(3);
    from_v86();
    faults();
    of_exceptions();
    breakpoints();
    table_limit();
}
