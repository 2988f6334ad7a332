/* Far JMP, CALL and RET, IRET and call gates: each operand size, same and other rings, parameters,
   and the order of their faults (SDM 2A CALL, IRET, JMP, 2B RET; SDM 3A 5.8). */
#include "narrow.h"

enum { C16 = FREE, C32 = FREE + 8, GATE = FREE + 16, OTHER = FREE + 24, SMALL = FREE + 32,
       CONF = FREE + 40, DATA_SMALL = FREE + 48 };

#define TO_END(bits) CODE(bits, "nop")
#define PUSHED16(n) DATA16(DATA + STACK - 2 * (n))
#define PUSHED32(n) DATA32(DATA + STACK - 4 * (n))

static struct code end16, end32;

static void far_pointer(u32 at, u32 size, u32 offset, u32 selector)
{
    DATA32(at) = offset;
    DATA16(at + size) = selector;
}

/* CALL and JMP through memory, in each size of code and operand, to each size of code. */
static void sizes(int cpl)
{
    struct code calls[2][2] = {
        { CODE16(MARK "lcallw *%fs:0x100"), CODE16(MARK "lcalll *%fs:0x100") },
        { CODE32(MARK "lcallw *%fs:0x100"), CODE32(MARK "lcalll *%fs:0x100") },
    };
    struct code jumps[2][2] = {
        { CODE16(MARK "ljmpw *%fs:0x100"), CODE16(MARK "ljmpl *%fs:0x100") },
        { CODE32(MARK "ljmpw *%fs:0x100"), CODE32(MARK "ljmpl *%fs:0x100") },
    };
    u32 ring = cpl ? RING3 | 0u : 0;
    set_segment(C16, SNIPPETS, 0xFFFF, XR | ring);
    set_segment(C32, SNIPPETS, 0xFFFF, XR | BIG | ring);
    set_segment(OTHER, DATA, 0xFFFF, RW | ring);
    for (u32 from = 0; from < 2; from++)
        for (u32 size = 0; size < 2; size++)
            for (u32 to = 0; to < 2; to++) {
                u32 selector = (to ? C32 : C16) | (u32)cpl, length = from == size ? 0 : 1;
                const char *what = name("%u.%u.%u.cpl%u", from ? 32 : 16, size ? 32 : 16,
                                        to ? 32 : 16, cpl);
                struct code end = to ? end32 : end16;
                far_pointer(DATA + 0x100, size ? 4 : 2, end.start - SNIPPETS, selector);
                for (u32 call = 0; call < 2; call++) {
                    struct code code = call ? calls[from][size] : jumps[from][size];
                    const char *kind = call ? "call" : "jmp";
                    in_16(cpl, code);
                    in.cs = (from ? C32 : C16) | (u32)cpl;
                    in.fs = OTHER | (u32)cpl;
                    PUSHED32(1) = PUSHED32(2) = 0x55555555;
                    run();
                    check_end(name("far-%s.%s", kind, what));
                    check(name("far-%s.%s.cs", kind, what), in.cs, selector);
                    check(name("far-%s.%s.eip", kind, what), in.eip, end.start + 3 - SNIPPETS);
                    if (!call)
                        continue;
                    u32 next = code.mark - SNIPPETS + (from ? 7 : 5) + length;
                    check(name("far-call.%s.esp", what), in.esp, STACK - (size ? 8 : 4));
                    check(name("far-call.%s.ip", what), size ? PUSHED32(2) : PUSHED16(2), next);
                    check(name("far-call.%s.pushed-cs", what),
                          size ? PUSHED32(1) & 0xFFFF : PUSHED16(1),
                          (from ? C32 : C16) | (u32)cpl);
                }
            }
}

