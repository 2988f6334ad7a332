/* System instructions: control and debug registers, descriptor tables, the machine status word,
   the task register; ports and IOPL in protected mode (SDM 2A, 2B; 3A 2.5-2.8; 1 19.5). */
#include "narrow.h"

enum { OTHER = FREE };

struct table {
    u16 limit;
    u32 base;
} __attribute__((packed));

/* Instructions that need CPL 0; in virtual-8086 mode some are undefined. */
static void privileged(void)
{
    struct row { const char *name; struct code wide, narrow; u32 v86; } rows[] = {
#define ROW(name, text, v86) { name, CODE32(MARK text), CODE16(MARK text), v86 }
        ROW("mov-from-cr0", "mov %cr0, %eax", V_GP), ROW("mov-to-cr0", "mov %eax, %cr0", V_GP),
        ROW("mov-from-cr3", "mov %cr3, %eax", V_GP), ROW("mov-to-cr4", "mov %eax, %cr4", V_GP),
        ROW("mov-from-dr0", "mov %dr0, %eax", V_GP), ROW("mov-to-dr7", "mov %eax, %dr7", V_GP),
        ROW("clts", "clts", V_GP), ROW("lmsw", "lmsw %ax", V_GP), ROW("hlt", "hlt", V_GP),
        ROW("lgdt", "lgdt 0x100", V_GP), ROW("lidt", "lidt 0x100", V_GP),
        ROW("lldt", "lldt %ax", V_UD), ROW("ltr", "ltr %ax", V_UD),
        ROW("invd", "invd", V_GP), ROW("wbinvd", "wbinvd", V_GP),
        ROW("invlpg", "invlpg 0x100", V_GP), ROW("rdmsr", "rdmsr", V_GP),
        ROW("wrmsr", "wrmsr", V_GP),
    };
    for (u32 i = 0; i < COUNT(rows); i++) {
        in_flat(3, rows[i].wide);
        in.eflags |= F_IOPL;
        run();
        check_fault(name("%s.cpl3", rows[i].name), V_GP, 0);
        in_v86(3, rows[i].narrow);
        run();
        check_fault(name("%s.v86", rows[i].name), rows[i].v86, 0);
    }
    struct row undefined[] = {
        ROW("sldt", "sldt %ax", V_UD), ROW("str", "str %ax", V_UD),
        ROW("lar", "lar %ax, %cx", V_UD), ROW("lsl", "lsl %ax, %cx", V_UD),
        ROW("verr", "verr %ax", V_UD),
        ROW("verw", "verw %ax", V_UD), ROW("arpl", "arpl %ax, %cx", V_UD),
    };
    for (u32 i = 0; i < COUNT(undefined); i++) {
        in_flat(3, undefined[i].wide);
        run();
        check_end(name("%s.cpl3", undefined[i].name));
        in_v86(3, undefined[i].narrow);
        run();
        check_fault(name("%s.v86", undefined[i].name), V_UD, 0);
    }
}

static void control(void)
{
    u32 cr0;
    asm volatile("mov %%cr0, %0" : "=r"(cr0));
    struct code code = CODE32("clts\nsmsw %ax\nmov %eax, %ebx\nmov $0xFFFE, %ax\nlmsw %ax\n"
                              "mov %cr0, %ecx\nsmsw %edx\nclts\nmov $0, %eax\nlmsw %ax\n"
                              "smsw 0x220100");
    in_flat(0, code);
    in.eax = 0x55550000;
    DATA32(DATA + 0x100) = 0xAAAAAAAA;
    run();
    check_end("msw");
    check("smsw.16", in.ebx, 0x55550000 | ((cr0 & 0xFFFF) & ~(u32)CR0_TS));
    check("lmsw.sets", in.ecx & 15, 15);        /* PE cannot be cleared */
    check("smsw.32", in.edx, in.ecx);
    check("lmsw.keeps-pe", DATA32(DATA + 0x100) & 0xFFFF000F, 0xAAAA0001);

    in_flat(0, CODE32(MARK "mov %cr1, %eax"));
    run();
    check_fault("cr1", V_UD, 0);
    in_flat(0, CODE32(MARK ".byte 0x0F, 0x20, 0x00"));  /* mod is ignored: MOV EAX, CR0 */
    in.eax = 1;
    run();
    check_end("cr0.mod");
    check("cr0.mod.value", in.eax & 1, 1);
    struct code narrow = CODE16("mov %cr0, %eax");      /* always 32 bits */
    in_16(0, narrow);
    run();
    check("cr0.from-16", in.eax & 0xF0000001, cr0 & 0xF0000001);
    asm volatile("mov %0, %%cr0" :: "r"(cr0));
}

