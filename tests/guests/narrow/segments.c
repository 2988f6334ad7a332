/* Limits and types of segments: each size at both ends, expand-down, null, read-only, execute-only;
   loads of segment registers; LAR, LSL, VERR and VERW (SDM 3A 3.4, 5.3-5.7, 5.10). */
#include "narrow.h"

enum { S = FREE };

/* Reads and writes of 1, 2 and 4 bytes at DS:EBX, ES:, FS:, SS: and CS:EBX. */
#define ACCESSES(bits, prefix)                                                                \
    {                                                                                         \
        { CODE(bits, MARK "movb " prefix "(%ebx), %al"),                                      \
          CODE(bits, MARK "movb %al, " prefix "(%ebx)") },                                    \
        { CODE(bits, MARK "movw " prefix "(%ebx), %ax"),                                      \
          CODE(bits, MARK "movw %ax, " prefix "(%ebx)") },                                    \
        { CODE(bits, MARK "movl " prefix "(%ebx), %eax"),                                     \
          CODE(bits, MARK "movl %eax, " prefix "(%ebx)") },                                   \
    }

struct accesses {
    struct code code[3][2];
};

static void access_at(const char *what, struct code code, u32 *segment, u32 selector, int cpl,
                      u32 offset, u32 fault)
{
    in_flat(cpl, code);
    *segment = selector | (u32)cpl;
    in.ebx = offset;
    run();
    if (fault)
        check_fault(what, fault, 0);
    else
        check_end(what);
}

/* Accesses of each size around the first and the last valid offset. */
static void ends(const char *which, const char *kind, const struct accesses *a, u32 *segment,
                 u32 first, u32 last, int writable, u32 fault)
{
    for (u32 size = 0; size < 3; size++)
        for (u32 write = 0; write < 2; write++)
            for (u32 i = 0; i < 4; i++) {
                u32 n = 1u << size;
                u32 at = i == 0 ? first : i == 1 ? last - n + 1 : i == 2 ? last - n + 2 : first - 1;
                int inside = i < 2;
                if ((i == 3 && !first) || (i == 2 && last == 0xFFFFFFFF))
                    continue;   /* what goes beyond FFFFFFFFh is left open (SDM 3A 5.3) */
                access_at(name("%s.%s.%s%u.%s", which, kind, write ? "write" : "read", n,
                               i == 0 ? "first" : i == 1 ? "last" : i == 2 ? "beyond" : "before"),
                          a->code[size][write], segment, S, 3, at,
                          inside && (writable || !write) ? 0 : fault);
            }
}

static void limits(void)
{
    static const struct {
        const char *name;
        u32 limit, access, first, last;
        int writable;
    } rows[] = {
        { "bytes", 0x123, RW, 0, 0x123, 1 },
        { "bytes-big", 0x123, RW | BIG, 0, 0x123, 1 },
        { "64k", 0xFFFF, RW, 0, 0xFFFF, 1 },
        { "1m", 0x3FFFF, RW | BIG, 0, 0x3FFFF, 1 },
        { "pages", 1, RW | PAGES | BIG, 0, 0x1FFF, 1 },
        { "zero", 4, RW, 0, 4, 1 },
        { "read-only", 0x123, RO, 0, 0x123, 0 },
        { "code", 0x123, XR, 0, 0x123, 0 },
        { "down16", 0xFF, RW_DOWN, 0x100, 0xFFFF, 1 },
        { "down16-read-only", 0xFF, RO_DOWN, 0x100, 0xFFFF, 0 },
        { "down32", 0xFF, RW_DOWN | BIG, 0x100, 0xFFFFFFFF, 1 },
        { "down32-pages", 0, RW_DOWN | BIG | PAGES, 0x1000, 0xFFFFFFFF, 1 },
    };
    struct accesses ds = { ACCESSES(32, "") }, fs = { ACCESSES(32, "%fs:") };
    struct accesses ss = { ACCESSES(32, "%ss:") };
    for (u32 i = 0; i < COUNT(rows); i++) {
        set_segment(S, DATA, rows[i].limit, rows[i].access | RING3);
        ends("ds", rows[i].name, &ds, &in.ds, rows[i].first, rows[i].last,
             rows[i].writable, V_GP);
        ends("fs", rows[i].name, &fs, &in.fs, rows[i].first, rows[i].last,
             rows[i].writable, V_GP);
        if (rows[i].writable)
            ends("ss", rows[i].name, &ss, &in.ss, rows[i].first, rows[i].last, 1, V_SS);
    }
    struct accesses cs = { ACCESSES(32, "%cs:") };
    access_at("cs.write", cs.code[0][1], &in.ds, S, 3, 0, V_GP);
    access_at("null.read", ds.code[0][0], &in.ds, 0, 0, 0, V_GP);
    access_at("null.write", fs.code[2][1], &in.fs, 0, 3, 0, V_GP);
    set_segment(S, 0, 0xFFFFF, XO | RING3 | FLAT);
    in_flat(3, cs.code[0][0]);
    in.cs = S | 3;
    run();
    check_fault("cs.execute-only.read", V_GP, 0);
}