/* RET far and IRET of each operand size from 32-bit code to each size of code. */
static void returns(int cpl)
{
    struct code codes[2][2] = {
        { CODE32(MARK "lretw $6"), CODE32(MARK "lretl $6") },
        { CODE32(MARK "iretw"), CODE32(MARK "iretl") },
    };
    for (u32 iret = 0; iret < 2; iret++)
        for (u32 size = 0; size < 2; size++)
            for (u32 to = 0; to < 2; to++) {
                const char *what = name("%s.%u.%u.cpl%u", iret ? "iret" : "lret", size ? 32 : 16,
                                        to ? 32 : 16, cpl);
                struct code end = to ? end32 : end16;
                in_16(cpl, codes[iret][size]);
                in.cs = C32 | (u32)cpl;
                in.esp = 0x1235000;
                u32 frame[3] = { end.start - SNIPPETS, (to ? C32 : C16) | (u32)cpl, 0xCD7 };
                for (u32 i = 0; i < 3; i++)
                    if (size)
                        DATA32(DATA + 0x5000 + 4 * i) = frame[i];
                    else
                        DATA16(DATA + 0x5000 + 2 * i) = frame[i];
                run();
                check_end(what);
                check(name("%s.cs", what), in.cs, frame[1]);
                check(name("%s.esp", what), in.esp,
                      0x1235000 + (iret ? 6 : 4) * (size ? 2 : 1) + (iret ? 0 : 6));
                check(name("%s.flags", what), in.eflags & 0xFD7, iret ? 0xCD7 : 2);
            }
}

/* From ring 0 to ring 3, with a stack of 16 or 32 bits, and back through a gate. */
static void rings(void)
{
    struct code lret = CODE32(MARK "lret $8"), iret = CODE32(MARK "iret");
    for (u32 i = 0; i < 2; i++)
        for (u32 wide = 0; wide < 2; wide++) {
            const char *what = name("outer.%s.ss%u", i ? "iret" : "lret", wide ? 32 : 16);
            in_flat(0, i ? iret : lret);
            in.esp = DATA + 0x5000;
            u32 at = DATA + 0x5000;
            DATA32(at) = end32.start;
            DATA32(at + 4) = UCODE;
            if (i)
                DATA32(at + 8) = 0x3202;
            at += i ? 12 : 16;
            DATA32(at) = 0x77776000;
            DATA32(at + 4) = wide ? UDATA : UDATA16;
            in.es = KDATA;
            in.fs = UDATA;
            in.gs = 3;
            run();
            check_end(what);
            check(name("%s.cs", what), in.cs, UCODE);
            check(name("%s.ss", what), in.ss, wide ? UDATA : UDATA16);
            check(name("%s.esp", what), in.esp & 0xFFFF, 0x6000 + (i ? 0 : 8));
            if (wide)
                check(name("%s.esp-high", what), in.esp >> 16, 0x7777);
            check(name("%s.es", what), in.es, 0);   /* of ring 0 */
            check(name("%s.fs", what), in.fs, UDATA);
            if (i)
                check(name("%s.iopl", what), in.eflags & F_IOPL, F_IOPL);
        }
}

static void gates(void)
{
    struct code call = CODE32(MARK "lcall $0x73, $0xDEAD");    /* GATE | 3 */
    struct code jump = CODE32(MARK "ljmp $0x73, $0xDEAD");
    u32 last = DATA + STACK;
    for (u32 i = 0; i < 4; i++)
        DATA32(last + 4 * i) = 0x1000100 * (i + 1);
    for (u32 wide = 0; wide < 2; wide++) {
        u32 size = wide ? 4 : 2, kind = wide ? CALL32 : CALL16;
        const char *what = name("gate%u", wide ? 32 : 16);
        set_segment(C32, wide ? 0 : SNIPPETS, 0xFFFFF, XR | FLAT);
        u32 target = end32.start - (wide ? 0 : SNIPPETS);
        set_gate(gdt + GATE / 4, C32 | 3, target, kind | RING3 | 3 << 16);
        in_flat(3, call);
        run();
        check_end(what);
        check(name("%s.cs", what), in.cs, C32);     /* RPL becomes the new CPL */
        check(name("%s.ss", what), in.ss, KDATA);
        check(name("%s.esp", what), in.esp, INNER - 7 * size);
        u32 f[7];
        for (u32 i = 0; i < 7; i++)
            f[i] = wide ? DATA32(in.esp + 4 * i) : DATA16(in.esp + 2 * i);
        u32 mask = wide ? 0xFFFFFFFF : 0xFFFF;
        check(name("%s.ip", what), f[0], (call.mark + 7) & mask);
        check(name("%s.pushed-cs", what), f[1] & 0xFFFF, UCODE);
        for (u32 i = 0; i < 3; i++)
            check(name("%s.parameter%u", what, i), f[2 + i],
                  wide ? DATA32(last + 4 * i) : DATA16(last + 2 * i));
        check(name("%s.pushed-sp", what), f[5], last & mask);
        check(name("%s.pushed-ss", what), f[6] & 0xFFFF, UDATA);
        in_flat(3, jump);               /* a jump cannot change the CPL */
        run();
        check_fault(name("%s.jmp", what), V_GP, C32);
        in_flat(0, call);               /* from the same ring there are no parameters */
        run();
        check_end(name("%s.same-ring", what));
        check(name("%s.same-ring.esp", what), in.esp, last - 2 * size);
        in_flat(0, jump);
        run();
        check_end(name("%s.jmp-same-ring", what));
        check(name("%s.jmp-same-ring.esp", what), in.esp, last);
        set_segment(C32, wide ? 0 : SNIPPETS, 0xFFFFF, XR_CONF | FLAT);
        in_flat(3, call);
        run();
        check_end(name("%s.conforming", what));
        check(name("%s.conforming.cs", what), in.cs, C32 | 3);
        check(name("%s.conforming.esp", what), in.esp, last - 2 * size);
        in_flat(3, jump);
        run();
        check_end(name("%s.conforming.jmp", what));
    }
}

