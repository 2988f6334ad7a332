/* The addressing forms of 16- and 32-bit code: each ModRM form with its default segment, wraps at
   64 KiB and 4 GiB, and the prefix that selects the other size (SDM 2A 2.1.5). */
#include "narrow.h"

/* Values of BX, BP, SI and DI with upper halves that 16-bit addresses ignore. */
enum { BX = 0x1234, BP = 0x8100, SI = 0x0402, DI = 0xFF00 };

struct form {
    const char *name;
    struct code load, lea, store;
    u32 offset;
    int stack;
};

#define FORM(operand, offset, stack)                                                          \
    {                                                                                         \
        operand, CODE16(MARK "movw " operand ", %ax"), CODE16(MARK "leaw " operand ", %ax"),   \
        CODE16(MARK "movw %cx, " operand), (offset) & 0xFFFF, stack                            \
    }

static void in_form(struct code code)
{
    in_16(3, code);
    in.ss = FREE | 3;                   /* another base than that of DS */
    in.ebx = 0xAAAA0000 | BX;
    in.ebp = 0xBBBB0000 | BP;
    in.esi = 0xCCCC0000 | SI;
    in.edi = 0xDDDD0000 | DI;
    in.ecx = 0xC0DE;
}

static void forms16(void)
{
    struct form forms[] = {
        FORM("(%bx,%si)", BX + SI, 0), FORM("(%bx,%di)", BX + DI, 0), FORM("(%bp,%si)", BP + SI, 1),
        FORM("(%bp,%di)", BP + DI, 1), FORM("(%si)", SI, 0), FORM("(%di)", DI, 0),
        FORM("0x4321", 0x4321, 0), FORM("(%bx)", BX, 0),
        FORM("-2(%bx,%si)", BX + SI - 2, 0), FORM("16(%bx,%di)", BX + DI + 16, 0),
        FORM("-128(%bp,%si)", BP + SI - 128, 1), FORM("127(%bp,%di)", BP + DI + 127, 1),
        FORM("-4(%si)", SI - 4, 0), FORM("4(%di)", DI + 4, 0), FORM("0(%bp)", BP, 1),
        FORM("6(%bx)", BX + 6, 0),
        FORM("0xF000(%bx,%si)", BX + SI + 0xF000, 0), FORM("0x1000(%bx,%di)", BX + DI + 0x1000, 0),
        FORM("0x8000(%bp,%si)", BP + SI + 0x8000, 1), FORM("0x8888(%bp,%di)", BP + DI + 0x8888, 1),
        FORM("0xFC00(%si)", SI + 0xFC00, 0), FORM("0x7FFE(%di)", DI + 0x7FFE, 0),
        FORM("0x7F00(%bp)", BP + 0x7F00, 1), FORM("0xEDCC(%bx)", BX + 0xEDCC, 0),
    };
    set_segment(FREE, DATA + 0x10000, 0xFFFF, RW | RING3);
    for (u32 i = 0; i < COUNT(forms); i++) {
        u32 at = DATA + (forms[i].stack ? 0x10000 : 0) + forms[i].offset;
        u32 other = DATA + (forms[i].stack ? 0 : 0x10000) + forms[i].offset;
        DATA16(at) = 0x5A00 + i;
        DATA16(other) = 0xDEAD;
        in_form(forms[i].load);
        run();
        check_end(name("load.%s", forms[i].name));
        check(name("load.%s.value", forms[i].name), in.eax, 0x5A00 + i);
        in_form(forms[i].lea);
        in.eax = 0x77770000;
        run();
        check(name("lea.%s", forms[i].name), in.eax, 0x77770000 | forms[i].offset);
        in_form(forms[i].store);
        run();
        check(name("store.%s", forms[i].name), DATA16(at), 0xC0DE);
        check(name("store.%s.other", forms[i].name), DATA16(other), 0xDEAD);
    }
}

/* Operands at the end of 64 KiB do not wrap: they are beyond the limit. */
static void ends(void)
{
    struct row { const char *name; struct code code; u32 size, fault; } rows[] = {
        { "byte", CODE16(MARK "movb (%bx), %al"), 1, V_GP },
        { "word", CODE16(MARK "movw (%bx), %ax"), 2, V_GP },
        { "long", CODE16(MARK "movl %eax, (%bx)"), 4, V_GP },
        { "rmw", CODE16(MARK "incw (%bx)"), 2, V_GP },
        { "bp", CODE16(MARK "movw (%bp), %ax"), 2, V_SS },
        { "bp-ds", CODE16(MARK "movw %ds:(%bp), %ax"), 2, V_GP },
        { "bx-ss", CODE16(MARK "movw %ss:(%bx), %ax"), 2, V_SS },
        { "far", CODE16(MARK "lesw (%bx), %ax"), 4, V_GP },
        { "stos", CODE16(MARK "stosl"), 4, V_GP }, { "lods", CODE16(MARK "lodsw"), 2, V_GP },
        { "lods-ss", CODE16(MARK "lodsw %ss:(%si), %ax"), 2, V_SS },
        { "push", CODE16(MARK "pushw (%bx)"), 2, V_GP },
        { "bound", CODE16(MARK "bound %cx, (%bx)"), 4, V_GP },
        { "cmpxchg8b", CODE16(MARK "cmpxchg8b (%bx)"), 8, V_GP },
    };
    for (u32 mode = 0; mode < 2; mode++)
        for (u32 i = 0; i < COUNT(rows); i++)
            for (u32 beyond = 0; beyond < 2; beyond++) {
                const char *what = name("end.%s.%s.%u", mode ? "v86" : "16", rows[i].name, beyond);
                u32 base = mode ? DATA_V86 : DATA;
                if (rows[i].size == 1 && beyond)
                    continue;
                DATA32(base + 0xFFF8) = DATA32(base + 0xFFFC) = 0;
                if (mode)
                    in_v86(3, rows[i].code);
                else
                    in_16(3, rows[i].code);
                in.ebx = in.ebp = in.esi = in.edi = 0x10000 - rows[i].size + beyond;
                run();
                if (beyond)
                    check_fault(what, rows[i].fault, 0);
                else
                    check_end(what);
            }
    struct code wide = CODE16(MARK "movb (%ebx), %al");
    struct code high = CODE16(MARK "movb 0x12345(%esi), %al");
    in_16(3, wide);
    in.ebx = 0x10000;                   /* a 32-bit address does not wrap at 64 KiB */
    run();
    check_fault("addr32.beyond", V_GP, 0);
    set_segment(FREE, DATA, 0x3FFFF, RW | RING3);
    DATA8(DATA + 0x12346) = 0x99;
    in_16(3, high);
    in.ds = FREE | 3;
    in.esi = 1;
    run();
    check_end("addr32.within");
    check("addr32.value", in.eax, 0x99);
}