/* PUSH and POP by each stack size at the ends of the stack segment. */
static void stacks(void)
{
    struct code push2 = CODE32(MARK "pushw %ax"), push4 = CODE32(MARK "pushl %eax");
    struct code pop4 = CODE32(MARK "popl %eax"), call = CODE32(MARK "call 1f\n1:");
    static const struct { u32 limit, access, esp; int which; u32 fault, after; } rows[] = {
        { 0xFFF, RW | BIG, 0x1000, 1, 0, 0xFFC },       /* the last doubleword is within */
        { 0xFFF, RW | BIG, 0x1001, 1, V_SS, 0x1001 },
        { 0xFFF, RW | BIG, 0, 1, V_SS, 0 },             /* wraps to FFFFFFFCh */
        { 0xFFF, RW, 0x51000, 1, 0, 0x50FFC },          /* SP alone counts */
        { 0xFFFF, RW, 0x30000, 1, 0, 0x3FFFC },
        { 0xFFFF, RW, 0x30002, 1, V_SS, 0x30002 },      /* FFFEh to 10001h */
        { 0xFFFF, RW, 0x30001, 0, V_SS, 0x30001 },
        { 0xFFFF, RW, 0x30002, 0, 0, 0x30000 },
        { 0xFFF, RW | BIG, 0xFFC, 2, 0, 0x1000 },
        { 0xFFF, RW | BIG, 0xFFD, 2, V_SS, 0xFFD },
        { 0xFFFF, RW, 0x3FFFC, 2, 0, 0x30000 },
        { 0xFFFF, RW, 0x3FFFE, 2, V_SS, 0x3FFFE },
        { 0xFFF, RW_DOWN, 0x1004, 1, 0, 0x1000 },
        { 0xFFF, RW_DOWN, 0x1003, 1, V_SS, 0x1003 },
        { 0xFFF, RW_DOWN | BIG, 0x1004, 3, 0, 0x1000 },
        { 0xFFF, RW_DOWN | BIG, 0x1003, 3, V_SS, 0x1003 },
        { 0xFFF, RW | BIG, 2, 3, V_SS, 2 },
    };
    struct code codes[] = { push2, push4, pop4, call };
    for (u32 i = 0; i < COUNT(rows); i++) {
        set_segment(S, DATA, rows[i].limit, rows[i].access | RING3);
        in_flat(3, codes[rows[i].which]);
        in.ss = S | 3;
        in.esp = rows[i].esp;
        run();
        if (rows[i].fault)
            check_fault(name("stack.%u", i), rows[i].fault, 0);
        else
            check_end(name("stack.%u", i));
        check(name("stack.%u.esp", i), in.esp, rows[i].after);
    }
}

enum { K_CODE = FREE + 16, K_DATA = FREE + 24, U_CODE = FREE + 32, U_DATA = FREE + 40,
       CONF = FREE + 48, EXEC = FREE + 56, READ = FREE + 64, ABSENT = FREE + 72, DOWN = FREE + 80,
       T16 = FREE + 88, T32 = FREE + 96, T_LDT = FREE + 104, G16 = FREE + 112, G32 = FREE + 120,
       T_GATE = FREE + 128, I_GATE = FREE + 136, ZERO = FREE + 144, K_CONF = FREE + 152 };