static void gate_faults(void)
{
    struct code call = CODE32(MARK "lcall $0x73, $0");
    static const struct { const char *name; u32 selector, access, code, vector, error; } rows[] = {
        { "dpl", C32, CALL32, XR | FLAT, V_GP, GATE },
        { "not-present", C32, (CALL32 | RING3) & ~PRESENT, XR | FLAT, V_NP, GATE },
        { "dpl-before-present", C32, CALL32 & ~PRESENT, XR | FLAT, V_GP, GATE },
        { "null", 3, CALL32 | RING3, XR | FLAT, V_GP, 0 },
        { "beyond", 0xFFF8, CALL32 | RING3, XR | FLAT, V_GP, 0xFFF8 },
        { "data", KDATA, CALL32 | RING3, XR | FLAT, V_GP, KDATA },
        { "code-not-present", C32, CALL32 | RING3, (XR | FLAT) & ~PRESENT, V_NP, C32 },
        { "interrupt-gate", C32, INT32 | RING3, XR | FLAT, V_GP, GATE },
    };
    for (u32 i = 0; i < COUNT(rows); i++) {
        set_segment(C32, 0, 0xFFFFF, rows[i].code);
        set_gate(gdt + GATE / 4, rows[i].selector, end32.start, rows[i].access);
        in_flat(3, call);
        run();
        check_fault(name("gate.%s", rows[i].name), rows[i].vector, rows[i].error);
    }
    static const struct { const char *name; u32 selector, access, limit, esp, vector, error; }
    stacks[] = {
        { "null", 0, RW | FLAT, 0xFFFFF, INNER, V_TS, 0 },
        { "rpl", OTHER | 3, RW | FLAT, 0xFFFFF, INNER, V_TS, OTHER },
        { "dpl", OTHER, RW | FLAT | RING3, 0xFFFFF, INNER, V_TS, OTHER },
        { "read-only", OTHER, RO | FLAT, 0xFFFFF, INNER, V_TS, OTHER },
        { "code", OTHER, XR | FLAT, 0xFFFFF, INNER, V_TS, OTHER },
        { "not-present", OTHER, (RW | FLAT) & ~PRESENT, 0xFFFFF, INNER, V_SS, OTHER },
        { "beyond", 0xFFF8, RW | FLAT, 0xFFFFF, INNER, V_TS, 0xFFF8 },
        { "no-room", OTHER, RW | BIG, 0xFFF, 12, V_SS, OTHER },
        { "exact-room", OTHER, RW | BIG, 0xFFF, 16, 0, 0 },
        { "too-high", OTHER, RW | BIG, 0xFFF, 0x1001, V_SS, OTHER },
    };
    set_segment(C32, 0, 0xFFFFF, XR | FLAT);
    set_gate(gdt + GATE / 4, C32, end32.start, CALL32 | RING3);
    for (u32 i = 0; i < COUNT(stacks); i++) {
        const char *what = name("gate.stack.%s", stacks[i].name);
        set_segment(OTHER, stacks[i].limit == 0xFFF ? DATA : 0, stacks[i].limit, stacks[i].access);
        in_flat(3, call);
        in.ss0 = stacks[i].selector;
        in.esp0 = stacks[i].esp;
        run();
        if (stacks[i].vector)
            check_fault(what, stacks[i].vector, stacks[i].error);
        else
            check_end(what);
    }
    /* Room on the stack is checked before the target's limit (SDM 2A CALL). */
    set_segment(C32, 0, end32.start - 1, XR | BIG);
    set_segment(OTHER, DATA, 0xFFF, RW | BIG);
    in_flat(3, call);
    in.ss0 = OTHER;
    in.esp0 = 12;
    run();
    check_fault("gate.order.stack-first", V_SS, OTHER);
    in_flat(3, call);
    in.ss0 = OTHER;
    in.esp0 = 0x1000;
    run();
    check_fault("gate.order.target", V_GP, 0);
    check("gate.order.cs", in.cs, UCODE);
    check("gate.order.esp", in.esp, DATA + STACK);
}

