/* Instructions that only 16- and 32-bit code has, and stacks of 16 and 32 bits: BOUND, INTO, ARPL,
   PUSHA, POPA, LDS to LGS, ENTER, LEAVE, JCXZ and LOOP (SDM 2A, 2B). */
#include "narrow.h"

static void bound(void)
{
    static const struct { i32 index, low, high; int out; } rows[] = {
        { 5, 5, 9, 0 }, { 9, 5, 9, 0 }, { 4, 5, 9, 1 }, { 10, 5, 9, 1 }, { -3, -3, -1, 0 },
        { -4, -3, -1, 1 }, { 0, -3, -1, 1 }, { 0x7FFF, -0x8000, 0x7FFF, 0 }, { 3, 9, 5, 1 },
    };
    struct code narrow = CODE16(MARK "bound %ax, (%bx)");
    struct code wide = CODE32(MARK "bound %eax, (%ebx)");
    for (u32 i = 0; i < COUNT(rows); i++) {
        DATA16(DATA + 0x100) = rows[i].low;
        DATA16(DATA + 0x102) = rows[i].high;
        in_16(3, narrow);
        in.eax = (u32)rows[i].index ^ 0xABCD0000;   /* only AX counts */
        in.ebx = 0x100;
        run();
        if (rows[i].out)
            check_fault(name("bound.16.%u", i), V_BR, 0);
        else
            check_end(name("bound.16.%u", i));
        DATA32(DATA + 0x100) = rows[i].low;
        DATA32(DATA + 0x104) = rows[i].high;
        in_flat(3, wide);
        in.eax = rows[i].index;
        in.ebx = DATA + 0x100;
        run();
        if (rows[i].out)
            check_fault(name("bound.32.%u", i), V_BR, 0);
        else
            check_end(name("bound.32.%u", i));
    }
    in_16(3, narrow);
    in.ebx = 0xFFFD;                    /* the upper bound is half beyond the limit */
    run();
    check_fault("bound.16.limit", V_GP, 0);
    struct code registers = CODE32(MARK ".byte 0x62, 0xC3");    /* BOUND needs memory */
    in_flat(3, registers);
    run();
    check_fault("bound.register", V_UD, 0);
}

static void into(void)
{
    struct code code = CODE32("into" MARK);
    in_flat(3, code);
    run();
    check_end("into.clear");
    set_gate(idt + 2 * V_OF, TSS_HANDLERS + 8 * V_OF, 0, TASK_GATE | RING3);
    in_flat(3, code);
    in.eflags |= F_OF;
    run();
    check_fault("into.set", V_OF, 0);           /* a trap: EIP is behind it */
    set_gate(idt + 2 * V_OF, TSS_HANDLERS + 8 * V_OF, 0, TASK_GATE);
    struct code dpl = CODE32(MARK "into");
    in_flat(3, dpl);
    in.eflags |= F_OF;
    run();
    check_fault("into.dpl0.cpl3", V_GP, V_OF * 8 + 2);
    in_flat(0, code);
    in.eflags |= F_OF;
    run();
    check_fault("into.dpl0.cpl0", V_OF, 0);
}

static void arpl(void)
{
    struct code reg = CODE32("arpl %cx, %dx");
    struct code memory = CODE32(MARK "arpl %cx, (%ebx)");
    for (u32 i = 0; i < 16; i++) {
        u32 target = 0xAAAA5A50 | (i & 3), source = 0x77770120 | i >> 2;
        int raised = (i & 3) < i >> 2;
        u32 want = raised ? 0xAAAA5A50 | i >> 2 : target;
        in_flat(3, reg);
        in.edx = target;
        in.ecx = source;
        in.eflags = 0x8D7 ^ (raised ? 0 : F_ZF);    /* ZF is wrong before; the others stay */
        run();
        check(name("arpl.register.%u", i), in.edx, want);
        check(name("arpl.register.%u.flags", i), in.eflags, 0x897 | (raised ? F_ZF : 0));
        in_flat(3, memory);
        in.ebx = DATA + 0x100;
        in.ecx = source;
        DATA32(DATA + 0x100) = target;
        run();
        check(name("arpl.memory.%u", i), DATA32(DATA + 0x100), want);
    }
    set_segment(FREE, DATA, 0xFFFFF, RO | RING3 | FLAT);
    in_flat(3, memory);
    in.ds = FREE | 3;
    in.ecx = 3;
    run();
    check_fault("arpl.read-only", V_GP, 0);
    in_v86(3, CODE16(MARK "arpl %cx, %dx"));
    run();
    check_fault("arpl.v86", V_UD, 0);
}

