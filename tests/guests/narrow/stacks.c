/* Stacks: each size of operand on stacks of 16 and 32 bits, what stays of ESP, and the instructions
   that use the stack pointer itself (SDM 1 6.2; 2B PUSH, POP; 2A CALL, ENTER). */
#include "narrow.h"

enum { S16 = FREE, S32 = FREE + 8 };
enum { HIGH = 0x12340000 };     /* the upper half of ESP, which a 16-bit stack does not use */

#define AT(offset) (DATA + (offset))

static struct code code;

/* Run `code` as 32-bit (or 16-bit) code on a stack of 16 or 32 bits at DATA, whose pointer is `sp`. */
static void on(int code32, int stack32, u32 sp)
{
    set_segment(S16, DATA, 0xFFFF, RW | RING3);
    set_segment(S32, DATA, 0xFFFF, RW | RING3 | BIG);
    if (code32)
        in_flat(3, code);
    else
        in_16(3, code);
    in.ss = (stack32 ? S32 : S16) | 3;
    in.esp = stack32 ? sp : HIGH | sp;
    in.eax = 0xA1A2A3A4;
    in.ebx = 0xB1B2B3B4;
    in.ebp = 0xE1E26000;
}

static void pushes(void)
{
    struct code pushw = CODE32("pushw %ax"), pushl = CODE32("pushl %eax");
    struct code imm = CODE32("pushw $-2"), imm32 = CODE32("pushl $-2");
    struct code memory = CODE32("pushw %ds:(%esi)"), flags = CODE32("pushfw");
    struct { const char *name; struct code code; u32 size, value; } rows[] = {
        { "ax", pushw, 2, 0xA3A4 }, { "eax", pushl, 4, 0xA1A2A3A4 }, { "imm16", imm, 2, 0xFFFE },
        { "imm32", imm32, 4, 0xFFFFFFFE }, { "memory", memory, 2, 0x7788 },
        { "flags", flags, 2, 0x0AD7 }, { "sp", CODE32("pushw %sp"), 2, 0x5000 },
        { "esp", CODE32("pushl %esp"), 4, 0 },
    };
    for (u32 stack32 = 0; stack32 < 2; stack32++)
        for (u32 i = 0; i < COUNT(rows); i++) {
            u32 value = i == 7 ? stack32 ? 0x5000 : HIGH | 0x5000 : rows[i].value;
            const char *what = name("push.%s.ss%u", rows[i].name, stack32 ? 32 : 16);
            DATA32(AT(0x4FF8)) = DATA32(AT(0x4FFC)) = 0x5C5C5C5C;
            DATA16(AT(0x100)) = 0x7788;
            code = rows[i].code;
            on(1, (int)stack32, 0x5000);
            in.esi = DATA + 0x100;
            in.eflags = 0x0AD7 | (in.eflags & ~0xFFFu);
            run();
            check_end(what);
            check(name("%s.esp", what), in.esp, (stack32 ? 0 : HIGH) | (0x5000 - rows[i].size));
            check(name("%s.value", what), rows[i].size == 4 ? DATA32(AT(0x4FFC))
                                                            : DATA16(AT(0x4FFE)), value);
            check(name("%s.below", what), DATA16(AT(0x5000 - rows[i].size - 2)), 0x5C5C);
        }
}

static void pops(void)
{
    struct { const char *name; struct code code; u32 size, eax; } rows[] = {
        { "ax", CODE32("popw %ax"), 2, 0xA1A25566 }, { "eax", CODE32("popl %eax"), 4, 0x77885566 },
    };
    for (u32 stack32 = 0; stack32 < 2; stack32++) {
        u32 high = stack32 ? 0 : HIGH;
        for (u32 i = 0; i < COUNT(rows); i++) {
            const char *what = name("pop.%s.ss%u", rows[i].name, stack32 ? 32 : 16);
            DATA32(AT(0x5000)) = 0x77885566;
            code = rows[i].code;
            on(1, (int)stack32, 0x5000);
            run();
            check(name("%s.value", what), in.eax, rows[i].eax);
            check(name("%s.esp", what), in.esp, high | (0x5000 + rows[i].size));
        }
        code = CODE32("popl %esp");             /* the value, not the sum */
        DATA32(AT(0x5000)) = 0x00003330;
        on(1, (int)stack32, 0x5000);
        run();
        check(name("pop.esp.ss%u", stack32 ? 32 : 16), in.esp, 0x3330);
        code = CODE32("popw %sp");
        on(1, (int)stack32, 0x5000);
        run();
        check(name("pop.sp.ss%u", stack32 ? 32 : 16), in.esp, high | 0x3330);
        code = CODE32("popl 4(%esp)");          /* the address is that of ESP behind the POP */
        on(1, (int)stack32, 0x5000);
        if (stack32) {
            DATA32(AT(0x5000)) = 0xF00D;
            DATA32(AT(0x5008)) = 0;
            run();
            check("pop.by-esp", DATA32(AT(0x5008)), 0xF00D);
        }
    }
    code = CODE16("popw %ss\nmovw %sp, %ax");  /* SS first, then the next instruction */
    DATA16(AT(0x5000)) = S32 | 3;
    on(0, 0, 0x5000);
    run();
    check("pop.ss", in.ss, S32 | 3);
    check("pop.ss.sp", in.eax & 0xFFFF, 0x5002);
    check("pop.ss.esp", in.esp, HIGH | 0x5002);
}

