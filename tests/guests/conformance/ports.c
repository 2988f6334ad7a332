/* IN, OUT, INS, OUTS: sizes, REP, faults, IOPL and the I/O permission map (SDM 1 ch. 18). Uses the
   16550's scratch register and ports that nothing answers. */
#include "guest.h"

enum { SCRATCH = 0x3FF, NOBODY = 0x6000, MAP = 104 /* offset of the map in the TSS */ };

static u8 buffer[64] UDATA;

static void test_sizes(void)
{
    u64 garbage = 0x1122334455667788;
    void *out8_dx = CODE("out %al, %dx; mov $0, %al; in %dx, %al");
    run_with(0, out8_dx, 0xA5, 0, SCRATCH);
    check_end("out-in.byte", out8_dx);
    CHECK("out-in.byte.value", trap.c.r[RAX], 0xA5);
    run_with(0, CODE("in %dx, %al"), garbage, 0, SCRATCH);
    CHECK("in.al-keeps-rest", trap.c.r[RAX], (garbage & ~0xFFul) | 0xA5);
    run_with(0, CODE("in %dx, %ax"), garbage, 0, NOBODY);
    CHECK("in.ax-keeps-rest", trap.c.r[RAX], garbage | 0xFFFF);
    run_with(0, CODE("in %dx, %eax"), garbage, 0, NOBODY);
    CHECK("in.eax-zero-extends", trap.c.r[RAX], 0xFFFFFFFF);
    run_with(0, CODE("rex.w in %dx, %eax"), garbage, 0, NOBODY);
    CHECK("in.rex-w-is-32-bits", trap.c.r[RAX], 0xFFFFFFFF);
    run_with(0, CODE("in $0xEE, %al"), garbage, 0, 0);
    CHECK("in.immediate", trap.c.r[RAX], garbage | 0xFF);
    run_with(0, CODE("out %al, %dx; out %ax, %dx; out %eax, %dx; out %al, $0xEE"), garbage, 0,
             0xFFFFFFFFFFFF0000 | NOBODY);
    CHECK("out.nobody", trap.vector, V_END);
    CHECK("out.keeps-rax", trap.c.r[RAX], garbage);
}

static void string_run(const char *name, void *code, u64 port, u64 count, u64 flags, u64 rcx,
                       i64 moved)
{
    struct cpu c = at_cpl0(code);
    c.r[RDX] = port;
    c.r[RCX] = count;
    c.r[RSI] = c.r[RDI] = (u64)buffer + 32;
    c.r[RAX] = 0x1122334455667788;
    c.rflags |= flags;
    run(&c);
    check_end(name, code);
    CHECK(with(name, "rcx"), trap.c.r[RCX], rcx);
    CHECK(with(name, "pointer"), trap.c.r[RSI] + trap.c.r[RDI], 2 * ((u64)buffer + 32) + (u64)moved);
    CHECK(with(name, "rax"), trap.c.r[RAX], 0x1122334455667788);
    CHECK(with(name, "flags"), trap.c.rflags, flags | F_1);
}