/* Faults of direct far calls, jumps, RET and IRET: the vector and the error code. */
static void faults(void)
{
    struct code codes[4] = {
        CODE32(MARK "ljmpl *%fs:0x100"), CODE32(MARK "lcalll *%fs:0x100"), CODE32(MARK "lret"),
        CODE32(MARK "iret"),
    };
    static const char *const kinds[4] = { "jmp", "call", "lret", "iret" };
    static const struct { const char *name; u32 selector, access; u8 jump0, jump3, ret0, ret3; }
    rows[] = {
        { "null", 0, XR | FLAT, V_GP, V_GP, V_GP, V_GP },
        { "beyond", 0xFFF8, XR | FLAT, V_GP, V_GP, V_GP, V_GP },
        { "data", OTHER, RW | FLAT, V_GP, V_GP, V_GP, V_GP },
        { "ring0", OTHER, XR | FLAT, 0, V_GP, 0, V_GP },
        { "ring0-rpl3", OTHER | 3, XR | FLAT, V_GP, V_GP, V_GP, V_GP },
        { "ring3", OTHER | 3, XR | FLAT | RING3, V_GP, 0, 0, 0 },
        { "ring3-rpl0", OTHER, XR | FLAT | RING3, V_GP, 0, V_GP, V_GP },
        { "conforming", OTHER, XR_CONF | FLAT, 0, 0, 0, V_GP },
        { "conforming-rpl3", OTHER | 3, XR_CONF | FLAT, 0, 0, 0, 0 },
        { "conforming-ring3", OTHER | 3, XR_CONF | FLAT | RING3, V_GP, 0, 0, 0 },
        { "not-present", OTHER, (XR | FLAT) & ~PRESENT, V_NP, V_GP, V_NP, V_GP },
        { "not-present-ring3", OTHER | 3, (XR | FLAT | RING3) & ~PRESENT, V_GP, V_NP, V_NP, V_NP },
        { "execute-only", OTHER | 3, XO | FLAT | RING3, V_GP, 0, 0, 0 },
    };
    for (u32 i = 0; i < COUNT(rows); i++)
        for (int cpl = 0; cpl <= 3; cpl += 3)
            for (u32 kind = 0; kind < 4; kind++) {
                const char *what = name("%s.%s.cpl%u", kinds[kind], rows[i].name, cpl);
                u32 want = kind < 2 ? cpl ? rows[i].jump3 : rows[i].jump0
                                    : cpl ? rows[i].ret3 : rows[i].ret0;
                set_segment(OTHER, 0, 0xFFFFF, rows[i].access);
                set_segment(DATA_SMALL, DATA, 0xFFFF, RW | RING3);
                far_pointer(DATA + 0x100, 4, end32.start, rows[i].selector);
                in_flat(cpl, codes[kind]);
                in.fs = DATA_SMALL | (u32)cpl;
                in.esp = DATA + 0x5000;
                u32 at = in.esp, selector = rows[i].selector;
                DATA32(at) = end32.start;
                DATA32(at + 4) = selector;
                if (kind == 3)
                    DATA32(at + 8) = 2;
                at += kind == 3 ? 12 : 8;
                DATA32(at) = DATA + 0x6000;     /* for a return to ring 3 */
                DATA32(at + 4) = UDATA;
                run();
                if (want)
                    check_fault(what, want, selector & 0xFFFC);
                else
                    check_end(what);
            }
}