static void pusha(void)
{
    struct code narrow = CODE16(MARK "pushaw"), wide = CODE16(MARK "pushal");
    struct code pop = CODE16(MARK "popaw"), pop_wide = CODE16(MARK "popal");
    for (u32 sp = 0x10; sp <= 0x8000; sp <<= 11) {
        in_16(3, narrow);
        in.eax = 0x10A0A, in.ecx = 0x20B0B, in.edx = 0x30C0C, in.ebx = 0x40D0D;
        in.ebp = 0x50E0E, in.esi = 0x60F0F, in.edi = 0x71010, in.esp = sp | 0xABC0000;
        run();
        check_end(name("pusha.16.%x", sp));
        check(name("pusha.16.%x.esp", sp), in.esp, 0xABC0000 | (sp - 16));
        check(name("pusha.16.%x.ax", sp), DATA16(DATA + sp - 2), 0x0A0A);
        check(name("pusha.16.%x.sp", sp), DATA16(DATA + sp - 10), sp);
        check(name("pusha.16.%x.di", sp), DATA16(DATA + sp - 16), 0x1010);
    }
    in_16(3, wide);
    in.eax = 0x10A0A, in.edi = 0x71010, in.esp = 0xABC8000;
    run();
    check_end("pusha.32");
    check("pusha.32.esp", in.esp, 0xABC7FE0);
    check("pusha.32.eax", DATA32(DATA + 0x7FFC), 0x10A0A);
    check("pusha.32.esp-image", DATA32(DATA + 0x7FEC), 0xABC8000);
    check("pusha.32.edi", DATA32(DATA + 0x7FE0), 0x71010);
    in_16(3, narrow);
    in.esp = 8;                         /* four fit, then SP wraps to FFFEh, within the limit */
    run();
    check_end("pusha.16.wraps");
    check("pusha.16.wraps.esp", in.esp, 0xFFF8);
    for (u32 sp = 7; sp <= 15; sp += 2) {
        in_16(3, narrow);
        in.esp = sp;
        run();
        /* SP = 1 or an odd SP near it: one of the words wraps around the segment's end. */
        check_fault(name("pusha.16.odd-sp%u", sp), V_SS, 0);
        check(name("pusha.16.odd-sp%u.esp", sp), in.esp, sp);
        in_v86(3, narrow);
        in.esp = sp;
        run();
        check_fault(name("pusha.v86.odd-sp%u", sp), V_GP, 0);
    }
    for (u32 i = 0; i < 8; i++)
        DATA16(DATA + 0x8000 + 2 * i) = 0x1111 * (i + 1);
    in_16(3, pop);
    in.eax = in.edi = 0xFFFF0000;
    in.esp = 0xABC8000;
    run();
    check_end("popa.16");
    check("popa.16.eax", in.eax, 0xFFFF8888);
    check("popa.16.edi", in.edi, 0xFFFF1111);
    check("popa.16.esp", in.esp, 0xABC8010);
    in_16(3, pop_wide);
    run();
    check_end("popa.32");
    check("popa.32.edi", in.edi, 0x22221111);
    check("popa.32.ebp", in.ebp, 0x66665555);
    check("popa.32.esp", in.esp, STACK + 32);
}

static void far_loads(void)
{
    struct { const char *name; struct code code; u32 *segment; } rows[] = {
        { "lds", CODE32(MARK "lds %es:(%ebx), %eax"), &in.ds },
        { "les", CODE32(MARK "les (%ebx), %eax"), &in.es },
        { "lss", CODE32(MARK "lss (%ebx), %eax"), &in.ss },
        { "lfs", CODE32(MARK "lfs (%ebx), %eax"), &in.fs },
        { "lgs", CODE32(MARK "lgs (%ebx), %eax"), &in.gs },
    };
    set_segment(FREE, 0, 0xFFFFF, RW | FLAT);
    set_segment(FREE + 8, 0, 0xFFFFF, (RW | FLAT) & ~PRESENT);
    for (u32 i = 0; i < COUNT(rows); i++) {
        DATA32(DATA + 0x100) = 0x89ABCDEF;
        DATA32(DATA + 0x104) = 0xFFFF0000 | FREE;
        in_flat(0, rows[i].code);
        in.ebx = DATA + 0x100;
        run();
        check_end(rows[i].name);
        check(name("%s.offset", rows[i].name), in.eax, 0x89ABCDEF);
        check(name("%s.selector", rows[i].name), *rows[i].segment, FREE);
        DATA32(DATA + 0x104) = FREE + 8;
        in_flat(0, rows[i].code);
        in.ebx = DATA + 0x100;
        run();
        check_fault(name("%s.not-present", rows[i].name), i == 2 ? V_SS : V_NP, FREE + 8);
        check(name("%s.not-present.eax", rows[i].name), in.eax, 0);
    }
    struct code narrow = CODE32(MARK "lfsw (%ebx), %ax");
    DATA32(DATA + 0x100) = FREE << 16 | 0xBEEF;
    in_flat(0, narrow);
    in.ebx = DATA + 0x100;
    in.eax = 0x12345678;
    run();
    check("lfs.16.offset", in.eax, 0x1234BEEF);
    check("lfs.16.selector", in.fs, FREE);
    in_flat(0, CODE32(MARK ".byte 0x0F, 0xB4, 0xC3"));
    run();
    check_fault("lfs.register", V_UD, 0);
}