static void test_strings(void)
{
    for (u32 i = 0; i < sizeof buffer; i++)
        buffer[i] = (u8)(0x40 + i);
    string_run("outsb", CODE("outsb"), SCRATCH, 7, 0, 7, 1);
    CHECK("outsb.value", in8(SCRATCH), 0x60);
    string_run("rep-outsb", CODE("rep outsb"), SCRATCH, 5, 0, 0, 5);
    CHECK("rep-outsb.last", in8(SCRATCH), 0x64);
    string_run("rep-outsb-down", CODE("rep outsb"), SCRATCH, 3, F_DF, 0, -3);
    CHECK("rep-outsb-down.last", in8(SCRATCH), 0x5E);
    string_run("rep-outsb-zero", CODE("rep outsb"), SCRATCH, 0, F_CF | F_ZF, 0, 0);
    CHECK("rep-outsb-zero.none", in8(SCRATCH), 0x5E);
    string_run("outsw", CODE("outsw"), NOBODY, 1, 0, 1, 2);
    string_run("rep-outsl", CODE("rep outsl"), NOBODY, 4, 0, 0, 16);

    string_run("insb", CODE("insb"), SCRATCH, 9, 0, 9, 1);
    CHECK("insb.value", buffer[32], 0x5E);
    CHECK("insb.next", buffer[33], 0x61);
    string_run("rep-insb", CODE("rep insb"), SCRATCH, 4, 0, 0, 4);
    CHECK("rep-insb.last", *(u32 *)(buffer + 32), 0x5E5E5E5E);
    CHECK("rep-insb.next", buffer[36], 0x64);
    string_run("rep-insl-down", CODE("rep insl"), NOBODY, 2, F_DF, 0, -8);
    CHECK("rep-insl-down.value", *(u64 *)(buffer + 28), ~0ul);
    CHECK("rep-insl-down.below", buffer[27], 0x5B);
    string_run("insw", CODE("insw"), NOBODY, 1, 0, 1, 2);

    /* 32-bit addresses and counts by 67h; FS for the source of OUTS. */
    struct cpu c = at_cpl0(CODE("addr32 rep outsb"));
    c.r[RDX] = SCRATCH;
    c.r[RCX] = 0xFFFFFFFF00000002;
    c.r[RSI] = 0xFFFFFFFF00000000 | (u64)buffer;
    run(&c);
    CHECK("addr32-outsb.rcx", trap.c.r[RCX], 0);
    CHECK("addr32-outsb.rsi", trap.c.r[RSI], (u64)buffer + 2);
    CHECK("addr32-outsb.value", in8(SCRATCH), 0x41);
    write_msr(MSR_FS_BASE, (u64)buffer);
    c = at_cpl0(CODE("fs outsb"));
    c.r[RDX] = SCRATCH;
    c.r[RSI] = 5;
    run(&c);
    CHECK("fs-outsb.value", in8(SCRATCH), 0x45);
    write_msr(MSR_FS_BASE, 0);
}

/* A fault in the middle: what was done is done, the registers say how far. */
static void test_string_faults(void)
{
    u64 page = WINDOW;
    void *ins = CODE("rep insb"), *outs = CODE("rep outsb");
    map4k(page, FREE_RAM, P_P | P_W | P_U);
    memset((void *)FREE_RAM, 0x33, 4096);
    out8(SCRATCH, 0x77);
    struct cpu c = at_cpl0(ins);
    c.r[RDX] = SCRATCH;
    c.r[RCX] = 10;
    c.r[RDI] = c.r[RSI] = page + 4096 - 3;
    run(&c);
    check_pf("rep-insb.fault", ins, PF_W, page + 4096);
    CHECK("rep-insb.fault.rcx", trap.c.r[RCX], 7);
    CHECK("rep-insb.fault.rdi", trap.c.r[RDI], page + 4096);
    CHECK("rep-insb.fault.done", *(u32 *)(FREE_RAM + 4092), 0x77777733);
    c.rip = (u64)outs;
    run(&c);
    check_pf("rep-outsb.fault", outs, 0, page + 4096);
    CHECK("rep-outsb.fault.rcx", trap.c.r[RCX], 7);
    CHECK("rep-outsb.fault.rsi", trap.c.r[RSI], page + 4096);
    map4k(page, FREE_RAM, P_P | P_U);
    c.rip = (u64)ins;
    run(&c);
    check_pf("rep-insb.read-only", ins, PF_W | PF_P, page + 4096 - 3);
    CHECK("rep-insb.read-only.rcx", trap.c.r[RCX], 10);
    c.r[RDI] = 0x8000000000000000;
    run(&c);
    check_fault("rep-insb.non-canonical", ins, V_GP, 0);
    c.r[RCX] = 0;
    run(&c);
    check_end("rep-insb.zero-touches-nothing", ins);
}

static void *access_code(int size)
{
    return size == 1 ? CODE("in %dx, %al") : size == 2 ? CODE("in %dx, %ax") : CODE("in %dx, %eax");
}

static void allow_check(const char *name, u64 port, int size, int allowed)
{
    void *code = access_code(size);
    char full[96];
    run_with(3, code, 0, 0, port);
    format_name(full, "%s.size%d", name, size);
    if (allowed)
        check_end(full, code);
    else
        check_fault(full, code, V_GP, 0);
}

