/* Virtual-8086 mode with and without CR4.VME, and CR4.PVI: the instructions that look at IF, IOPL,
   VIF and VIP, and the redirection of INT n (SDM 3A ch. 20). */
#include "narrow.h"

enum { PROGRAM_HANDLER = 0x300 };   /* in the program's segment; LOW / 16 is its CS */

static void set_cr4(u32 value)
{
    asm volatile("mov %0, %%cr4" :: "r"(value));
}

struct row {
    const char *name;
    struct code code;
};

/* Each instruction at IOPL 0 to 3 without VME: only IOPL 3 lets it run. */
static void without_vme(void)
{
    struct row rows[] = {
        { "cli", CODE16(MARK "cli") }, { "sti", CODE16(MARK "sti\nnop") },
        { "pushf", CODE16(MARK "pushf") }, { "popf", CODE16(MARK "popf") },
        { "pushfl", CODE16(MARK "pushfl") }, { "popfl", CODE16(MARK "popfl") },
        { "iret", CODE16(MARK "iretw\n.org .+20") }, { "int", CODE16(MARK "int $0x40") },
    };
    for (u32 iopl = 0; iopl < 4; iopl++)
        for (u32 i = 0; i < COUNT(rows); i++) {
            const char *what = name("v86.%s.iopl%u", rows[i].name, iopl);
            set_gate(idt + 2 * 0x40, TSS_HANDLERS + 8 * 32, 0, TASK_GATE | RING3);
            in_v86(iopl, rows[i].code);
            DATA32(DATA_V86 + STACK) = 0x3202 | (LOW / 16) << 16;
            if (i == 6) {
                DATA16(DATA_V86 + STACK) = rows[7].code.start - SNIPPETS;
                DATA16(DATA_V86 + STACK + 4) = 0x3202;
            }
            run();
            if (iopl == 3)
                check_end(what);
            else
                check_fault(what, V_GP, 0);
        }
    in_v86(3, CODE16("popfl\npushfl"));     /* POPFD cannot change IOPL, VM, VIF and VIP */
    DATA32(DATA_V86 + STACK) = 0x00380ED7;
    run();
    check("v86.popfl", in.eflags, 0x00223ED7);
    check("v86.pushfl", DATA32(DATA_V86 + STACK), 0x00203ED7);
    in_v86(3, CODE16("sti\nnop\npushf\ncli"));
    run();
    check("v86.sti", DATA16(DATA_V86 + STACK - 2), 0x3202);
    check("v86.cli", in.eflags & F_IF, 0);
}

