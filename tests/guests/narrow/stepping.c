/* Single steps, breakpoints and alignment checks in 16- and 32-bit code (SDM 3B 17.2-17.3). */
#include "narrow.h"

enum { BS = 0x4000, BT = 0x8000 };

static u32 dr6(void)
{
    u32 value;
    asm volatile("mov %%dr6, %0\nmov %1, %%dr6" : "=&r"(value) : "r"(0xFFFF0FF0));
    return value & 0xE00F;
}

static void expect(const char *what, struct code code, u32 hits)
{
    check_fault(what, V_DB, 0);
    check(name("%s.dr6", what), dr6(), hits);
    (void)code;
}

/* TF is set by the snippet's own POPF, or by its TSS; the trap comes behind one instruction. */
static void steps(void)
{
    struct row { const char *name; struct code wide, narrow; } rows[] = {
#define ROW(name, text) \
        { name, CODE32(text "\n" MARK "nop\nnop"), CODE16(text "\n" MARK "nop\nnop") }
        ROW("nop", "nop"), ROW("branch", "jmp 1f\nhlt\n1:"),
        ROW("mov", "mov %eax, %ebx"), ROW("memory", "mov %eax, 0x1000(%esi)"),
        ROW("push", "push %eax"), ROW("mov-ss", "mov %edx, %ss\nnop"),
        ROW("loop", "1: loop 1b"), ROW("rep", "rep lodsb"),
    };
    for (u32 i = 0; i < COUNT(rows); i++)
        for (u32 mode = 0; mode < 4; mode++) {
            static const char *const modes[] = { "32", "cpl3", "16", "v86" };
            const char *what = name("step.%s.%s", rows[i].name, modes[mode]);
            if (mode < 2)
                in_flat(mode ? 3 : 0, rows[i].wide);
            else if (mode == 2)
                in_16(3, rows[i].narrow);
            else
                in_v86(3, rows[i].narrow);
            in.esi = mode < 2 ? DATA : 0;
            in.edx = in.ss;
            in.ecx = 1;
            in.eflags |= F_TF;
            run();
            expect(what, rows[i].wide, BS);
            check(name("%s.tf", what), in.eflags & F_TF, F_TF);     /* as saved */
        }
    struct code popf = CODE32("pushf\norl $0x100, (%esp)\npopf\nnop" MARK "\nnop\nnop");
    in_flat(3, popf);
    run();
    expect("step.after-popf", popf, BS);
    struct code clears = CODE32("push $2\npopf" MARK "\nnop\nnop");
    in_flat(3, clears);                 /* TF was set before POPF, which traps itself */
    in.eflags |= F_TF;
    run();
    check("step.first", in.eip, clears.start + 2);
    in_flat(3, CODE32("popf" MARK "\nnop\nnop"));
    DATA32(DATA + STACK) = 2;
    in.eflags |= F_TF;
    run();
    check("step.popf-clears", vector, V_DB);
    check("step.popf-clears.tf", in.eflags & F_TF, 0);
    dr6();
    struct code rep = CODE32(MARK "rep lodsb\nnop");
    in_flat(3, rep);                    /* a trap after each repetition */
    in.ecx = 3;
    in.esi = DATA;
    in.eflags |= F_TF;
    run();
    expect("step.rep.once", rep, BS);
    check("step.rep.ecx", in.ecx, 2);
    struct code iret = CODE32("iret\n1: nop" MARK "\nnop");
    in_flat(3, iret);                   /* IRET that sets TF: the trap comes after the next */
    DATA32(DATA + STACK) = iret.start + 1;
    DATA32(DATA + STACK + 4) = UCODE;
    DATA32(DATA + STACK + 8) = 0x102;
    run();
    expect("step.after-iret", iret, BS);
}