/* 32-bit code: sums wrap at 4 GiB, with and without bases; 16-bit addresses by the prefix. */
static void wide(void)
{
    static const struct { const char *name; u32 base, ebx, esi; } rows[] = {
        { "plain", 0, DATA + 0x100, 0 }, { "wraps", 0, 0xFFFFFF00, DATA + 0x200 },
        { "negative", 0, DATA + 0x300, -0x200u },
        { "scaled", 0, DATA - 0x40000000 + 0x100, 0x10000000 },
        { "base-wraps", 0xFFFF0000, DATA + 0x10100, 0 }, { "base", DATA, 0x100, 0 },
    };
    struct code one = CODE32(MARK "movl (%ebx,%esi), %eax");
    struct code four = CODE32(MARK "movl (%ebx,%esi,4), %eax");
    struct code lea = CODE32("lea 0x7FFFFFFF(%ebx,%esi,8), %eax\nlea (%bx,%si), %ecx\n"
                             "leaw (%ebx), %dx");
    DATA32(DATA + 0x100) = 0xFEEDBEEF;
    for (u32 i = 0; i < COUNT(rows); i++) {
        set_segment(FREE, rows[i].base, 0xFFFFF, RW | RING3 | FLAT);
        in_flat(3, i == 3 ? four : one);
        in.ds = FREE | 3;
        in.ebx = rows[i].ebx;
        in.esi = rows[i].esi;
        run();
        check_end(name("32.%s", rows[i].name));
        check(name("32.%s.value", rows[i].name), in.eax, 0xFEEDBEEF);
    }
    in_flat(3, lea);
    in.ebx = 0x8000FFFF;
    in.esi = 0x10000002;
    in.edx = 0x66660000;
    run();
    check("lea.32", in.eax, 0x7FFFFFFF + 0x8000FFFF + 0x80000010);
    check("lea.16-in-32", in.ecx, 1);
    check("lea.word", in.edx, 0x6666FFFF);
    struct code strings = CODE32("addr16 rep movsb");
    in_flat(3, strings);
    set_segment(FREE, DATA, 0xFFFFF, RW | RING3 | FLAT);
    in.ds = in.es = FREE | 3;
    in.esi = 0x1111FFFE;
    in.edi = 0x22220100;
    in.ecx = 0x33330004;
    DATA16(DATA + 0xFFFE) = 0x2211;
    DATA16(DATA) = 0x4433;
    run();
    check_end("movs.16-in-32");
    check("movs.16-in-32.value", DATA32(DATA + 0x100), 0x44332211);
    check("movs.16-in-32.esi", in.esi, 0x11110002);
    check("movs.16-in-32.edi", in.edi, 0x22220104);
    check("movs.16-in-32.ecx", in.ecx, 0x33330000);
    struct code down = CODE16("std\nrep stosw\ncld");
    in_16(3, down);
    in.edi = 0x50002;
    in.ecx = 3;
    in.eax = 0xABCD;
    DATA16(DATA + 2) = DATA16(DATA) = DATA16(DATA + 0xFFFE) = 0;
    run();
    check_end("stos.down");
    check("stos.down.wraps", DATA16(DATA + 0xFFFE), 0xABCD);
    check("stos.down.edi", in.edi, 0x5FFFC);
    struct code xlat = CODE16("xlat"), moffs = CODE16("movb 0xFFFF, %al\nmov %al, %fs:0x10");
    in_16(3, xlat);
    in.ebx = 0x7FFF0;
    in.eax = 0x5520;
    in.ebx = 0x7FFF0;
    DATA8(DATA + 0x10) = 0x42;
    run();
    check("xlat.wraps", in.eax, 0x5542);
    DATA8(DATA + 0xFFFF) = 0x24;
    in_16(3, moffs);
    run();
    check("moffs", DATA8(DATA + 0x10), 0x24);
}

void guest_main(void)
{
    forms16();
    ends();
    wide();
}