static void with_vme(void)
{
    static const struct { const char *name; u32 flags, after; int faults; } sti[] = {
        { "clear", 0, F_VIF, 0 }, { "set", F_VIF, F_VIF, 0 }, { "vip", F_VIP, F_VIP, 1 },
        { "vip-vif", F_VIP | F_VIF, F_VIP | F_VIF, 1 },
    };
    struct code code = CODE16(MARK "sti"), cli = CODE16(MARK "cli"), pushf = CODE16(MARK "pushf");
    struct code popf = CODE16(MARK "popf"), pushfl = CODE16(MARK "pushfl");
    struct code popfl = CODE16(MARK "popfl"), iret = CODE16(MARK "iretw"), end = CODE16("nop");
    struct code iretl = CODE16(MARK "iretl");
    set_cr4(CR4_VME);
    /* INT 81h ends a snippet by its task gate only with its bit in the map, and with IOPL 3. */
    for (u32 i = 0; i < COUNT(sti); i++) {
        in_v86(0, code);
        in.eflags |= sti[i].flags;
        in.redirection[V_END / 8] = 1 << V_END % 8;
        run();
        if (sti[i].faults)
            check_fault(name("vme.sti.%s", sti[i].name), V_GP, 0);
        else
            check(name("vme.sti.%s", sti[i].name), in.eip, code.mark - SNIPPETS + 1);
        check(name("vme.sti.%s.flags", sti[i].name), in.eflags & (F_VIF | F_VIP | F_IF),
              sti[i].after);
    }
    for (u32 vif = 0; vif < 2; vif++) {
        u32 flags = vif ? F_VIF : 0;
        in_v86(0, cli);
        in.eflags |= flags ? flags : F_VIP;
        in.redirection[V_END / 8] = 1 << V_END % 8;
        run();
        check(name("vme.cli.vif%u", vif), in.eip, cli.mark - SNIPPETS + 1);
        check(name("vme.cli.vif%u.flags", vif), in.eflags & (F_VIF | F_VIP), vif ? 0 : F_VIP);
        in_v86(0, pushf);
        in.eflags |= flags | F_CF | F_NT;
        in.redirection[V_END / 8] = 1 << V_END % 8;
        run();
        check(name("vme.pushf.vif%u", vif), DATA16(DATA_V86 + STACK - 2),
              0x7003 | (vif ? F_IF : 0));
    }
    static const struct { const char *name; u32 flags, image, after; int faults; } pops[] = {
        { "if", 0, 0x3202, F_VIF, 0 }, { "no-if", F_VIF, 0x0002, 0, 0 },
        { "if-vip", F_VIP, 0x0202, F_VIP, 1 }, { "no-if-vip", F_VIP, 2, F_VIP, 0 },
        { "tf", 0, 0x102, 0, 1 },
    };
    for (u32 i = 0; i < COUNT(pops); i++)
        for (u32 kind = 0; kind < 2; kind++) {
            const char *what = name("vme.%s.%s", kind ? "iret" : "popf", pops[i].name);
            in_v86(0, kind ? iret : popf);
            in.eflags |= pops[i].flags;
            in.redirection[V_END / 8] = 1 << V_END % 8;
            DATA16(DATA_V86 + STACK) = kind ? end.start - SNIPPETS : pops[i].image;
            DATA16(DATA_V86 + STACK + 2) = LOW / 16;
            DATA16(DATA_V86 + STACK + 4) = pops[i].image;
            run();
            if (pops[i].faults)
                check_fault(what, V_GP, 0);
            else
                check(what, in.eip, kind ? end.start - SNIPPETS + 1 : popf.mark - SNIPPETS + 1);
            check(name("%s.flags", what), in.eflags & (F_VIF | F_VIP | F_IF | F_IOPL),
                  pops[i].after);
        }
    struct row wide[] = { { "pushfl", pushfl }, { "popfl", popfl }, { "iretl", iretl } };
    for (u32 i = 0; i < COUNT(wide); i++) {
        in_v86(0, wide[i].code);
        run();
        check_fault(name("vme.%s", wide[i].name), V_GP, 0);
    }
    in_v86(3, code);                        /* with IOPL 3 it is IF itself */
    in.redirection[V_END / 8] = 1 << V_END % 8;
    run();
    check_end("vme.sti.iopl3");
    check("vme.sti.iopl3.flags", in.eflags & (F_IF | F_VIF), F_IF);
}

static void redirection(void)
{
    struct code code = CODE16(MARK "int $0x40");
    struct code handler = CODE16("pushf\npop %bx\n.byte 0xF1");
    set_cr4(CR4_VME);
    DATA32(4 * 0x40) = (LOW / 16) << 16 | (handler.start - SNIPPETS);
    set_gate(idt + 2 * 0x40, TSS_HANDLERS + 8 * 32, 0, TASK_GATE | RING3);
    for (u32 iopl = 0; iopl < 4; iopl += 3)
        for (u32 vif = 0; vif < 2; vif++) {
            const char *what = name("redirect.iopl%u.vif%u", iopl, vif);
            in_v86(iopl, code);
            in.eflags |= vif ? F_VIF | F_IF : 0;
            run();
            check(what, vector, V_DB);      /* INT1 ends it */
            check(name("%s.ip", what), in.eip, handler.start - SNIPPETS + 3);
            check(name("%s.sp", what), in.esp, STACK - 6);
            check(name("%s.return", what), DATA32(DATA_V86 + STACK - 6),
                  LOW / 16 << 16 | (code.mark - SNIPPETS + 2));
            check(name("%s.flags", what), DATA16(DATA_V86 + STACK - 2),
                  0x3002 | (vif ? F_IF : 0));
            check(name("%s.seen", what), in.ebx & 0xFFFF, 0x3002);
            check(name("%s.vif", what), in.eflags & (F_VIF | F_IF),
                  !vif ? 0 : iopl ? F_VIF : F_IF);
            in_v86(iopl, code);             /* a set bit: through the gate, with IOPL 3 */
            in.redirection[8] = 1;
            run();
            if (iopl)
                check_end(name("redirect.set.iopl%u", iopl));
            else
                check_fault(name("redirect.set.iopl%u", iopl), V_GP, 0);
        }
    in_v86(0, CODE16(MARK "int3"));         /* INT3 goes through the IDT whatever the map says */
    set_gate(idt + 2 * V_BP, TSS_HANDLERS + 8 * V_BP, 0, TASK_GATE | RING3);
    run();
    check("redirect.int3", vector, V_BP);
    in_v86(0, code);
    in.io_base = sizeof in + 64;            /* the map is beyond the TSS's limit */
    run();
    check_fault("redirect.no-map", V_GP, 0);
}