/* INT n clears TF, so its handler is not stepped; the return goes on stepping. */
static void through_int(void)
{
    struct code handler = CODE32("mov 8(%esp), %ebx\niret");
    struct code code = CODE32("int $0x40\nnop" MARK "\nnop");
    set_gate(idt + 2 * 0x40, KCODE, handler.start, INT32 | RING3);
    for (int cpl = 0; cpl <= 3; cpl += 3) {
        in_flat(cpl, code);
        in.eflags |= F_TF;
        run();
        expect(name("step.int.cpl%u", cpl), code, BS);
        check(name("step.int.pushed.cpl%u", cpl), in.ebx & F_TF, F_TF);
    }
    struct code v86 = CODE16("int $0x40\nnop" MARK "\nnop");
    in_v86(3, v86);
    in.eflags |= F_TF;
    run();
    expect("step.int.v86", v86, BS);
}

static void set_dr(u32 dr0, u32 dr7)
{
    asm volatile("mov %0, %%dr0\nmov %1, %%dr7" :: "r"(dr0), "r"(dr7));
}

/* Global breakpoints: they outlast a task switch, which clears the local ones. */
static void breakpoints(void)
{
    struct code code = CODE32("nop" MARK "\nnop\nnop"), narrow = CODE16("nop" MARK "\nnop\nnop");
    set_dr(code.mark, 2);
    in_flat(3, code);
    run();
    expect("break.32", code, 1);
    check("break.32.rf", in.eflags & F_RF, 0);  /* RF is for other faults (SDM 3B 17.3.1.1) */
    in_flat(3, code);
    in.eip = code.mark;
    in.eflags |= F_RF;
    run();
    check_end("break.rf");
    set_dr(code.mark, 1);               /* local: the switch to the snippet clears it */
    in_flat(3, code);
    run();
    check_end("break.local");
    set_dr(narrow.mark, 2);             /* breakpoints are linear addresses */
    in_16(3, narrow);
    run();
    expect("break.16", narrow, 1);
    set_dr(narrow.mark - SNIPPETS + LOW, 2);
    in_v86(3, narrow);
    run();
    expect("break.v86", narrow, 1);
    static const struct { const char *name; u32 at, kind, hits; } rows[] = {
        { "write", 0x100, 0xD0000, 1 }, { "read-write", 0x100, 0xF0000, 1 },
        { "write-before", 0xFE, 0x50000, 0 }, { "write-half", 0x102, 0x50000, 1 },
        { "byte-in-long", 0x103, 0x10000, 1 }, { "next", 0x104, 0x10000, 0 },
    };
    struct code write = CODE32("movl %eax, (%ebx)" MARK "\nnop");
    struct code write16 = CODE16("movl %eax, (%bx)" MARK "\nnop");
    for (u32 i = 0; i < COUNT(rows); i++)
        for (u32 narrower = 0; narrower < 2; narrower++) {
            const char *what = name("watch.%s.%u", rows[i].name, narrower ? 16 : 32);
            set_dr(DATA + rows[i].at, rows[i].kind | 2);
            if (narrower)
                in_16(3, write16);
            else
                in_flat(3, write);
            in.ebx = narrower ? 0x100 : DATA + 0x100;
            run();
            if (rows[i].hits)
                expect(what, write, 1);
            else
                check_end(what);
        }
    struct code stack[] = { CODE16("pushw %ax" MARK "\nnop"), CODE16("pushw $5\npopw %ax\n"
                            "call 1f\n1:" MARK "\nnop"), CODE16("stosb" MARK "\nnop"),
                            CODE16("lodsw" MARK "\nnop"), CODE16("movb %al, %es:0x8000(%bp, %si)"
                            MARK "\nnop"), CODE16("xlat" MARK "\nnop"),
                            CODE16("pushaw" MARK "\nnop"), CODE16("lesw (%si), %di" MARK "\nnop"),
                            CODE16("enterw $4, $0" MARK "\nnop"), CODE16("popaw" MARK "\nnop"),
                            CODE16("bound %di, (%si)" MARK "\nnop"),
                            CODE16("lcallw *(%si)\n.org .+8\n1:" MARK "\nnop"),
                            CODE16("btsw %dx, (%si)" MARK "\nnop") };
    static const struct { const char *name; u32 at, kind; } others[] = {
        { "push", STACK - 2, 0x50000 }, { "call", STACK - 2, 0x50000 }, { "stos", 0xFFFF, 0x10000 },
        { "lods", 0xFFF0, 0x70000 }, { "bp-si", 0x10, 0x10000 }, { "xlat", 0xFF34, 0x30000 },
        { "pusha", STACK - 10, 0x50000 }, { "les", 0xFFF2, 0x70000 },
        { "enter", STACK - 2, 0x50000 },
        { "popa", STACK + 4, 0x70000 }, { "bound", 0xFFF2, 0x70000 },
        { "lcall", STACK - 2, 0x50000 },
        { "bts", 0xFFF2, 0x50000 },
    };
    for (u32 i = 0; i < COUNT(others); i++) {
        in_16(3, stack[i]);
        in.edi = 0xABFFFF;
        in.esi = 0xABFFF0;
        in.ebp = 0xCD8020;
        in.ebx = 0xEFFF34;
        in.eax = 0x100;
        in.esp = 0x20000 + STACK;
        in.edx = 0x11;                  /* BTS: the second word */
        DATA16(DATA + 0xFFF0) = i == 10 ? 0x8000 : i == 12 ? 0 : stack[i].mark - SNIPPETS;
        DATA16(DATA + 0xFFF2) = i == 10 ? 0x7FFF : UCODE16;
        set_dr(DATA + others[i].at, others[i].kind | 2);
        run();
        set_dr(0, 0);                   /* not for this program's own accesses */
        if (i == 1)
            check("watch.call", vector, V_DB);
        else
            check_fault(name("watch.%s", others[i].name), V_DB, 0);
        check(name("watch.%s.dr6", others[i].name), dr6(), 1);
    }
    struct code none = CODE16("rep stosb");     /* CX is 0 */
    set_dr(DATA + 0x10, 0x10002);
    in_16(3, none);
    in.edi = 0x10;
    in.ecx = 0x10000;
    run();
    check_end("watch.no-repetition");
    set_dr(0, 0);
    struct code plain = CODE32(MARK "nop");
    in_flat(3, plain);                  /* the debug trap of the TSS itself (SDM 3A 7.2.1) */
    in.trap = 1;
    run();
    expect("task.trap", plain, BT);
}