/* What LAR and LSL give at CPL 0 and 3 (0 and 1: ZF = 0), and whether VERR and VERW set ZF. */
static const struct view {
    const char *name;
    u32 selector, lar0, lar3, lsl0, lsl3;
    u8 verr0, verr3, verw0, verw3;
} views[] = {
    { "null", 0, 0, 0, 1, 1, 0, 0, 0, 0 },
    { "kernel-code", K_CODE, 0xC09B00, 0, 0xFFFFFFFF, 1, 1, 0, 0, 0 },
    { "kernel-data", K_DATA, 0x409300, 0, 0x12345, 1, 1, 0, 1, 0 },
    { "kernel-data-rpl3", K_DATA | 3, 0, 0, 1, 1, 0, 0, 0, 0 },
    { "user-code", U_CODE | 3, 0x00FB00, 0x00FB00, 0xABC, 0xABC, 1, 1, 0, 0 },
    { "user-data", U_DATA | 3, 0xC0F300, 0xC0F300, 0x12345FFF, 0x12345FFF, 1, 1, 1, 1 },
    { "conforming", K_CONF | 3, 0xC09F00, 0xC09F00, 0xFFFFFFFF, 0xFFFFFFFF, 1, 1, 0, 0 },
    { "execute-only", EXEC | 3, 0xC0F900, 0xC0F900, 0xFFFFFFFF, 0xFFFFFFFF, 0, 0, 0, 0 },
    { "read-only", READ | 3, 0xC0F100, 0xC0F100, 0xFFFFFFFF, 0xFFFFFFFF, 1, 1, 0, 0 },
    { "not-present", ABSENT | 3, 0x007300, 0x007300, 0x77, 0x77, 1, 1, 1, 1 },
    { "expand-down", DOWN | 3, 0x40F700, 0x40F700, 0x777, 0x777, 1, 1, 1, 1 },
    { "tss16", T16, 0x008100, 0, 43, 1, 0, 0, 0, 0 },
    { "tss32-busy", T32, 0x008B00, 0, 103, 1, 0, 0, 0, 0 },
    { "ldt", T_LDT | 3, 0x00E200, 0x00E200, 7, 7, 0, 0, 0, 0 },
    { "call-gate16", G16 | 3, 0x00E400, 0x00E400, 1, 1, 0, 0, 0, 0 },
    { "call-gate32", G32 | 3, 0x00EC00, 0x00EC00, 1, 1, 0, 0, 0, 0 },
    { "task-gate", T_GATE | 3, 0x00E500, 0x00E500, 1, 1, 0, 0, 0, 0 },
    { "interrupt-gate", I_GATE | 3, 0, 0, 1, 1, 0, 0, 0, 0 },
    { "type-0", ZERO | 3, 0, 0, 1, 1, 0, 0, 0, 0 },
    { "beyond", 0xFF8 | 3, 0, 0, 1, 1, 0, 0, 0, 0 },
    { "no-ldt", 0x0F, 0, 0, 1, 1, 0, 0, 0, 0 },
};

static void inspect(int cpl, const struct view *v)
{
    struct code code = CODE32("lar %eax, %ebx\nsetz %ch\nlsl %eax, %esi\nsetz %cl\n"
                              "verr %ax\nsetz %dh\nverw %ax\nsetz %dl");
    u32 lar = cpl ? v->lar3 : v->lar0, lsl = cpl ? v->lsl3 : v->lsl0;
    in_flat(cpl, code);
    in.eax = 0xFFFF0000 | v->selector;
    in.ebx = in.esi = 0x5A5A5A5A;
    in.eflags |= F_ZF;
    run();
    check_end(name("view.%s.cpl%u", v->name, cpl));
    check(name("view.%s.lar.cpl%u", v->name, cpl), in.ebx & 0xFFF0FF00, lar ? lar : 0x5A505A00);
    check(name("view.%s.lsl.cpl%u", v->name, cpl), in.esi, lsl != 1 ? lsl : 0x5A5A5A5A);
    check(name("view.%s.zf.cpl%u", v->name, cpl), in.ecx & 0xFFFF, (lar != 0) << 8 | (lsl != 1));
    check(name("view.%s.verify.cpl%u", v->name, cpl), in.edx & 0xFFFF,
          (u32)(cpl ? v->verr3 : v->verr0) << 8 | (cpl ? v->verw3 : v->verw0));
}

