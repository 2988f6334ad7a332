/* Task switches: JMP, CALL, gates and IRET to TSSs of 16 and 32 bits; busy bits, links and NT; what
   is saved and loaded; faults before and after the switch (SDM 3A 7.2-7.5, table 7-1). */
#include "narrow.h"

enum { OTHER = FREE, TASK = FREE + 8, LDT2 = FREE + 16, SEGMENT = FREE + 24 };

struct tss16 {
    u16 link, sp0, ss0, sp1, ss1, sp2, ss2, ip, flags, ax, cx, dx, bx, sp, bp, si, di, es, cs, ss,
        ds, ldt;
};

static struct tss other;
static struct tss16 narrow;
static struct code end, back;

static void clear(void *at, u32 size)
{
    for (u32 i = 0; i < size; i++)
        ((u8 *)at)[i] = 0;
}

static void set_other(struct code code)
{
    clear(&other, sizeof other);
    other.eip = code.start;
    other.eflags = 2;
    other.eax = 0xE0A, other.ecx = 0xE0C, other.ebx = 0xE0B, other.esi = 0xE05;
    other.esp = DATA + 0x6000;
    other.cs = KCODE;
    other.ss = other.ds = other.es = other.fs = other.gs = KDATA;
    other.cr3 = kernel_tss.cr3;
    set_segment(OTHER, (u32)&other, sizeof other - 1, TSS32);
}

/* `vector` at the end of the other task: its handler's link is that task, not the snippet. */
static void switches(void)
{
    struct { const char *name; struct code code; int call; } rows[] = {
        { "jmp", CODE32(MARK "ljmp $0x60, $0" "\n1: nop"), 0 },
        { "call", CODE32(MARK "lcall $0x60, $0" "\n1: nop"), 1 },
        { "jmp-gate", CODE32(MARK "ljmp $0x68, $0" "\n1: nop"), 0 },
        { "call-gate", CODE32(MARK "lcall $0x68, $0" "\n1: nop"), 1 },
        { "int", CODE32(MARK "int $0x40" "\n1: nop"), 1 },
    };
    set_gate(gdt + TASK / 4, OTHER, 0, TASK_GATE);
    set_gate(idt + 2 * 0x40, OTHER, 0, TASK_GATE);
    for (u32 i = 0; i < COUNT(rows); i++) {
        set_other(end);
        in_flat(0, rows[i].code);
        in.eax = 0xAAAA, in.edi = 0xD1D1, in.eflags |= F_CF | F_DF;
        run();
        const char *what = rows[i].name;
        check(name("task.%s", what), vector, V_END);
        check(name("task.%s.link-of-handler", what), link, OTHER);
        check(name("task.%s.snippet.eip", what), in.eip, rows[i].code.mark + (i == 4 ? 2 : 7));
        check(name("task.%s.snippet.eax", what), in.eax, 0xAAAA);
        check(name("task.%s.snippet.edi", what), in.edi, 0xD1D1);
        check(name("task.%s.snippet.flags", what), in.eflags, 2 | F_CF | F_DF);
        check(name("task.%s.snippet.busy", what), access_of(TSS_SNIPPET),
              rows[i].call ? TSS32 | 2 : TSS32);
        check(name("task.%s.busy", what), access_of(OTHER), TSS32 | 2);
        check(name("task.%s.link", what), other.link, rows[i].call ? TSS_SNIPPET : 0);
        check(name("task.%s.nt", what), other.eflags & F_NT, rows[i].call ? F_NT : 0);
        check(name("task.%s.eax", what), other.eax, 0xE0A);
        check(name("task.%s.esi", what), other.esi, 0xE05);
        check(name("task.%s.esp", what), other.esp, DATA + 0x6000);
    }
    for (u32 i = 1; i < COUNT(rows); i += i == 1 ? 2 : 1) {     /* and back by IRET */
        set_other(back);
        in_flat(0, rows[i].code);
        in.ebp = 0xEB9;
        run();
        check_end(name("task.%s.iret", rows[i].name));
        check(name("task.%s.iret.link", rows[i].name), link, TSS_SNIPPET);
        check(name("task.%s.iret.busy", rows[i].name), access_of(OTHER), TSS32);
        check(name("task.%s.iret.nt", rows[i].name), other.eflags & F_NT, 0);
        check(name("task.%s.iret.own-nt", rows[i].name), in.eflags & F_NT, 0);
        check(name("task.%s.iret.ebp", rows[i].name), in.ebp, 0xEB9);
        check(name("task.%s.iret.eip", rows[i].name), other.eip, back.start + 1);
    }
    in_flat(0, CODE32("lcall $0x60, $0\nmov %cr0, %eax"));
    set_other(back);
    run();
    check("task.sets-ts", in.eax & CR0_TS, CR0_TS);
}