static void deny(u64 port, int denied)
{
    tss.io[port / 8] = (u8)((tss.io[port / 8] & ~(1 << port % 8)) | denied << port % 8);
}

static void test_map(void)
{
    tss.iomap = MAP;
    memset(tss.io, 0, sizeof tss.io);
    tss.io[8192] = 0xFF;
    reload_tss(MAP + 8192);
    for (int size = 1; size <= 4; size *= 2) {
        allow_check("map.all-allowed", NOBODY, size, 1);
        for (u64 bit = 0; bit < 8; bit++)
            for (int denied = -1; denied <= size; denied++) {
                u64 port = NOBODY + 0x100 + bit;
                char name[64];
                deny(port + (u64)(i64)denied, 1);
                format_name(name, "map.bit%lu.denied%d", bit, denied);
                allow_check(name, port, size, denied < 0 || denied >= size);
                deny(port + (u64)(i64)denied, 0);
            }
        /* Ports at the very end need the map's closing byte of ones. */
        allow_check("map.last-port", 0x10000 - (u64)size, size, 1);
    }
    allow_check("map.over-the-end", 0xFFFF, 2, 0);
    allow_check("map.over-the-end", 0xFFFD, 4, 0);
    tss.io[8192] = 0;

    /* The limit: both bytes that a port's bits may lie in must be inside. */
    u64 port = 0x6010;
    reload_tss(MAP + port / 8 + 1);
    allow_check("limit.two-bytes", port, 1, 1);
    allow_check("limit.two-bytes", port + 7, 1, 1);
    allow_check("limit.next-port", port + 8, 1, 0);
    reload_tss(MAP + port / 8);
    allow_check("limit.one-byte", port, 1, 0);
    allow_check("limit.below", port - 1, 1, 1);
    reload_tss(103);
    allow_check("limit.no-map", port, 1, 0);
    reload_tss(MAP + 8192);
    tss.iomap = 0xFFFF;
    allow_check("limit.base-beyond", port, 1, 0);
    tss.iomap = 0x3000;         /* beyond the limit for every port */
    allow_check("limit.base-3000", port, 1, 0);
    tss.iomap = MAP + 1;        /* the map shifted by 8 ports; read from memory each time */
    memset(tss.io, 0, sizeof tss.io);
    deny(port + 8, 1);
    allow_check("map.base-moved", port, 1, 0);
    allow_check("map.base-moved-next", port + 1, 1, 1);
    tss.iomap = MAP;
    allow_check("map.base-back", port, 1, 1);

    void *outs = CODE("outsb"), *ins = CODE("rep insb");
    deny(port, 1);
    struct cpu c = at_cpl3(outs);
    c.r[RDX] = port;
    c.r[RSI] = c.r[RDI] = 0x8000000000000000;
    run(&c);
    check_fault("map.outs-denied", outs, V_GP, 0);
    c.rip = (u64)ins;
    c.r[RCX] = 0;
    run(&c);
    if (trap.vector == V_GP)    /* with a count of 0 either is seen on processors */
        check_fault("map.ins-denied-zero", ins, V_GP, 0);
    else
        check_end("map.ins-denied-zero", ins);
    deny(port, 0);

    /* IOPL 3 needs no map, CPL 0 neither. */
    memset(tss.io, 0xFF, sizeof tss.io);
    allow_check("map.all-denied", port, 1, 0);
    void *in = CODE("in %dx, %al");
    for (u64 iopl = 0; iopl < 4; iopl++) {
        c = at_cpl3(in);
        c.r[RDX] = port;
        c.rflags |= iopl << 12;
        run(&c);
        char name[64];
        format_name(name, "iopl%lu", iopl);
        if (iopl == 3)
            check_end(name, in);
        else
            check_fault(name, in, V_GP, 0);
    }
    run_with(0, in, 0, 0, port);
    check_end("map.cpl0", in);
    reload_tss(103);
}

void guest_main(void)
{
    test_sizes();
    test_strings();
    test_string_faults();
    test_map();
}