/* CR4.PVI: VIF and VIP for CLI and STI in ring 3 of protected mode; POPF does not change VIF. */
static void pvi(void)
{
    struct code sti = CODE32(MARK "sti"), cli = CODE32(MARK "cli");
    struct code flags = CODE32("pushf\npop %ebx\npush %eax\npopf");
    for (u32 pass = 0; pass < 2; pass++) {
        set_cr4(pass ? CR4_PVI : 0);
        in_flat(3, sti);
        run();
        if (pass)
            check_end("pvi.sti");
        else
            check_fault("no-pvi.sti", V_GP, 0);
        check(name("pvi%u.sti.flags", pass), in.eflags & (F_VIF | F_IF), pass ? F_VIF : 0);
        in_flat(3, cli);
        in.eflags |= F_VIF | F_IF;
        run();
        if (pass)
            check_end("pvi.cli");
        else
            check_fault("no-pvi.cli", V_GP, 0);
        check(name("pvi%u.cli.flags", pass), in.eflags & (F_VIF | F_IF),
              pass ? F_IF : F_VIF | F_IF);
    }
    in_flat(3, sti);
    in.eflags |= F_VIP;
    run();
    check_fault("pvi.sti.vip", V_GP, 0);
    in_flat(3, flags);
    in.eflags |= F_VIF;
    in.eax = F_IF | 2;
    run();
    check_end("pvi.popf");
    check("pvi.pushf", in.ebx, F_VIF | 2);
    check("pvi.popf.flags", in.eflags & (F_VIF | F_IF), F_VIF);
    in_flat(3, cli);
    in.eflags |= F_IOPL | F_VIF | F_IF;
    run();
    check("pvi.cli.iopl3", in.eflags & (F_VIF | F_IF), F_VIF);
    set_cr4(0);
}

/* VIF and VIP together raise #GP before an instruction of ring 3, but only with VME or PVI, and IOPL
   below 3 (SDM 3A 20.3.2). */
static void both(void)
{
    struct code narrow = CODE16(MARK "nop"), wide = CODE32(MARK "nop");
    struct code iret = CODE32("iret");
    for (u32 vme = 0; vme < 2; vme++)
        for (u32 iopl = 0; iopl < 4; iopl += 3) {
            set_cr4(vme ? CR4_VME : 0);
            in_v86(iopl, narrow);
            in.eflags |= F_VIF | F_VIP;
            in.redirection[V_END / 8] = 1 << V_END % 8;
            run();
            const char *what = name("both.vme%u.iopl%u", vme, iopl);
            if (vme && !iopl)
                check_fault(what, V_GP, 0);
            else
                check(what, in.eip, narrow.mark - SNIPPETS + (iopl ? 3 : 1));
            check(name("%s.flags", what), in.eflags & (F_VIF | F_VIP), F_VIF | F_VIP);
            for (int cpl = 0; cpl <= 3; cpl += 3) {
                set_cr4(vme ? CR4_PVI : 0);
                in_flat(cpl, wide);
                in.eflags |= F_VIF | F_VIP | iopl << 12;
                run();
                what = name("both.pvi%u.iopl%u.cpl%u", vme, iopl, cpl);
                if (vme && !iopl && cpl)
                    check_fault(what, V_GP, 0);
                else
                    check_end(what);
            }
        }
    set_cr4(CR4_PVI);
    in_flat(0, iret);                       /* IRET to ring 3 */
    DATA32(DATA + STACK) = wide.mark;
    DATA32(DATA + STACK + 4) = UCODE;
    DATA32(DATA + STACK + 8) = F_VIF | F_VIP | 2;
    DATA32(DATA + STACK + 12) = DATA + 0x6000;
    DATA32(DATA + STACK + 16) = UDATA;
    run();
    check("both.iret", vector << 16 | error, V_GP << 16);
    check("both.iret.eip", in.eip, wide.mark);
    set_cr4(0);
}

void guest_main(void)
{
    without_vme();
    with_vme();
    redirection();
    pvi();
    both();
}