static void visible(void)
{
    set_segment(K_CODE, 0, 0xFFFFF, XR | FLAT);
    set_segment(K_DATA, 0, 0x12345, RW | BIG);
    set_segment(U_CODE, 0, 0xABC, XR | RING3);
    set_segment(U_DATA, 0, 0x12345, RW | RING3 | FLAT);
    set_segment(K_CONF, 0, 0xFFFFF, XR_CONF | FLAT);
    set_segment(EXEC, 0, 0xFFFFF, XO | RING3 | FLAT);
    set_segment(READ, 0, 0xFFFFF, RO | RING3 | FLAT);
    set_segment(ABSENT, 0, 0x77, (RW | RING3) & ~PRESENT);
    set_segment(DOWN, 0, 0x777, RW_DOWN | RING3 | BIG);
    set_segment(T16, 0, 43, TSS16);
    set_segment(T32, 0, 103, TSS32 | 2);
    set_segment(T_LDT, 0, 7, LDT | RING3);
    set_gate(gdt + G16 / 4, KCODE, 0, CALL16 | RING3);
    set_gate(gdt + G32 / 4, KCODE, 0, CALL32 | RING3);
    set_gate(gdt + T_GATE / 4, TSS_KERNEL, 0, TASK_GATE | RING3);
    set_gate(gdt + I_GATE / 4, KCODE, 0, INT32 | RING3);
    set_segment(ZERO, 0, 0, 0xE0);
    for (u32 i = 0; i < COUNT(views); i++)
        for (int cpl = 0; cpl <= 3; cpl += 3)
            inspect(cpl, &views[i]);
}

/* MOV to DS and to SS at CPL 0 and 3: the vector, whose error code is the selector; 0: loaded. */
static void loads(void)
{
    static const struct { const char *name; u32 selector; u8 ds0, ss0, ds3, ss3; } rows[] = {
        { "null", 0, 0, V_GP, 0, V_GP },
        { "null-rpl3", 3, 0, V_GP, 0, V_GP },
        { "kernel-code", K_CODE, 0, V_GP, V_GP, V_GP },
        { "kernel-data", K_DATA, 0, 0, V_GP, V_GP },
        { "kernel-data-rpl3", K_DATA | 3, V_GP, V_GP, V_GP, V_GP },
        { "user-code", U_CODE | 3, 0, V_GP, 0, V_GP },
        { "user-data", U_DATA | 3, 0, V_GP, 0, 0 },
        { "user-data-rpl0", U_DATA, 0, V_GP, 0, V_GP },
        { "conforming", K_CONF | 3, 0, V_GP, 0, V_GP },
        { "execute-only", EXEC | 3, V_GP, V_GP, V_GP, V_GP },
        { "read-only", READ | 3, 0, V_GP, 0, V_GP },
        { "not-present", ABSENT | 3, V_NP, V_GP, V_NP, V_SS },
        { "expand-down", DOWN | 3, 0, V_GP, 0, 0 },
        { "tss", T32, V_GP, V_GP, V_GP, V_GP },
        { "call-gate", G32 | 3, V_GP, V_GP, V_GP, V_GP },
        { "beyond", 0xFFF8 | 3, V_GP, V_GP, V_GP, V_GP },
        { "no-ldt", 0x0F, V_GP, V_GP, V_GP, V_GP },
    };
    struct code ds = CODE32(MARK "mov %eax, %ds"), ss = CODE32(MARK "mov %eax, %ss");
    for (u32 i = 0; i < COUNT(rows); i++)
        for (int cpl = 0; cpl <= 3; cpl += 3)
            for (u32 stack = 0; stack < 2; stack++) {
                const char *what = name("load.%s.%s.cpl%u", stack ? "ss" : "ds", rows[i].name, cpl);
                u32 want = cpl ? stack ? rows[i].ss3 : rows[i].ds3
                               : stack ? rows[i].ss0 : rows[i].ds0;
                in_flat(cpl, stack ? ss : ds);
                in.eax = rows[i].selector;
                run();
                if (want)
                    check_fault(what, want, rows[i].selector & 0xFFFC);
                else
                    check(what, stack ? in.ss : in.ds, rows[i].selector);
            }
    set_segment(K_DATA, 0, 0x12345, (RW | BIG) & ~1u);
    in_flat(0, ds);
    in.eax = K_DATA;
    run();
    check("load.sets-accessed", access_of(K_DATA), RW);
    in_flat(0, CODE32(MARK ".byte 0x8E, 0xC8"));
    run();
    check_fault("load.cs", V_UD, 0);
    in_flat(0, CODE32(MARK ".byte 0x8E, 0xF0"));
    run();
    check_fault("load.segment-6", V_UD, 0);
}

void guest_main(void)
{
    limits();
    stacks();
    visible();
    loads();
}