static void to_16_bits(void)
{
    struct code call = CODE32(MARK "lcall $0x60, $0"), last = CODE16("nop");
    struct code ret = CODE16("iret");
    for (u32 i = 0; i < 2; i++) {
        clear(&narrow, sizeof narrow);
        narrow.ip = (i ? ret : last).start - SNIPPETS;
        narrow.flags = 2;
        narrow.ax = 0x1616, narrow.bx = 0xB1B1, narrow.sp = 0x4000;
        narrow.cs = KCODE16;
        narrow.ss = narrow.ds = narrow.es = KDATA16;
        set_segment(OTHER, (u32)&narrow, sizeof narrow - 1, TSS16);
        in_flat(0, call);
        in.eax = 0x12345678, in.fs = UDATA;
        run();
        const char *what = i ? "task16.iret" : "task16";
        check(what, vector, V_END);
        check(name("%s.link-of-handler", what), link, i ? TSS_SNIPPET : OTHER);
        check(name("%s.link", what), narrow.link, TSS_SNIPPET);
        check(name("%s.ax", what), narrow.ax, 0x1616);
        check(name("%s.cs", what), narrow.cs, KCODE16);
        check(name("%s.flags", what), narrow.flags & 0x7FFF, i ? 2 : 2 | F_NT);
        check(name("%s.snippet.eax", what), in.eax, 0x12345678);
        check(name("%s.snippet.fs", what), in.fs, UDATA);
    }
}

/* Faults that leave the present task as it is: they are at the instruction. */
static void before(void)
{
    static const struct { const char *name; u32 access, limit, vector, error; } rows[] = {
        { "busy", TSS32 | 2, 0x1000, V_GP, OTHER },
        { "absent", TSS32 & ~PRESENT, 0x1000, V_NP, OTHER },
        { "short", TSS32, 102, V_TS, OTHER }, { "short16", TSS16, 42, V_TS, OTHER },
        { "data", RW, 0x1000, V_GP, OTHER }, { "ldt", LDT, 0x1000, V_GP, OTHER },
    };
    struct code codes[] = { CODE32(MARK "lcall $0x60, $0"), CODE32(MARK "ljmp $0x68, $0") };
    for (u32 i = 0; i < COUNT(rows); i++)
        for (u32 gate = 0; gate < 2; gate++) {
            if (rows[i].access == RW && !gate)
                continue;                       /* a data segment: #GP all the same */
            set_other(end);
            set_segment(OTHER, (u32)&other, rows[i].limit, rows[i].access);
            set_gate(gdt + TASK / 4, OTHER, 0, TASK_GATE);
            in_flat(0, codes[gate]);
            run();
            check_fault(name("task.before.%s.gate%u", rows[i].name, gate), rows[i].vector,
                        rows[i].error);
            check(name("task.before.%s.gate%u.tss", rows[i].name, gate), access_of(OTHER),
                  rows[i].access);
        }
    set_other(end);
    struct code dpl = CODE32(MARK "lcall $0x63, $0"), gate = CODE32(MARK "lcall $0x6B, $0");
    in_flat(3, dpl);
    run();
    check_fault("task.dpl", V_GP, OTHER);
    set_gate(gdt + TASK / 4, OTHER, 0, TASK_GATE);
    in_flat(3, gate);
    run();
    check_fault("task.gate.dpl", V_GP, TASK);
    set_gate(gdt + TASK / 4, OTHER, 0, TASK_GATE | RING3);  /* the gate's DPL counts */
    in_flat(3, gate);
    run();
    check("task.gate.ring3", vector << 16 | link, V_END << 16 | OTHER);
    set_gate(gdt + TASK / 4, OTHER, 0, (TASK_GATE | RING3) & ~PRESENT);
    in_flat(3, gate);
    run();
    check_fault("task.gate.absent", V_NP, TASK);
    struct code iret = CODE32(MARK "iret");     /* NT with a link that is no busy TSS */
    set_other(end);
    in_flat(0, iret);
    in.eflags |= F_NT;
    in.link = OTHER;
    run();
    check_fault("task.iret.not-busy", V_TS, OTHER);
    in_flat(0, iret);
    in.eflags |= F_NT;
    in.link = 0;
    run();
    check_fault("task.iret.null", V_TS, 0);
}