/* The target's limit, and what is checked before it. */
static void limits(void)
{
    struct code call = CODE32(MARK "lcalll *%fs:0x100"), jump = CODE32(MARK "ljmpl *%fs:0x100");
    set_segment(SMALL, 0, 0x1FFFFF, XR | BIG | RING3);
    set_segment(DATA_SMALL, DATA, 0xFFF, RW | BIG | RING3);
    set_segment(OTHER, DATA, 0xFFFF, RW | RING3);
    for (u32 i = 0; i < 3; i++) {
        far_pointer(DATA + 0x100, 4, 0x200000, SMALL | 3);
        in_flat(3, i ? call : jump);
        in.fs = OTHER | 3;
        in.ss = DATA_SMALL | 3;
        in.esp = i < 2 ? 0x800 : 4;
        run();
        check_fault(name("limit.%s", i == 0 ? "jmp" : i == 1 ? "call" : "call-stack-first"),
                    i < 2 ? V_GP : V_SS, 0);
        check(name("limit.%u.cs", i), in.cs, UCODE);
        check(name("limit.%u.esp", i), in.esp, i < 2 ? 0x800 : 4);
    }
    struct code near32 = CODE32(MARK "jmp *%eax"), near_call = CODE32(MARK "call *%eax");
    struct code near_ret = CODE32(MARK "ret"), inside = CODE32("nop");
    u32 limit = inside.start - SNIPPETS + 8;
    set_segment(SMALL, SNIPPETS, limit, XR | BIG | RING3);
    struct code codes[3] = { near32, near_call, near_ret };
    static const char *const kinds[3] = { "jmp", "call", "ret" };
    for (u32 i = 0; i < 3; i++)
        for (u32 beyond = 0; beyond < 2; beyond++) {
            u32 target = beyond ? limit + 1 : inside.start - SNIPPETS;
            in_16(3, codes[i]);
            in.cs = SMALL | 3;
            in.eax = target;
            in.esp = 0x5000;
            DATA32(DATA + 0x5000) = target;
            run();
            if (beyond) {
                check_fault(name("near.%s.beyond", kinds[i]), V_GP, 0);
                check(name("near.%s.beyond.esp", kinds[i]), in.esp, 0x5000);
            } else {
                check_end(name("near.%s", kinds[i]));
            }
        }
}

static void v86(void)
{
    struct code call = CODE16(MARK "lcall *0x100"), ret = CODE16(MARK "lret $2");
    struct code end = CODE16("nop");
    in_v86(3, call);
    far_pointer(DATA_V86 + 0x100, 2, end.start - SNIPPETS - 0x10, LOW / 16 + 1);
    run();
    check_end("v86.call");
    check("v86.call.cs", in.cs, LOW / 16 + 1);
    check("v86.call.sp", in.esp, STACK - 4);
    check("v86.call.pushed", DATA32(DATA_V86 + STACK - 4),
          LOW / 16 << 16 | (call.mark - SNIPPETS + 4));
    in_v86(3, ret);
    DATA32(DATA_V86 + STACK) = (LOW / 16 + 1) << 16 | (end.start - SNIPPETS - 0x10);
    run();
    check_end("v86.lret");
    check("v86.lret.sp", in.esp, STACK + 6);
    in_v86(3, call);
    in.esp = 2;                         /* wraps between the words, not within one */
    run();
    check_end("v86.call.wraps");
    check("v86.call.wraps.sp", in.esp, 0xFFFE);
    in_v86(3, call);
    in.esp = 1;                         /* CS would be at FFFFh */
    run();
    check_fault("v86.call.odd", V_SS, 0);
}

void guest_main(void)
{
    end16 = TO_END(16);
    end32 = TO_END(32);
    for (int cpl = 0; cpl <= 3; cpl += 3) {
        sizes(cpl);
        returns(cpl);
    }
    rings();
    gates();
    gate_faults();
    faults();
    limits();
    v86();
}