static void debug_registers(void)
{
    in_flat(0, CODE32("mov %eax, %dr0\nmov %dr0, %ebx\nmov $0, %eax\nmov %eax, %dr0\n"
                      "mov %dr7, %ecx\nmov %dr6, %edx"));
    in.eax = 0x12345678;
    run();
    check("dr0", in.ebx, 0x12345678);
    check("dr7", in.ecx, 0x400);
    check("dr6.ones", in.edx & 0xFFFF0FF0, 0xFFFF0FF0);
    in_flat(0, CODE32("mov %dr4, %eax"));       /* DR6, unless CR4.DE */
    run();
    check_end("dr4");
    asm volatile("mov %0, %%cr4" :: "r"(CR4_DE));
    in_flat(0, CODE32(MARK "mov %dr4, %eax"));
    run();
    check_fault("dr4.de", V_UD, 0);
    asm volatile("mov %0, %%cr4" :: "r"(0));
}

static void tables(void)
{
    struct table now, then;
    asm volatile("sgdt %0" : "=m"(now));
    struct code sgdt32 = CODE32("sgdt 0x220100"), sgdt16 = CODE16("sgdtw 0x100");
    struct code sidt = CODE32("sidt 0x220100"), at_end = CODE16(MARK "sgdt 0xFFFB");
    struct code sides[] = { sgdt32, sgdt16 };
    for (u32 i = 0; i < 2; i++) {
        DATA32(DATA + 0x104) = 0xEEEEEEEE;
        if (i)
            in_16(3, sides[i]);
        else
            in_flat(3, sides[i]);
        run();
        then = *(volatile struct table *)(DATA + 0x100);
        check(name("sgdt.%u.limit", i ? 16 : 32), then.limit, now.limit);
        check(name("sgdt.%u.base", i ? 16 : 32), then.base, now.base);
        check(name("sgdt.%u.size", i ? 16 : 32), DATA16(DATA + 0x106), 0xEEEE);
    }
    in_flat(3, sidt);
    run();
    check("sidt.base", DATA32(DATA + 0x102), (u32)idt);
    in_16(3, at_end);
    run();
    check_fault("sgdt.limit", V_GP, 0);
    /* LGDT with 16-bit operands loads 24 bits of base. */
    *(volatile struct table *)(DATA + 0x100) = (struct table){ now.limit, now.base | 0xAB000000 };
    in_flat(0, CODE32("data16 lgdt 0x220100\nsgdt 0x220108"));
    run();
    check_end("lgdt.24");
    check("lgdt.24.base", DATA32(DATA + 0x10A), now.base);
    in_flat(0, CODE32(MARK ".byte 0x0F, 0x01, 0xD6"));  /* LGDT needs memory */
    run();
    check_fault("lgdt.register", V_UD, 0);

    in_flat(3, CODE32("str %eax\nsldt %ebx\nstr 0x220100\nstr %cx"));
    in.eax = in.ebx = in.ecx = 0x5A5A5A5A;
    DATA32(DATA + 0x100) = 0xCCCCCCCC;
    run();
    check("str.32", in.eax, TSS_SNIPPET);
    check("sldt.32", in.ebx, 0);
    check("str.memory", DATA32(DATA + 0x100), 0xCCCC0000 | TSS_SNIPPET);
    check("str.16", in.ecx, 0x5A5A0000 | TSS_SNIPPET);
}

static void task_registers(void)
{
    static const struct { const char *name; u32 access, lldt, ltr; } rows[] = {
        { "ldt", LDT, 0, V_GP }, { "ldt-not-present", LDT & ~PRESENT, V_NP, V_GP },
        { "tss32", TSS32, V_GP, 0 }, { "tss16", TSS16, V_GP, 0 }, { "busy", TSS32 | 2, V_GP, V_GP },
        { "tss-not-present", TSS32 & ~PRESENT, V_GP, V_NP }, { "data", RW, V_GP, V_GP },
        { "call-gate", CALL32, V_GP, V_GP },
    };
    struct code lldt = CODE32(MARK "lldt %ax");
    struct code back = CODE32(MARK "ltr %ax\nmov $0x20, %eax\nandb $0xFD, 5(%ebx)\nltr %ax");
    for (u32 i = 0; i < COUNT(rows); i++)
        for (u32 tr = 0; tr < 2; tr++) {
            const char *what = name("%s.%s", tr ? "ltr" : "lldt", rows[i].name);
            u32 want = tr ? rows[i].ltr : rows[i].lldt;
            set_segment(OTHER, (u32)&in, 103, rows[i].access);
            in_flat(0, tr ? back : lldt);       /* TR must be the snippet's again at its end */
            in.eax = OTHER;
            in.ebx = (u32)&gdt[TSS_SNIPPET / 4];
            run();
            if (want)
                check_fault(what, want, OTHER);
            else
                check_end(what);
            if (tr && !want)
                check(name("%s.busy", what), access_of(OTHER), rows[i].access | 2);
        }
    in_flat(0, CODE32(MARK "ltr %ax"));
    run();
    check_fault("ltr.null", V_GP, 0);
    in_flat(0, CODE32("lldt %ax\nsldt %ebx"));
    in.eax = 3;
    run();
    check_end("lldt.null");
    check("lldt.null.selector", in.ebx, 3);
    in_flat(0, CODE32(MARK "lldt %ax"));
    in.eax = OTHER | 4;
    run();
    check_fault("lldt.in-ldt", V_GP, OTHER | 4);
    /* A segment in the snippet's own LDT, by its TSS. */
    set_segment(OTHER, DATA + 0x200, 15, LDT);
    DATA32(DATA + 0x208) = (DATA & 0xFFFF) << 16 | 0xFF;
    DATA32(DATA + 0x20C) = (RW | RING3) << 8 | (DATA >> 16);
    in_flat(3, CODE32("mov %eax, %ds\nmov 0x10, %ebx" MARK "\nmov 0x100, %ecx"));
    in.ldt = OTHER;
    in.eax = 0x0F;
    DATA32(DATA + 0x10) = 0x4C44543F;
    run();
    check_fault("ldt.limit", V_GP, 0);
    check("ldt.data", in.ebx, 0x4C44543F);
}