/* Faults of the new task's registers: they belong to the new task. */
static void after(void)
{
    static const struct { const char *name; u32 *field, value, access, vector, error; } rows[] = {
        { "cs-null", &other.cs, 0, XR | FLAT, V_TS, 0 },
        { "cs-data", &other.cs, KDATA, XR | FLAT, V_TS, KDATA },
        { "cs-rpl", &other.cs, KCODE | 3, XR | FLAT, V_TS, KCODE },
        { "cs-absent", &other.cs, SEGMENT, (XR | FLAT) & ~PRESENT, V_NP, SEGMENT },
        { "ss-null", &other.ss, 0, RW | FLAT, V_TS, 0 },
        { "ss-rpl", &other.ss, KDATA | 3, RW | FLAT, V_TS, KDATA },
        { "ss-read-only", &other.ss, SEGMENT, RO | FLAT, V_TS, SEGMENT },
        { "ss-absent", &other.ss, SEGMENT, (RW | FLAT) & ~PRESENT, V_SS, SEGMENT },
        { "ds-execute-only", &other.ds, SEGMENT, XO | FLAT, V_TS, SEGMENT },
        { "es-absent", &other.es, SEGMENT, (RW | FLAT) & ~PRESENT, V_NP, SEGMENT },
        { "fs-beyond", &other.fs, 0xFFF8, RW | FLAT, V_TS, 0xFFF8 },
        { "gs-tss", &other.gs, OTHER, RW | FLAT, V_TS, OTHER },
        { "ldt-type", &other.ldt, KDATA, RW | FLAT, V_TS, KDATA },
        { "ldt-absent", &other.ldt, SEGMENT, LDT & ~PRESENT, V_TS, SEGMENT },
        { "ldt-in-ldt", &other.ldt, SEGMENT | 4, LDT, V_TS, SEGMENT | 4 },
    };
    struct code call = CODE32(MARK "lcall $0x60, $0");
    for (u32 i = 0; i < COUNT(rows); i++) {
        set_other(end);
        set_segment(SEGMENT, 0, 0xFFFFF, rows[i].access);
        *rows[i].field = rows[i].value;
        in_flat(0, call);
        run();
        const char *what = name("task.after.%s", rows[i].name);
        check(what, vector << 16 | error, rows[i].vector << 16 | rows[i].error);
        check(name("%s.link", what), link, OTHER);      /* the new task has faulted */
        check(name("%s.eip", what), other.eip, end.start);
        check(name("%s.selector", what), *rows[i].field & 0xFFFF, rows[i].value);
        check(name("%s.snippet", what), in.eip, call.mark + 7);
    }
    set_other(end);
    set_segment(SEGMENT, 0, 0x100, XR | BIG);
    other.cs = SEGMENT;
    in_flat(0, call);
    run();
    check("task.after.eip", vector << 16 | error, V_GP << 16);
    check("task.after.eip.link", link, OTHER);
    set_other(end);                                     /* a null DS is as good as any */
    other.ds = 3;
    in_flat(0, call);
    run();
    check("task.after.ds-null", vector, V_END);
    set_other(CODE16("nop\n.byte 0xF1"));               /* a virtual-8086 task */
    other.eflags |= F_VM | F_IOPL;
    other.eip -= SNIPPETS;
    other.cs = other.ss = other.ds = other.es = other.fs = other.gs = LOW / 16;
    other.esp = 0x8000;
    in_flat(0, call);
    run();
    check("task.v86", vector, V_DB);
    check("task.v86.flags", other.eflags & (F_VM | F_IOPL), F_VM | F_IOPL);
}

void guest_main(void)
{
    end = CODE32("nop");
    back = CODE32("iret\nnop");
    switches();
    to_16_bits();
    before();
    after();
}