static void alignment(void)
{
    struct row { const char *name; struct code code; u32 bits; } rows[] = {
        { "word", CODE32(MARK "movw (%ebx), %ax"), 1 },
        { "long", CODE32(MARK "movl %eax, (%ebx)"), 3 },
        { "byte", CODE32(MARK "movb (%ebx), %al"), 0 }, { "push", CODE32(MARK "push %eax"), 3 },
        { "rmw", CODE32(MARK "incw (%ebx)"), 1 }, { "string", CODE32(MARK "lodsl"), 3 },
        { "segment", CODE32(MARK "mov (%ebx), %fs"), 1 },
    };
    u32 cr0;
    asm volatile("mov %%cr0, %0" : "=r"(cr0));
    asm volatile("mov %0, %%cr0" :: "r"(cr0 | CR0_AM));
    for (u32 i = 0; i < COUNT(rows); i++)
        for (u32 odd = 0; odd < 4; odd++)
            for (u32 ac = 0; ac < 2; ac++)
                for (int cpl = 0; cpl <= 3; cpl += 3) {
                    const char *what = name("align.%s.%u.ac%u.cpl%u", rows[i].name, odd, ac, cpl);
                    in_flat(cpl, rows[i].code);
                    in.ebx = in.esi = DATA + 0x100 + odd;
                    DATA32(DATA + 0x100) = DATA32(DATA + 0x104) = 0;
                    in.esp += odd;
                    in.eflags |= ac ? F_AC : 0;
                    run();
                    if (ac && cpl && odd & rows[i].bits)
                        check_fault(what, V_AC, 0);
                    else
                        check_end(what);
                }
    in_v86(3, CODE16(MARK "movw 0x101, %ax"));      /* virtual-8086 code is in ring 3 */
    in.eflags |= F_AC;
    run();
    check_fault("align.v86", V_AC, 0);
    asm volatile("mov %0, %%cr0" :: "r"(cr0));
    in_flat(3, rows[0].code);
    in.ebx = DATA + 1;
    in.eflags |= F_AC;
    run();
    check_end("align.am-clear");
}

void guest_main(void)
{
    dr6();
    steps();
    through_int();
    breakpoints();
    alignment();
}