static void ports(void)
{
    struct code codes[] = { CODE32(MARK "inb %dx, %al"), CODE32(MARK "inw %dx, %ax"),
                            CODE32(MARK "inl %dx, %eax"), CODE32(MARK "inb $0x61, %al") };
    static const struct { const char *name; u32 which, port, first, bits, fault; } rows[] = {
        { "denied", 0, 0x61, 0x61, 0, V_GP }, { "allowed", 0, 0x61, 0x61, 1, 0 },
        { "immediate-allowed", 3, 0, 0x61, 1, 0 }, { "immediate-denied", 3, 0, 0x60, 1, V_GP },
        { "word-half", 1, 0x305, 0x305, 1, V_GP }, { "word", 1, 0x305, 0x305, 3, 0 },
        { "long", 2, 0x300, 0x300, 15, 0 }, { "long-three", 2, 0x300, 0x300, 7, V_GP },
        { "word-across-bytes", 1, 0x307, 0x307, 3, 0 }, { "last", 0, 0xFFFF, 0xFFFF, 1, 0 },
    };
    for (u32 i = 0; i < COUNT(rows); i++) {
        in_flat(3, codes[rows[i].which]);
        in.edx = rows[i].port;
        for (u32 b = 0; b < 4; b++)
            if (rows[i].bits >> b & 1)
                in.io_map[(rows[i].first + b) / 8] &= ~(1 << (rows[i].first + b) % 8);
        run();
        if (rows[i].fault)
            check_fault(name("port.%s", rows[i].name), V_GP, 0);
        else
            check_end(name("port.%s", rows[i].name));
    }
    in_flat(3, codes[0]);
    in.edx = 0x61;
    in.eflags |= F_IOPL;
    run();
    check_end("port.iopl3");
    in_flat(3, codes[0]);
    in.edx = 0x61;
    in.io_base = sizeof in;                     /* beyond the TSS */
    run();
    check_fault("port.no-map", V_GP, 0);
    in_v86(3, CODE16(MARK "inb %dx, %al"));     /* IOPL does not count there */
    in.edx = 0x61;
    run();
    check_fault("port.v86", V_GP, 0);
    struct code cli = CODE32(MARK "cli"), sti = CODE32(MARK "sti");
    for (u32 iopl = 0; iopl < 4; iopl += 3)
        for (u32 i = 0; i < 2; i++) {
            const char *what = name("%s.iopl%u", i ? "sti" : "cli", iopl);
            in_flat(3, i ? sti : cli);
            in.eflags |= iopl << 12;
            run();
            if (iopl)
                check_end(what);
            else
                check_fault(what, V_GP, 0);
        }
    struct code popf = CODE32("push %eax\npopf\npushf\npop %ebx");
    in_flat(3, popf);
    in.eflags |= 1 << 12;
    in.eax = 0x247ED5 & ~(u32)F_TF;
    run();
    check("popf.cpl3-iopl1", in.ebx, (0x244ED5 & ~(u32)(F_TF | F_IF)) | 2 | 1 << 12);
    in_flat(0, popf);
    in.eax = 0x247CD5;
    run();
    check("popf.cpl0", in.ebx, 0x247CD5 | 2);
    in_flat(0, CODE32("pushw %ax\npopfw\npushf\npop %ebx"));
    in.eflags |= F_ID;
    in.eax = 0x0CD7;
    run();
    check("popfw.cpl0", in.ebx, F_ID | 0x0CD7);
}

void guest_main(void)
{
    privileged();
    control();
    debug_registers();
    tables();
    task_registers();
    ports();
}