static void enter(void)
{
    struct code narrow = CODE16(MARK "enterw $16, $3"), plain = CODE16(MARK "enterw $0x10, $0");
    struct code wide = CODE32(MARK "enter $16, $2"), leave = CODE16(MARK "leavew");
    struct code most = CODE32(MARK "enter $0, $63");    /* the level is taken modulo 32 */
    in_16(3, plain);
    in.ebp = 0x55551234;
    run();
    check_end("enter.16.0");
    check("enter.16.0.ebp", in.ebp, 0x55557FFE);
    check("enter.16.0.esp", in.esp, STACK - 18);
    check("enter.16.0.saved", DATA16(DATA + STACK - 2), 0x1234);
    DATA16(DATA + 0x9000 - 2) = 0xF001;
    DATA16(DATA + 0x9000 - 4) = 0xF002;
    in_16(3, narrow);
    in.ebp = 0x9000;
    run();
    check_end("enter.16.3");
    check("enter.16.3.display1", DATA16(DATA + STACK - 4), 0xF001);
    check("enter.16.3.display2", DATA16(DATA + STACK - 6), 0xF002);
    check("enter.16.3.frame", DATA16(DATA + STACK - 8), STACK - 2);
    check("enter.16.3.bp", in.ebp, STACK - 2);
    check("enter.16.3.sp", in.esp, STACK - 8 - 16);
    in_flat(3, wide);
    in.ebp = DATA + 0x9000;
    DATA32(DATA + 0x9000 - 4) = 0xF00DF00D;
    run();
    check_end("enter.32.2");
    check("enter.32.2.display1", DATA32(DATA + STACK - 8), 0xF00DF00D);
    check("enter.32.2.frame", DATA32(DATA + STACK - 12), DATA + STACK - 4);
    check("enter.32.2.esp", in.esp, DATA + STACK - 12 - 16);
    in_flat(3, most);
    in.ebp = DATA + 0x9000;
    run();
    check_end("enter.32.63");
    check("enter.32.63.esp", in.esp, DATA + STACK - 32 * 4);
    in_16(3, plain);
    in.esp = 8;                         /* the final SP wraps: no fault where it is valid */
    run();
    check_end("enter.16.wraps");
    check("enter.16.wraps.sp", in.esp, 0xFFF6);
    in_16(3, leave);
    in.ebp = 0x56789000;
    in.esp = 0xABCD8000;
    DATA16(DATA + 0x9000) = 0x4321;
    run();
    check("leave.16.bp", in.ebp, 0x56784321);
    check("leave.16.sp", in.esp, 0xABCD9002);
}

static void counts(void)
{
    struct code jcxz = CODE32("jcxz 1f\nmov $1, %eax\n1:");
    struct code jecxz = CODE16("jecxz 1f\nmov $1, %ax\n1:");
    struct code loopw = CODE32("1: inc %eax\naddr16 loop 1b");
    in_flat(3, jcxz);
    in.ecx = 0x10000;
    run();
    check("jcxz.taken", in.eax, 0);
    in_16(3, jecxz);
    in.ecx = 0x10000;
    run();
    check("jecxz.not-taken", in.eax, 1);
    in_flat(3, loopw);
    in.ecx = 0x55550003;
    run();
    check("loopw.times", in.eax, 3);
    check("loopw.ecx", in.ecx, 0x55550000);
    /* A 16-bit branch in 32-bit code clears the upper half of EIP. */
    struct code short_eip = CODE32(MARK "data16 jmp .+4");
    set_segment(FREE, 0, 0x1FFFFF >> 12, XR | RING3 | FLAT);
    in_flat(3, short_eip);
    in.cs = FREE | 3;
    in.eip = short_eip.start;           /* beyond 1FFFFFh: the limit is checked at the fetch */
    run();
    check("fetch.limit", vector << 16 | error, V_GP << 16);
    u32 target = (short_eip.mark + 4) & 0xFFFF;
    DATA16(target) = 0x81CD;            /* INT 81h */
    in_flat(3, short_eip);
    run();
    check("jmp.16-in-32", vector, V_END);
    check("jmp.16-in-32.eip", in.eip, target + 2);
}

void guest_main(void)
{
    bound();
    into();
    arpl();
    pusha();
    far_loads();
    enter();
    counts();
}