/* CALL and RET of each operand size, in code and on stacks of each size. */
static void calls(void)
{
    struct code codes[2][2] = {
        { CODE16("callw 1f\n1: nop"), CODE16("calll 1f\n1: nop") },
        { CODE32("callw 1f\n1: nop"), CODE32("calll 1f\n1: nop") },
    };
    struct code rets[2] = { CODE16("retw $6"), CODE16("retl $6") };
    for (u32 stack32 = 0; stack32 < 2; stack32++)
        for (u32 size = 0; size < 2; size++) {
            u32 high = stack32 ? 0 : HIGH, bytes = size ? 4 : 2;
            const char *what = name("call.%u.ss%u", bytes * 8, stack32 ? 32 : 16);
            code = codes[0][size];
            on(0, (int)stack32, 0x5000);
            run();
            check_end(what);
            check(name("%s.esp", what), in.esp, high | (0x5000 - bytes));
            check(name("%s.ip", what), size ? DATA32(AT(0x4FFC)) : DATA16(AT(0x4FFE)),
                  code.start - SNIPPETS + (size ? 6 : 3));
            code = codes[1][1];
            on(1, (int)stack32, 0x5000);
            run();
            check(name("%s.in-32", what), DATA32(AT(0x4FFC)), code.start + 5);
            code = rets[size];
            struct code target = CODE16("nop");
            on(0, (int)stack32, 0xFFF8);
            DATA32(AT(0xFFF8)) = target.start - SNIPPETS;
            if (stack32)
                in.esp = 0x5000, DATA32(AT(0x5000)) = target.start - SNIPPETS;
            run();
            check_end(name("ret.%u.ss%u", bytes * 8, stack32 ? 32 : 16));
            check(name("ret.%u.ss%u.esp", bytes * 8, stack32 ? 32 : 16), in.esp,
                  stack32 ? 0x5000 + bytes + 6 : HIGH | ((0xFFF8 + bytes + 6) & 0xFFFF));
        }
    code = CODE32("callw *%ax");                /* a 16-bit target in 32-bit code */
    set_segment(FREE + 16, SNIPPETS, 0xFFFF, XR | BIG | RING3);
    struct code target = CODE32("nop");
    on(1, 1, 0x5000);
    in.cs = (FREE + 16) | 3;
    in.eip = code.start - SNIPPETS;
    in.eax = 0xFFFF0000 | (target.start - SNIPPETS);
    run();
    check("call.indirect-16", in.eip, target.start - SNIPPETS + 3);
    check("call.indirect-16.pushed", DATA16(AT(0x4FFE)), code.start - SNIPPETS + 3);
}

static void frames(void)
{
    for (u32 stack32 = 0; stack32 < 2; stack32++) {
        u32 high = stack32 ? 0 : HIGH;
        const char *bits = stack32 ? "32" : "16";
        code = CODE32("leave");                 /* EBP or BP to the pointer, then 32 bits */
        DATA32(AT(0x6000)) = 0x99887766;
        on(1, (int)stack32, 0x5000);
        if (stack32)
            in.ebp = 0x6000;
        run();
        check(name("leave.ss%s.ebp", bits), in.ebp, 0x99887766);
        check(name("leave.ss%s.esp", bits), in.esp, high | 0x6004);
        code = CODE32("enter $8, $0");
        on(1, (int)stack32, 0x5000);
        run();
        check(name("enter.ss%s.esp", bits), in.esp, high | (0x5000 - 12));
        check(name("enter.ss%s.ebp", bits), in.ebp, high | 0x4FFC);
        check(name("enter.ss%s.saved", bits), DATA32(AT(0x4FFC)), 0xE1E26000);
        code = CODE32("pushl %eax\npushw %bx\npopl %ecx\npopw %dx");
        on(1, (int)stack32, 2);                 /* wraps at 64 KiB, or is beyond the limit */
        run();
        if (stack32)
            check("wrap.ss32", vector << 16 | error, V_SS << 16);
        else
            check("wrap.ss16", vector << 16 | error, V_SS << 16);   /* FFFEh to 10001h */
        check(name("wrap.ss%s.esp", bits), in.esp, high | 2);
        code = CODE32("pushw %bx\npushw %ax\npopl %ecx");
        on(1, (int)stack32, 4);
        run();
        check(name("low.ss%s", bits), in.ecx, 0xB3B4A3A4);
        check(name("low.ss%s.esp", bits), in.esp, high | 4);
    }
    code = CODE16("pushw %bx\npushw %ax\npopw %cx\npopw %dx");
    on(0, 0, 2);                                /* words wrap between 0 and FFFEh */
    run();
    check_end("wrap.words");
    check("wrap.words.values", in.ecx << 16 | (in.edx & 0xFFFF), 0xA3A4B3B4);
    check("wrap.words.memory", DATA16(AT(0xFFFE)), 0xA3A4);
    check("wrap.words.esp", in.esp, HIGH | 2);
}

static void selectors(void)
{
    code = CODE32("pushl %es\npushw %es\npopw %fs\npopl %gs");
    DATA32(AT(0x4FFC)) = 0x5C5C5C5C;
    on(1, 1, 0x5000);
    run();
    check_end("push.es");
    check("push.es.low", DATA16(AT(0x4FFC)), UDATA);
    check("push.es.esp", in.esp, 0x5000);
    check("pop.fs", in.fs, UDATA);
    check("pop.gs", in.gs, UDATA);
}

void guest_main(void)
{
    pushes();
    pops();
    calls();
    frames();
    selectors();
}
