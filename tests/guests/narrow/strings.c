/* String instructions in 16- and 32-bit code that reach the limit of a segment: the repetitions before
   the fault are done, and the registers say so (SDM 2B REP; 3A 5.3). */
#include "narrow.h"

enum { SOURCE = FREE, TARGET = FREE + 8, LIMIT = 0x1FF, COUNT_ = 8 };

struct row {
    const char *name;
    struct code code[2];    /* 32-bit addresses, and 16-bit ones */
    u32 size;
    int reads, writes;      /* whether it has a source and a target */
};

#define ROW(name, text, size, reads, writes) \
    { name, { CODE32(MARK text), CODE32(MARK "addr16 " text) }, size, reads, writes }

/* A source or a target of which three elements are within the limit, upwards and downwards. */
static void one(const struct row *r, u32 narrow, u32 down, u32 odd, int limited_source)
{
    struct code code = r->code[narrow];
    u32 n = r->size, fits = 3, high = narrow ? 0x77770000 : 0;
    u32 edge = down ? 2 * n + odd : LIMIT + 1 - 3 * n - odd;   /* three elements fit */
    u32 free = down ? 0x17F0 : 0x1000, sign = down ? -n : n;
    u32 esi = limited_source ? edge : free, edi = limited_source ? free : edge;
    const char *what = name("%s.%s.%s.%u.%s", r->name, narrow ? "16" : "32", down ? "down" : "up",
                            odd, limited_source ? "source" : "target");
    set_segment(SOURCE, DATA, limited_source ? LIMIT : 0xFFFF, RW | RING3);
    set_segment(TARGET, DATA + 0x4000, limited_source ? 0xFFFF : LIMIT, RW | RING3);
    for (u32 i = 0; i < 0x800; i++) {
        DATA8(DATA + i) = DATA8(DATA + 0x1000 + i) = 0x20;
        DATA8(DATA + 0x4000 + i) = DATA8(DATA + 0x5000 + i) = 0x20;
    }
    in_flat(3, code);
    in.ds = SOURCE | 3;
    in.es = TARGET | 3;
    in.esi = high | esi;
    in.edi = high | edi;
    in.ecx = high | COUNT_;
    in.eax = 0x20202020;
    in.eflags |= down ? F_DF : 0;
    run();
    check_fault(what, V_GP, 0);
    u32 mask = narrow ? 0xFFFF : 0xFFFFFFFF;
    if (r->reads)
        check(name("%s.esi", what), in.esi, high | ((esi + fits * sign) & mask));
    if (r->writes)
        check(name("%s.edi", what), in.edi, high | ((edi + fits * sign) & mask));
    check(name("%s.ecx", what), in.ecx, high | (COUNT_ - fits));
}

static void limits(void)
{
    struct row rows[] = {
        ROW("movsb", "rep movsb", 1, 1, 1), ROW("movsw", "rep movsw", 2, 1, 1),
        ROW("movsl", "rep movsl", 4, 1, 1), ROW("stosb", "rep stosb", 1, 0, 1),
        ROW("stosw", "rep stosw", 2, 0, 1), ROW("stosl", "rep stosl", 4, 0, 1),
        ROW("lodsb", "rep lodsb", 1, 1, 0), ROW("lodsl", "rep lodsl", 4, 1, 0),
        ROW("cmpsb", "repe cmpsb", 1, 1, 1), ROW("cmpsl", "repe cmpsl", 4, 1, 1),
        ROW("scasb", "repe scasb", 1, 0, 1), ROW("scasw", "repe scasw", 2, 0, 1),
    };
    for (u32 i = 0; i < COUNT(rows); i++)
        for (u32 mode = 0; mode < 8; mode++) {
            u32 odd = mode >> 2;
            if (odd && rows[i].size == 1)
                continue;               /* bytes are not misaligned */
            if (rows[i].reads)
                one(&rows[i], mode & 1, mode >> 1 & 1, odd, 1);
            if (rows[i].writes)
                one(&rows[i], mode & 1, mode >> 1 & 1, odd, 0);
        }
}

/* The segment of a prefix is that of the source alone; ES of the target stays. */
static void segments(void)
{
    struct code code = CODE32(MARK "movsb %fs:(%esi), %es:(%edi)");
    set_segment(SOURCE, DATA, 0xFFFF, RW | RING3);
    set_segment(TARGET, DATA + 0x4000, 0xFFFF, RW | RING3);
    DATA8(DATA + 0x10) = 0xA5;
    in_flat(3, code);
    in.ds = 0;
    in.fs = SOURCE | 3;
    in.es = TARGET | 3;
    in.esi = 0x10;
    in.edi = 0x20;
    run();
    check_end("prefix");
    check("prefix.value", DATA8(DATA + 0x4020), 0xA5);
    struct code stack = CODE32(MARK "lodsb %ss:(%esi), %al");
    in_flat(3, stack);
    set_segment(SOURCE, DATA, 0xFF, RW | RING3 | BIG);
    in.ss = SOURCE | 3;
    in.esp = 0x80;
    in.esi = 0x100;
    run();
    check_fault("prefix.ss", V_SS, 0);
    struct code nothing = CODE32(MARK "rep movsl");
    in_flat(3, nothing);                /* no count: no access, whatever the segments are */
    in.ds = in.es = 0;
    run();
    check_end("no-count");
    struct code read_only = CODE32(MARK "rep stosb");
    set_segment(TARGET, DATA, 0xFFFF, RO | RING3);
    in_flat(3, read_only);
    in.es = TARGET | 3;
    in.ecx = 1;
    run();
    check_fault("read-only", V_GP, 0);
    check("read-only.ecx", in.ecx, 1);
    struct code in8 = CODE32(MARK "rep insb"), out8 = CODE32(MARK "rep outsb");
    set_segment(TARGET, DATA, 1, RW | RING3);
    in_flat(3, in8);                    /* two bytes fit */
    in.eflags |= F_IOPL;
    in.es = TARGET | 3;
    in.ecx = 4;
    in.edx = 0x300;
    run();
    check_fault("ins", V_GP, 0);
    check("ins.edi", in.edi, 2);
    check("ins.ecx", in.ecx, 2);
    in_flat(3, out8);
    in.eflags |= F_IOPL;
    in.ds = TARGET | 3;
    in.ecx = 4;
    in.edx = 0x300;
    run();
    check_fault("outs", V_GP, 0);
    check("outs.esi", in.esi, 2);
    check("outs.ecx", in.ecx, 2);
}

void guest_main(void)
{
    limits();
    segments();
}
